"""Frames that clients send.

`conversation_id` names the conversation on a session's connection, where it is required; on a conversation's own
connection it may be left out.
"""

from typing import ClassVar, TypeAlias

from pulse_trio.protocol.fields import (
    ClientId,
    Content,
    ConversationId,
    Epoch,
    FeatureNames,
    MeRev,
    MessageId,
    Revs,
    Seq,
    Token,
    UserIds,
)
from pulse_trio.protocol.frames import Frame


class SendMessage(Frame, frozen=True, tag="message"):
    """Stores a message and delivers it to every member of the conversation."""

    content: Content
    client_id: ClientId | None = None
    conversation_id: ConversationId | None = None


class EditMessage(Frame, frozen=True, tag="edit"):
    """Replaces the content of a message of one's own. `client_id` only comes back in an error."""

    message_id: MessageId
    content: Content
    client_id: ClientId | None = None
    conversation_id: ConversationId | None = None


class DeleteMessage(Frame, frozen=True, tag="delete"):
    """Deletes a message of one's own, or any message as the conversation's owner."""

    message_id: MessageId
    client_id: ClientId | None = None
    conversation_id: ConversationId | None = None


class SendTyping(Frame, frozen=True, tag="typing"):
    """Notifies the others that this user is typing."""

    conversation_id: ConversationId | None = None


class SendRead(Frame, frozen=True, tag="read"):
    """Moves the user's read position up to this `seq`; a lower one changes nothing."""

    seq: Seq
    conversation_id: ConversationId | None = None


class SendPing(Frame, frozen=True, tag="ping"):
    """Requests a `pong` (browsers cannot send WebSocket pings)."""


class SendAuth(Frame, frozen=True, tag="auth"):
    """Renews the token of the connection before the old one expires."""

    token: Token


class SendResume(Frame, frozen=True, tag="resume"):
    """Resumes these conversations after the last rev seen in each; the first frame of a session.

    `features` replace those of the handshake. `me` resumes the user's own sequence after the last `me_rev` seen.
    """

    is_session_only: ClassVar[bool] = True
    revs: Revs
    epoch: Epoch | None = None
    features: FeatureNames | None = None
    me: MeRev | None = None


class SendWatch(Frame, frozen=True, tag="watch"):
    """Follows the presence of these users, now and on every change; replaces the list before. Sessions only."""

    is_session_only: ClassVar[bool] = True
    user_ids: UserIds


AboutConversation: TypeAlias = SendMessage | EditMessage | DeleteMessage | SendTyping | SendRead
"""Frames about one conversation."""

ClientFrame: TypeAlias = AboutConversation | SendPing | SendAuth | SendResume | SendWatch
