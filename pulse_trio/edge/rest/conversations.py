"""Conversations: create, list, look at, and what a group needs to live."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Final
from uuid import UUID

import msgspec
import trio
from msgspec import UNSET, Meta, UnsetType
from quart import Blueprint, Response

from pulse_trio.edge.responses import answer, empty
from pulse_trio.edge.rest.accounts import UserBody, user_body
from pulse_trio.edge.rest.messages import MessageBody, message_body
from pulse_trio.edge.rest.operation import EXAMPLE_ID, PageQuery, Time, current_user, operation
from pulse_trio.edge.rest.paths import conversation_key, no_conversation
from pulse_trio.edge.services import services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid
from pulse_trio.protocol import timestamp
from pulse_trio.store.base import (
    LISTED_MEMBERS,
    SHOWN_MEMBERS,
    Conversation,
    NewConversation,
    NotAGroup,
    NotAMember,
    OwnerOnly,
    StoreUnavailable,
    TooManyMembers,
    UnknownUsers,
    User,
)

NAME_MAX_CHARS: Final = 100
DESCRIPTION_MAX_CHARS: Final = 1_000
IDS_MOST: Final = 1_000  # in one request; with the default PULSE_MAX_BODY_BYTES as many fit
IDS_SHOWN: Final = 10  # in an error about several ids
NAMES_SHOWN: Final = 3  # in the sentence about users who were added

conversations = Blueprint("conversations", __name__, url_prefix="/api/chat/conversations")

Name = Annotated[
    str, Meta(max_length=NAME_MAX_CHARS, description="Not only white space.", examples=["Team Discussion"])
]
Description = Annotated[str, Meta(max_length=DESCRIPTION_MAX_CHARS, examples=["Discuss project plans"])]
# Taken as texts, so that those that are no ids are named like those that are nobody's.
UserIds = Annotated[
    list[Annotated[str, Meta(extra_json_schema={"format": "uuid"})]],
    Meta(
        description="Ids of users, each once.",
        examples=[[EXAMPLE_ID]],
        max_length=IDS_MOST,
        extra_json_schema={"uniqueItems": True},
    ),
]


class ConversationRequest(msgspec.Struct):
    """A conversation to create. The caller is always a member."""

    name: Name | None = None
    description: Description | None = None
    is_group: bool = False
    participant_ids: UserIds = []


class ConversationChanges(msgspec.Struct):
    """What to change of a group; what is left out stays."""

    name: Name | UnsetType | None = UNSET
    description: Description | UnsetType | None = UNSET


class NewMembers(msgspec.Struct):
    """Users to add to a group."""

    user_ids: Annotated[UserIds, Meta(extra_json_schema={"minItems": 1, "uniqueItems": True})]


class ConversationBody(msgspec.Struct):
    """A conversation with its first members and its newest message."""

    id: UUID
    name: str | None
    description: str | None
    is_group: bool
    owner_id: Annotated[UUID, Meta(description="Its creator; after they left, its longest-standing member.")]
    created_at: Time
    updated_at: Annotated[Time, Meta(description="Its latest activity.")]
    users: Annotated[
        list[UserBody],
        Meta(
            description=f"Its first members, in the order they came: up to {SHOWN_MEMBERS}, in a list of conversations "
            f"up to {LISTED_MEMBERS}. `listMembers` has all."
        ),
    ]
    member_count: Annotated[int, Meta(description="How many members there are.")]
    last_message: MessageBody | None
    total_messages: int
    last_seq: int
    last_rev: int
    read_seq: Annotated[int, Meta(description="Up to where the caller has read.")]
    unread_count: Annotated[int, Meta(description="`last_seq` less `read_seq`.")]
    epoch: Annotated[str, Meta(description="Changes when the history may have been rolled back: load it afresh.")]


class ActiveUsers(msgspec.Struct):
    """Who is connected to a conversation."""

    active_users: list[UUID]
    active_count: int


class ConversationList(msgspec.Struct):
    """A page of conversations, the one with the most recent activity first."""

    conversations: list[ConversationBody]
    total: int
    limit: int
    offset: int


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

    201 for a new one. 200 for a one-to-one that these two users have already: they have only one.
    """
    parts = services()
    user = current_user()
    _check_name(body.name)
    parts.limits.groups.start(user.id)
    others = [user_id for user_id in _user_ids(body.participant_ids, "participant_ids") if user_id != user.id]
    if not body.is_group and len(others) != 1:
        raise PulseError(
            ErrorCode.INVALID_FIELD,
            "`participant_ids` of a one-to-one conversation must name exactly one other user",
            field="participant_ids",
        )
    if len(others) + 1 > parts.settings.max_group_members:
        raise _too_many_members("participant_ids")
    new = NewConversation(
        id=parts.ids(),
        name=body.name,
        description=body.description,
        is_group=body.is_group,
        owner_id=user.id,
        member_ids=(user.id, *others),
        created_at=parts.clock(),
    )
    with (
        parts.hub.changing_members(new.id, new.member_ids),
        _doubting_additions(new.id, new.member_ids),
        _told_once_done(parts.settings.store_timeout),
    ):
        try:
            conversation, created = await parts.store.create_conversation(new)
        except UnknownUsers as error:
            raise _unknown_users([str(user_id) for user_id in error.ids], "participant_ids") from None
        if created or not conversation.head.last_rev:  # perhaps the answer to its creation was lost
            await parts.hub.add_users(conversation.id, new.member_ids, conversation.head.members_version)
    return answer(conversation_body(conversation), 201 if created else 200)


@conversations.get("")
@operation(
    name="listConversations",
    tags=("conversations",),
    query=PageQuery,
    responses={200: ConversationList},
    large=True,
)
async def list_conversations(query: PageQuery) -> Response:
    """List the caller's conversations, the one with the most recent activity first."""
    found, total = await services().store.list_conversations(current_user().id, limit=query.limit, offset=query.offset)
    bodies = [conversation_body(conversation) for conversation in found]
    return answer(ConversationList(bodies, total, query.limit, query.offset))


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
    found = await services().store.get_conversation(conversation_key(conversation_id), current_user().id)
    if found is None:
        raise no_conversation()
    return answer(conversation_body(found))


@conversations.get("/<conversation_id>/active")
@operation(
    name="listActiveUsers",
    tags=("conversations",),
    responses={200: ActiveUsers},
    errors=(ErrorCode.NOT_FOUND,),
    large=True,
)
async def list_active_users(conversation_id: str) -> Response:
    """List the ids of the users that are connected to a conversation, in the order they came."""
    parts = services()
    key = conversation_key(conversation_id)
    if await parts.store.membership(key, current_user().id) is None:
        raise no_conversation()
    active = parts.hub.list_active_users(key)
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
    """Rename a group, or describe it anew; any member may."""
    parts = services()
    user = current_user()
    key = conversation_key(conversation_id)
    changes = {
        name: value
        for name, value in (("name", body.name), ("description", body.description))
        if not isinstance(value, UnsetType)
    }
    if not changes:  # nothing is not an activity
        found = await parts.store.get_conversation(key, user.id)
        if found is None:
            raise no_conversation()
        if not found.is_group:
            raise _not_a_group()
        return answer(conversation_body(found))
    _check_name(body.name)
    parts.limits.groups.start(user.id)
    with _told_once_done(parts.settings.store_timeout):
        try:
            changed = await parts.store.rename(key, user.id, changes, now=parts.clock())
        except NotAMember:
            raise no_conversation() from None
        except NotAGroup:
            raise _not_a_group() from None
        parts.hub.announce(key, "renamed", f"User {user.username} renamed the conversation", user.id)
    return answer(conversation_body(changed))


@conversations.post("/<conversation_id>/members")
@operation(
    name="addMembers",
    tags=("conversations",),
    body=NewMembers,
    responses={200: ConversationBody},
    errors=(
        ErrorCode.NOT_FOUND,
        ErrorCode.NOT_A_GROUP,
        ErrorCode.UNKNOWN_USER,
        ErrorCode.TOO_MANY_MEMBERS,
    ),
    large=True,
)
async def add_members(conversation_id: str, body: NewMembers) -> Response:
    """Add users to a group; any member may. Who is in it already stays."""
    parts = services()
    user = current_user()
    key = conversation_key(conversation_id)
    parts.limits.groups.start(user.id)
    user_ids = _user_ids(body.user_ids, "user_ids")
    if not user_ids:
        raise PulseError(ErrorCode.INVALID_FIELD, "`user_ids` must name at least one user", field="user_ids")
    with (
        parts.hub.changing_members(key, user_ids),
        _doubting_additions(key, user_ids),
        _told_once_done(parts.settings.store_timeout),
    ):
        try:
            added = await parts.store.add_members(
                key, user.id, user_ids, limit=parts.settings.max_group_members, now=parts.clock()
            )
        except NotAMember:
            raise no_conversation() from None
        except NotAGroup:
            raise _not_a_group() from None
        except UnknownUsers as error:
            raise _unknown_users([str(user_id) for user_id in error.ids], "user_ids") from None
        except TooManyMembers:
            raise _too_many_members("user_ids") from None
        # Also those who were members before: the answer to their addition may have been lost.
        newcomer_ids = {newcomer.id for newcomer in added.users}
        current = set(await parts.hub.add_users(key, user_ids, added.version, newcomers=newcomer_ids))
        newcomers = [newcomer for newcomer in added.users if newcomer.id in current]
        if newcomers:
            content = f"{_named(newcomers)} added by {user.username}"
            ids = [newcomer.id for newcomer in newcomers]
            parts.hub.announce(key, "added", content, ids[0], ids)
    found = await parts.store.get_conversation(key, user.id)
    if found is None:
        raise no_conversation()
    return answer(conversation_body(found))


@conversations.delete("/<conversation_id>/members/<user_id>")
@operation(
    name="removeMember",
    tags=("conversations",),
    responses={204: None},
    errors=(ErrorCode.NOT_FOUND, ErrorCode.NOT_A_GROUP, ErrorCode.OWNER_ONLY),
)
async def remove_member(conversation_id: str, user_id: str) -> Response:
    """Leave a group (`me`, or the caller's id), or, as its owner, remove a member.

    The connections that the user has to the conversation are closed before this is answered.
    """
    parts = services()
    user = current_user()
    key = conversation_key(conversation_id)
    parts.limits.groups.start(user.id)
    leaver_id = user.id if user_id == "me" else parse_uuid(user_id)
    if leaver_id is None:
        raise PulseError(ErrorCode.NOT_FOUND, "There is no such member")
    try:
        with parts.hub.changing_members(key), _told_once_done(parts.settings.store_timeout):
            try:
                removed = await parts.store.remove_member(key, user.id, leaver_id, now=parts.clock())
            except NotAMember:
                raise no_conversation() from None
            except NotAGroup:
                raise _not_a_group() from None
            except OwnerOnly:
                raise PulseError(ErrorCode.OWNER_ONLY, "Only the owner of the group may remove others") from None
            # Also without a user: perhaps the answer to an earlier removal was lost.
            is_current = parts.hub.remove_user(key, leaver_id, removed.version, "removed from the conversation")
            leaver = removed.user
            if leaver is None:
                raise PulseError(ErrorCode.NOT_FOUND, "There is no such member")
            if is_current:
                how = "left the group" if leaver.id == user.id else f"was removed by {user.username}"
                parts.hub.announce(key, "removed", f"User {leaver.username} {how}", leaver.id, [leaver.id])
    except StoreUnavailable:
        parts.hub.reconnect_user(key, leaver_id)  # removed or not: their membership is looked up anew
        parts.hub.doubt_change(key, removed=[leaver_id])
        raise
    return empty()


def conversation_body(conversation: Conversation) -> ConversationBody:
    """A conversation as REST shows it."""
    last = conversation.last_message
    return ConversationBody(
        id=conversation.id,
        name=conversation.name,
        description=conversation.description,
        is_group=conversation.is_group,
        owner_id=conversation.owner_id,
        created_at=timestamp(conversation.created_at),
        updated_at=timestamp(conversation.updated_at),
        users=[user_body(user) for user in conversation.members],
        member_count=conversation.member_count,
        last_message=None if last is None else message_body(last),
        total_messages=conversation.head.last_seq,
        last_seq=conversation.head.last_seq,
        last_rev=conversation.head.last_rev,
        read_seq=conversation.read_seq,
        unread_count=conversation.head.last_seq - conversation.read_seq,
        epoch=services().store.epoch,
    )


@contextmanager
def _doubting_additions(conversation_id: UUID, user_ids: Sequence[UUID]) -> Iterator[None]:
    """Wraps an addition of users: if its answer is lost, whether it was committed is looked up later."""
    try:
        yield
    except StoreUnavailable:
        services().hub.doubt_change(conversation_id, added=user_ids)
        raise


def _named(users: Sequence[User]) -> str:
    """Names users for a sentence, without listing hundreds of them."""
    if len(users) == 1:
        return f"User {users[0].username} was"
    names = [user.username for user in users[:NAMES_SHOWN]]
    rest = len(users) - len(names)
    return f"Users {', '.join(names)} and {rest} more were" if rest else f"Users {', '.join(names)} were"


@contextmanager
def _told_once_done(seconds: float) -> Iterator[None]:
    """Around a change and what must follow it: a caller who hangs up in between does not stop the second.

    Raises:
        StoreUnavailable: it took longer; it may be done or not.
    """
    try:
        with trio.fail_after(seconds, shield=True):
            yield
    except trio.TooSlowError:
        raise StoreUnavailable("a change took too long") from None


def _user_ids(texts: Sequence[str], field: str) -> list[UUID]:
    keys = [parse_uuid(text) for text in texts]
    unknown = [text for text, key in zip(texts, keys, strict=True) if key is None]
    if unknown:
        raise _unknown_users(unknown, field)
    counts = Counter(keys)
    repeated = [str(key) for key, count in counts.items() if count > 1]
    if repeated:
        raise PulseError(ErrorCode.INVALID_FIELD, f"`{field}` repeats {_listed(repeated)}", field=field)
    return [key for key in keys if key is not None]


def _unknown_users(ids: Sequence[str], field: str) -> PulseError:
    return PulseError(ErrorCode.UNKNOWN_USER, f"`{field}` has unknown users: {_listed(ids)}", field=field)


def _listed(ids: Sequence[str]) -> str:
    shown = ", ".join(text[:64] for text in ids[:IDS_SHOWN])
    return shown if len(ids) <= IDS_SHOWN else f"{shown} and {len(ids) - IDS_SHOWN} more"


def _check_name(name: str | UnsetType | None) -> None:
    if isinstance(name, str) and not name.strip():
        message = "`name` must not be only white space; null is no name"
        raise PulseError(ErrorCode.INVALID_FIELD, message, field="name")


def _not_a_group() -> PulseError:
    return PulseError(ErrorCode.NOT_A_GROUP, "A one-to-one conversation keeps its members and its name")


def _too_many_members(field: str) -> PulseError:
    most = services().settings.max_group_members
    return PulseError(ErrorCode.TOO_MANY_MEMBERS, f"A group has at most {most} members", field=field)
