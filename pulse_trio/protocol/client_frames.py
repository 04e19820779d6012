"""Frames that clients send.

`conversation_id` names the conversation on a session's connection, where it is required; on a conversation's own
connection it may be left out.
"""

from typing import ClassVar, TypeAlias

from pulse_trio.protocol.fields import ClientId, Content, ConversationId, Epoch, MessageId, Revs, Seq, Token, UserIds
from pulse_trio.protocol.frames import Frame


class SendMessage(Frame, frozen=True, tag="message"):
    """Store this and deliver it to every member of the conversation."""

    content: Content
    client_id: ClientId | None = None
    conversation_id: ConversationId | None = None


class EditMessage(Frame, frozen=True, tag="edit"):
    """Give a message of one's own new content. `client_id` is only told back in an error."""

    message_id: MessageId
    content: Content
    client_id: ClientId | None = None
    conversation_id: ConversationId | None = None


class DeleteMessage(Frame, frozen=True, tag="delete"):
    """Delete a message of one's own, or any as the conversation's owner."""

    message_id: MessageId
    client_id: ClientId | None = None
    conversation_id: ConversationId | None = None


class SendTyping(Frame, frozen=True, tag="typing"):
    """Tell the others that this user is typing."""

    conversation_id: ConversationId | None = None


class SendRead(Frame, frozen=True, tag="read"):
    """Everything up to this seq has been read; a lower one than before changes nothing."""

    seq: Seq
    conversation_id: ConversationId | None = None


class SendPing(Frame, frozen=True, tag="ping"):
    """Answer with a `pong` (browsers cannot send WebSocket pings)."""


class SendAuth(Frame, frozen=True, tag="auth"):
    """Go on with this token; the old one is about to expire."""

    token: Token


class SendResume(Frame, frozen=True, tag="resume"):
    """The first frame of a session: go on in these conversations after the rev last seen in each."""

    is_session_only: ClassVar[bool] = True
    revs: Revs
    epoch: Epoch | None = None


class SendWatch(Frame, frozen=True, tag="watch"):
    """Of a session: tell it who of these is online, now and whenever that changes; in place of those before."""

    is_session_only: ClassVar[bool] = True
    user_ids: UserIds


ConversationFrame: TypeAlias = SendMessage | EditMessage | DeleteMessage | SendTyping | SendRead
"""What a client sends about one conversation."""

ClientFrame: TypeAlias = ConversationFrame | SendPing | SendAuth | SendResume | SendWatch
