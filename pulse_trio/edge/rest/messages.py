"""Messages: the history of a conversation, and what is said without a WebSocket."""

from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType
from quart import Blueprint, Response

from pulse_trio.edge.responses import answer, empty
from pulse_trio.edge.rest.operation import PageQuery, Time, current_user, operation
from pulse_trio.edge.rest.paths import conversation_key, no_conversation
from pulse_trio.edge.services import services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid
from pulse_trio.protocol import content_problem, timestamp
from pulse_trio.protocol.fields import ClientId
from pulse_trio.store.base import Message, NotAMember

SEQ_MOST: Final = 2**53 - 1  # the largest whole number that every JSON reader keeps exact (RFC 8259, section 6)

Content = Annotated[
    str,
    Meta(
        description="Not only white space; at most `PULSE_MAX_CONTENT_CHARS` characters.",
        examples=["Hello!"],
        extra_json_schema={"minLength": 1},  # described here, checked with the content's other rules
    ),
]

_CONTENT_ERRORS: Final = (ErrorCode.EMPTY_CONTENT, ErrorCode.CONTENT_TOO_LONG, ErrorCode.INVALID_TEXT)
_REVISION_ERRORS: Final = (
    ErrorCode.NOT_FOUND,
    ErrorCode.NO_SUCH_MESSAGE,
    ErrorCode.NOT_YOUR_MESSAGE,
    ErrorCode.NOT_STORED,
)

messages = Blueprint("messages", __name__, url_prefix="/api/chat/conversations/<conversation_id>/messages")


class MessageQuery(PageQuery):
    """Which part of the history to return."""

    # UNSET and not None: msgspec would take the text `null` for None.
    before_seq: (
        Annotated[int, Meta(ge=1, le=SEQ_MOST, description="Only messages before this one: the newest of them.")]
        | UnsetType
    ) = UNSET
    after_seq: (
        Annotated[int, Meta(ge=0, le=SEQ_MOST, description="Only messages after this one: the oldest of them.")]
        | UnsetType
    ) = UNSET


class NewMessageBody(msgspec.Struct):
    """What to say."""

    content: Content
    client_id: ClientId | None = None


class MessageChange(msgspec.Struct):
    """The new content of a message."""

    content: Content


class MessageBody(msgspec.Struct):
    """A message. A deleted one is a tombstone: its content is empty."""

    id: UUID
    conversation_id: UUID
    sender_id: UUID
    sender_username: str
    content: str
    is_edited: bool
    is_deleted: bool
    created_at: Time
    updated_at: Time
    seq: Annotated[int, Meta(description="Where it stands in its conversation: 1, 2, 3 …")]
    rev: Annotated[int, Meta(description="Its latest change, numbered within its conversation.")]
    client_id: ClientId | UnsetType = UNSET


class MessageList(msgspec.Struct):
    """A page of messages, newest first. `total` counts all messages of the conversation."""

    messages: list[MessageBody]
    total: int
    limit: int
    offset: int


@messages.get("")
@operation(
    name="listMessages",
    tags=("messages",),
    query=MessageQuery,
    responses={200: MessageList},
    errors=(ErrorCode.NOT_FOUND,),
    large=True,
)
async def list_messages(conversation_id: str, query: MessageQuery) -> Response:
    """Read the history, newest first.

    A page costs the same at every depth. `offset` counts from the newest message; `before_seq` and
    `after_seq` stay exact while new messages come, and do not go together with `offset`.
    """
    before_seq = None if query.before_seq is UNSET else query.before_seq
    after_seq = None if query.after_seq is UNSET else query.after_seq
    if query.offset and (before_seq is not None or after_seq is not None):
        raise PulseError(
            ErrorCode.INVALID_FIELD,
            "`offset` does not go together with `before_seq` or `after_seq`",
            field="offset",
        )
    key = conversation_key(conversation_id)
    try:
        page = await services().store.page_messages(
            key,
            current_user().id,
            limit=query.limit,
            offset=query.offset,
            before_seq=before_seq,
            after_seq=after_seq,
        )
    except NotAMember:
        raise no_conversation() from None
    bodies = [message_body(message) for message in page.messages]
    return answer(MessageList(bodies, page.total, query.limit, query.offset))


@messages.post("")
@operation(
    name="postMessage",
    tags=("messages",),
    body=NewMessageBody,
    responses={201: MessageBody, 200: MessageBody},
    errors=(
        ErrorCode.NOT_FOUND,
        ErrorCode.NOT_STORED,
        ErrorCode.CLIENT_ID_REUSED,
        *_CONTENT_ERRORS,
    ),
    large=True,
)
async def post_message(conversation_id: str, body: NewMessageBody) -> Response:
    """Say something without a WebSocket: for programs that only send.

    The answer says that it is stored, and where it stands. With a `client_id` it may be sent again, until there is an
    answer: 200 is the message that is stored already. Everybody connected gets `message`.
    """
    key, user, parts = conversation_key(conversation_id), current_user(), services()
    _check_content(body.content)
    parts.limits.messages.start(user.id)
    # Before the room is opened: nobody opens a conversation that is not theirs.
    if await parts.store.membership(key, user.id) is None:
        raise no_conversation()
    try:
        message, is_new = await parts.hub.post(key, user, body.content, body.client_id)
    except NotAMember:
        raise no_conversation() from None
    return answer(message_body(message), 201 if is_new else 200)


@messages.patch("/<message_id>")
@operation(
    name="editMessage",
    tags=("messages",),
    body=MessageChange,
    responses={200: MessageBody},
    errors=(*_REVISION_ERRORS, *_CONTENT_ERRORS),
    large=True,
)
async def edit_message(conversation_id: str, message_id: str, body: MessageChange) -> Response:
    """Give a message new content; its sender may.

    It keeps its `seq` and takes the next `rev`. Everybody connected gets `message_updated`.
    """
    _check_content(body.content)
    return answer(message_body(await _revise(conversation_id, message_id, body.content)))


@messages.delete("/<message_id>")
@operation(name="deleteMessage", tags=("messages",), responses={204: None}, errors=_REVISION_ERRORS)
async def delete_message(conversation_id: str, message_id: str) -> Response:
    """Delete a message; its sender and the owner of the conversation may.

    A tombstone stays in its place, without content, with the next `rev`. Everybody connected gets
    `message_deleted`.
    """
    await _revise(conversation_id, message_id, None)
    return empty()


def _check_content(content: str) -> None:
    problem = content_problem(content, services().settings.max_content_chars)
    if problem is not None:
        raise PulseError(*problem, field="content")


async def _revise(conversation_id: str, message_id: str, content: str | None) -> Message:
    """Changes a message through its conversation's room, so that all see it in the same order."""
    key, message_key = conversation_key(conversation_id), parse_uuid(message_id)
    parts, user = services(), current_user()
    parts.limits.edits.start(user.id)
    # Before the room is opened: nobody opens a conversation that is not theirs.
    if await parts.store.membership(key, user.id) is None:
        raise no_conversation()
    if message_key is None:
        raise PulseError(ErrorCode.NO_SUCH_MESSAGE, "There is no such message in this conversation")
    try:
        return await parts.hub.revise(key, message_key, user, content)
    except NotAMember:
        raise no_conversation() from None


def message_body(message: Message) -> MessageBody:
    """A message as REST shows it."""
    return MessageBody(
        id=message.id,
        conversation_id=message.conversation_id,
        sender_id=message.sender_id,
        sender_username=message.sender_username,
        content=message.content,
        is_edited=message.is_edited,
        is_deleted=message.is_deleted,
        created_at=timestamp(message.created_at),
        updated_at=timestamp(message.updated_at),
        seq=message.seq,
        rev=message.rev,
        client_id=UNSET if message.client_id is None else message.client_id,
    )
