"""The REST resource of conversations: create, list, show, rename, and list the connected users."""

from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType
from quart import Blueprint, Response

from pulse_trio.conversations import groups
from pulse_trio.edge.responses import answer
from pulse_trio.edge.rest.accounts import UserBody, user_body
from pulse_trio.edge.rest.cursors import Cursor, NextCursor, next_cursor, number_of, reject_offset
from pulse_trio.edge.rest.messages import MessageBody, message_body
from pulse_trio.edge.rest.operation import PageQuery, Time, current_user, json_time, operation
from pulse_trio.edge.rest.paths import conversation_key
from pulse_trio.edge.rest.user_ids import UserIds, errors_about, read_user_ids, record_added
from pulse_trio.edge.services import services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.protocol.fields import NOT_BLANK_PATTERN, TEXT_PATTERN
from pulse_trio.store.base import LISTED_MEMBERS, SHOWN_MEMBERS, Conversation

MAX_NAME_CHARS: Final = 100
MAX_DESCRIPTION_CHARS: Final = 1_000

conversations = Blueprint("conversations", __name__, url_prefix="/api/chat/conversations")

Name = Annotated[
    str,
    Meta(
        max_length=MAX_NAME_CHARS,
        description="Not only white space.",
        examples=["Team Discussion"],
        extra_json_schema={"pattern": NOT_BLANK_PATTERN},  # documented here, checked by `_check_name`
    ),
]
Description = Annotated[
    str,
    Meta(
        max_length=MAX_DESCRIPTION_CHARS,
        examples=["Discuss project plans"],
        extra_json_schema={"pattern": TEXT_PATTERN},  # documented here; all texts are checked
    ),
]


class ConversationRequest(msgspec.Struct):
    """A conversation to create. The caller is always a member."""

    name: Name | None = None
    description: Description | None = None
    is_group: bool = False
    participant_ids: UserIds = []


class ConversationChanges(msgspec.Struct):
    """The changes of a group; a field that is left out keeps its value."""

    name: Name | UnsetType | None = UNSET
    description: Description | UnsetType | None = UNSET


class ConversationBody(msgspec.Struct):
    """A conversation with its first members and its newest message."""

    id: UUID
    name: str | None
    description: str | None
    is_group: bool
    owner_id: Annotated[UUID, Meta(description="Its creator; after they left, its longest-standing member.")]
    created_at: Time
    updated_at: Annotated[Time, Meta(description="The time of its latest activity.")]
    users: Annotated[
        list[UserBody],
        Meta(
            description=f"Its first members, in the order they were added: up to {SHOWN_MEMBERS}, in a list of "
            f"conversations up to {LISTED_MEMBERS}. `listMembers` returns all."
        ),
    ]
    member_count: Annotated[int, Meta(description="The number of members.")]
    has_more_users: Annotated[bool, Meta(description="There are more members than `users` has.")]
    last_message: MessageBody | None
    total_messages: int
    last_seq: int
    last_rev: int
    read_seq: Annotated[int, Meta(description="The `seq` up to which the caller has read.")]
    unread_count: Annotated[int, Meta(description="`last_seq` minus `read_seq`.")]
    epoch: Annotated[
        str, Meta(description="Identifies the history. If it changes, reload: acknowledged messages may be gone.")
    ]


class ConversationsQuery(PageQuery):
    """The page of conversations to return."""

    cursor: Cursor | UnsetType = UNSET


class ActiveUsers(msgspec.Struct):
    """The users that are connected to a conversation."""

    active_users: list[UUID]
    active_count: int


class ConversationList(msgspec.Struct):
    """A page of conversations, the one with the most recent activity first."""

    conversations: list[ConversationBody]
    total: int
    limit: int
    offset: int
    next_cursor: NextCursor


@conversations.post("")
@operation(
    name="createConversation",
    tags=("conversations",),
    body=ConversationRequest,
    responses={201: ConversationBody, 200: ConversationBody},
    errors=(ErrorCode.UNKNOWN_USER, ErrorCode.TOO_MANY_MEMBERS),
    large=True,
)
async def create_conversation(body: ConversationRequest) -> Response:
    """Create a conversation.

    201 for a new one. Two users have one one-to-one conversation: if it exists, it is returned with 200.
    """
    service, user, field = services(), current_user(), "participant_ids"
    _check_name(body.name)
    service.limits.groups.start(user.id)
    others = [user_id for user_id in read_user_ids(body.participant_ids, field) if user_id != user.id]
    if not body.is_group and len(others) != 1:
        message = f"`{field}` of a one-to-one conversation must name exactly one other user"
        raise PulseError(ErrorCode.INVALID_FIELD, message, field=field)
    with errors_about(field):
        conversation, is_new = await groups.create(
            service, user, others, is_group=body.is_group, name=body.name, description=body.description
        )
    if is_new:
        record_added(user.id, conversation.id, others)
    return answer(conversation_body(conversation), 201 if is_new else 200)


@conversations.get("")
@operation(
    name="listConversations",
    tags=("conversations",),
    query=ConversationsQuery,
    responses={200: ConversationList},
    large=True,
)
async def list_conversations(query: ConversationsQuery) -> Response:
    """List the caller's conversations, the one with the most recent activity first.

    Page with `cursor`: a conversation that moves to the top meanwhile shifts no other one. `offset` counts from the
    top.
    """
    user_id = current_user().id
    reject_offset(query.cursor, query.offset)
    page = await services().store.list_conversations(
        user_id,
        limit=query.limit,
        offset=query.offset,
        before=number_of(user_id.bytes, query.cursor),
        max_bytes=services().settings.page_bytes,
    )
    bodies = [conversation_body(conversation) for conversation in page.conversations]
    cursor = next_cursor(user_id.bytes, page.next_before)
    return answer(ConversationList(bodies, page.total, query.limit, query.offset, cursor))


@conversations.get("/<conversation_id>")
@operation(
    name="getConversation",
    tags=("conversations",),
    responses={200: ConversationBody},
    errors=(ErrorCode.NOT_FOUND,),
    large=True,
)
async def get_conversation(conversation_id: str) -> Response:
    """Show a conversation."""
    return answer(conversation_body(await groups.get(services(), conversation_key(conversation_id), current_user())))


@conversations.get("/<conversation_id>/active")
@operation(
    name="listActiveUsers",
    tags=("conversations",),
    responses={200: ActiveUsers},
    errors=(ErrorCode.NOT_FOUND,),
    large=True,
)
async def list_active_users(conversation_id: str) -> Response:
    """List the ids of the users that are connected to a conversation, in the order they connected."""
    active = await groups.active_users(services(), conversation_key(conversation_id), current_user())
    return answer(ActiveUsers(active, len(active)))


@conversations.patch("/<conversation_id>")
@operation(
    name="changeConversation",
    tags=("conversations",),
    body=ConversationChanges,
    responses={200: ConversationBody},
    errors=(ErrorCode.NOT_FOUND, ErrorCode.NOT_A_GROUP),
    large=True,
)
async def change_conversation(conversation_id: str, body: ConversationChanges) -> Response:
    """Change the name or the description of a group; any member may."""
    service, user, key = services(), current_user(), conversation_key(conversation_id)
    changes = {
        name: value
        for name, value in (("name", body.name), ("description", body.description))
        if not isinstance(value, UnsetType)
    }
    if changes:
        _check_name(body.name)
        service.limits.groups.start(user.id)
    return answer(conversation_body(await groups.update(service, key, user, changes)))


def conversation_body(conversation: Conversation) -> ConversationBody:
    """Returns a conversation as REST shows it."""
    last = conversation.last_message
    return ConversationBody(
        id=conversation.id,
        name=conversation.name,
        description=conversation.description,
        is_group=conversation.is_group,
        owner_id=conversation.owner_id,
        created_at=json_time(conversation.created_at),
        updated_at=json_time(conversation.updated_at),
        users=[user_body(user) for user in conversation.members],
        member_count=conversation.member_count,
        has_more_users=conversation.member_count > len(conversation.members),
        last_message=None if last is None else message_body(last),
        total_messages=conversation.head.last_seq,
        last_seq=conversation.head.last_seq,
        last_rev=conversation.head.last_rev,
        read_seq=conversation.read_seq,
        unread_count=conversation.head.last_seq - conversation.read_seq,
        epoch=services().store.epoch,
    )


def _check_name(name: str | UnsetType | None) -> None:
    if isinstance(name, str) and not name.strip():
        message = "`name` must not be only white space; null is no name"
        raise PulseError(ErrorCode.INVALID_FIELD, message, field="name")
