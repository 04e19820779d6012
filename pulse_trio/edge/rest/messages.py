"""The REST resource of messages: read the history, post, edit, delete."""

from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType
from quart import Blueprint, Response

from pulse_trio.conversations import groups
from pulse_trio.conversations import messages as use_cases
from pulse_trio.edge.audit import SecurityEvent, deletion_fields
from pulse_trio.edge.responses import answer, empty
from pulse_trio.edge.rest.operation import PageQuery, Time, current_user, json_time, operation
from pulse_trio.edge.rest.paths import conversation_key
from pulse_trio.edge.security_events import record_event
from pulse_trio.edge.services import Services, services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid
from pulse_trio.model import Message
from pulse_trio.protocol import content_problem
from pulse_trio.protocol.fields import NOT_BLANK_PATTERN, ClientId
from pulse_trio.store.base import StaleRev

MAX_SEQ: Final = 2**53 - 1  # the largest whole number that every JSON reader keeps exact (RFC 8259, section 6)

Content = Annotated[
    str,
    Meta(
        description="Not only white space; at most `PULSE_MAX_CONTENT_CHARS` characters.",
        examples=["Hello!"],
        extra_json_schema={"minLength": 1, "pattern": NOT_BLANK_PATTERN},  # documented here, checked below
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
    """The part of the history to return."""

    # UNSET and not None: msgspec would take the text `null` for None.
    before_seq: (
        Annotated[int, Meta(ge=1, le=MAX_SEQ, description="Only messages before this one: the newest of them.")]
        | UnsetType
    ) = UNSET
    after_seq: (
        Annotated[int, Meta(ge=0, le=MAX_SEQ, description="Only messages after this one: the oldest of them.")]
        | UnsetType
    ) = UNSET


class NewMessageBody(msgspec.Struct):
    """A message to post."""

    content: Content
    client_id: ClientId | None = None


class MessageChange(msgspec.Struct):
    """The new content of a message."""

    content: Content
    if_rev: Annotated[int, Meta(ge=1, le=MAX_SEQ, description="Only if the message has this `rev`.")] | UnsetType = (
        UNSET
    )


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
    seq: Annotated[int, Meta(description="Its position in the conversation: 1, 2, 3 …")]
    rev: Annotated[int, Meta(description="The number of its latest change within the conversation.")]
    client_id: ClientId | UnsetType = UNSET


class ConflictBody(msgspec.Struct):
    """The error about an edit of a message that has changed since, and the message as it now is."""

    code: str
    message: str
    field: str
    current: MessageBody


class MessageList(msgspec.Struct):
    """A page of messages, newest first. `total` counts all messages of the conversation."""

    messages: list[MessageBody]
    total: int
    limit: int
    offset: int
    has_more: Annotated[
        bool,
        Meta(
            description="There are further messages within the bounds that were given: older ones, with `after_seq` "
            "alone newer ones. A page may be shorter than `limit`: its bytes are bounded."
        ),
    ]


@messages.get("")
@operation(
    name="listMessages",
    tags=("messages",),
    query=MessageQuery,
    responses={200: MessageList},
    errors=(ErrorCode.NOT_FOUND,),
    large=True,
    compressed=True,
)
async def list_messages(conversation_id: str, query: MessageQuery) -> Response:
    """Read the history, newest first.

    A page costs the same at every depth. `offset` counts from the newest message. `before_seq` and `after_seq` stay
    exact while new messages arrive; they cannot be combined with `offset`.
    """
    before_seq = None if query.before_seq is UNSET else query.before_seq
    after_seq = None if query.after_seq is UNSET else query.after_seq
    if query.offset and (before_seq is not None or after_seq is not None):
        message = "`offset` cannot be combined with `before_seq` or `after_seq`"
        raise PulseError(ErrorCode.INVALID_FIELD, message, field="offset")
    page = await services().store.page_messages(
        conversation_key(conversation_id),
        current_user().id,
        limit=query.limit,
        offset=query.offset,
        before_seq=before_seq,
        after_seq=after_seq,
        max_bytes=services().settings.page_bytes,
    )
    bodies = [message_body(message) for message in page.messages]
    return answer(MessageList(bodies, page.total, query.limit, query.offset, page.has_more))


@messages.post("")
@operation(
    name="postMessage",
    tags=("messages",),
    body=NewMessageBody,
    responses={201: MessageBody, 200: MessageBody},
    errors=(ErrorCode.NOT_FOUND, ErrorCode.NOT_STORED, ErrorCode.CLIENT_ID_REUSED, *_CONTENT_ERRORS),
    large=True,
)
async def post_message(conversation_id: str, body: NewMessageBody) -> Response:
    """Post a message without a WebSocket.

    The answer comes when the message is stored. With a `client_id`, resend it until there is an answer: 200 returns
    the message that is stored already. Every connection to the conversation gets `message`.
    """
    service, user, key = services(), current_user(), conversation_key(conversation_id)
    _check_content(service, body.content)
    service.limits.messages.start(user.id)
    message, is_new = await use_cases.post(service, key, user, body.content, body.client_id)
    return answer(message_body(message), 201 if is_new else 200)


@messages.patch("/<message_id>")
@operation(
    name="editMessage",
    tags=("messages",),
    body=MessageChange,
    responses={200: MessageBody, 409: ConflictBody},
    errors=(*_REVISION_ERRORS, *_CONTENT_ERRORS, ErrorCode.CONFLICT),
    large=True,
)
async def edit_message(conversation_id: str, message_id: str, body: MessageChange) -> Response:
    """Give a message new content; its sender may.

    It keeps its `seq` and gets the next `rev`. Every connection to the conversation gets `message_updated`. With
    `if_rev` an edit of a message that has changed since is refused: 409 has the message as it now is.
    """
    service, user = services(), current_user()
    _check_content(service, body.content)
    key = conversation_key(conversation_id)
    service.limits.edits.start(user.id)
    message_key = await _message_key(service, key, message_id)
    if_rev = None if body.if_rev is UNSET else body.if_rev
    try:
        return answer(message_body(await use_cases.edit(service, key, message_key, user, body.content, if_rev=if_rev)))
    except StaleRev as stale:
        code = ErrorCode.CONFLICT
        return answer(ConflictBody(code.code, code.sentence, "if_rev", message_body(stale.current)), code.status)


@messages.delete("/<message_id>")
@operation(name="deleteMessage", tags=("messages",), responses={204: None}, errors=_REVISION_ERRORS)
async def delete_message(conversation_id: str, message_id: str) -> Response:
    """Delete a message; its sender and the owner of the conversation may.

    A tombstone without content stays in its place, with the next `rev`. Every connection to the conversation gets
    `message_deleted`.
    """
    service, user, key = services(), current_user(), conversation_key(conversation_id)
    service.limits.edits.start(user.id)
    message = await use_cases.delete(service, key, await _message_key(service, key, message_id), user)
    if message.sender_id != user.id:
        record_event(SecurityEvent.MESSAGE_REMOVED, user_id=user.id, **deletion_fields(message))
    return empty()


def message_body(message: Message) -> MessageBody:
    """Returns a message as REST shows it."""
    return MessageBody(
        id=message.id,
        conversation_id=message.conversation_id,
        sender_id=message.sender_id,
        sender_username=message.sender_username,
        content=message.content,
        is_edited=message.is_edited,
        is_deleted=message.is_deleted,
        created_at=json_time(message.created_at),
        updated_at=json_time(message.updated_at),
        seq=message.seq,
        rev=message.rev,
        client_id=UNSET if message.client_id is None else message.client_id,
    )


def _check_content(service: Services, content: str) -> None:
    problem = content_problem(content, service.settings.max_content_chars)
    if problem is not None:
        raise PulseError(*problem, field="content")


async def _message_key(service: Services, conversation_id: UUID, text: str) -> UUID:
    """Parses the id of a message.

    Raises:
        NotAMember: it is not an id, and the caller is not a member: they must not learn that the conversation exists.
        PulseError: it is not an id, so there is no such message.
    """
    key = parse_uuid(text)
    if key is None:
        await groups.require_member(service, conversation_id, current_user())
        raise PulseError(ErrorCode.NO_SUCH_MESSAGE)
    return key
