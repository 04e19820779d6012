"""The REST resource of a conversation's members: list by page, add, remove."""

from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType
from quart import Blueprint, Response

from pulse_trio.conversations import groups
from pulse_trio.edge.audit import SecurityEvent
from pulse_trio.edge.responses import answer, empty
from pulse_trio.edge.rest.accounts import UserBody, user_body
from pulse_trio.edge.rest.conversations import ConversationBody, conversation_body
from pulse_trio.edge.rest.cursors import Cursor, NextCursor, next_cursor, number_of
from pulse_trio.edge.rest.operation import Limit, current_user, operation
from pulse_trio.edge.rest.paths import conversation_key
from pulse_trio.edge.rest.user_ids import UserIds, errors_about, read_user_ids, record_added
from pulse_trio.edge.security_events import record_event
from pulse_trio.edge.services import services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid
from pulse_trio.store.base import MemberPage

members = Blueprint("members", __name__, url_prefix="/api/chat/conversations/<conversation_id>/members")


class MembersQuery(msgspec.Struct):
    """The page of members to return."""

    limit: Limit = 100
    cursor: Cursor | UnsetType = UNSET


class MemberList(msgspec.Struct):
    """A page of the members of a conversation, in the order they were added. `total` counts all members."""

    members: list[UserBody]
    total: int
    limit: int
    next_cursor: NextCursor


class NewMembers(msgspec.Struct):
    """Users to add to a group."""

    user_ids: Annotated[UserIds, Meta(extra_json_schema={"minItems": 1, "uniqueItems": True})]


@members.get("")
@operation(
    name="listMembers",
    tags=("conversations",),
    query=MembersQuery,
    responses={200: MemberList},
    errors=(ErrorCode.NOT_FOUND,),
    large=True,
    compressed=True,
)
async def list_members(conversation_id: str, query: MembersQuery) -> Response:
    """List the members of a conversation, in the order they were added.

    A page costs the same at every depth. Pages stay exact while members come and go: no member is repeated, and none
    who stays is left out.
    """
    key = conversation_key(conversation_id)
    page = await member_page(key, query.limit, query.cursor)
    bodies = [user_body(member.user) for member in page.members]
    return answer(MemberList(bodies, page.total, query.limit, next_cursor(key.bytes, page.next_after)))


@members.post("")
@operation(
    name="addMembers",
    tags=("conversations",),
    body=NewMembers,
    responses={200: ConversationBody},
    errors=(ErrorCode.NOT_FOUND, ErrorCode.NOT_A_GROUP, ErrorCode.UNKNOWN_USER, ErrorCode.TOO_MANY_MEMBERS),
    large=True,
)
async def add_members(conversation_id: str, body: NewMembers) -> Response:
    """Add users to a group; any member may. Users who are members already stay."""
    service, user, key, field = services(), current_user(), conversation_key(conversation_id), "user_ids"
    service.limits.groups.start(user.id)
    user_ids = read_user_ids(body.user_ids, field)
    if not user_ids:
        raise PulseError(ErrorCode.INVALID_FIELD, f"`{field}` must name at least one user", field=field)
    with errors_about(field):
        conversation, added = await groups.add_members(service, key, user, user_ids)
    record_added(user.id, key, added)
    return answer(conversation_body(conversation))


@members.delete("/<user_id>")
@operation(
    name="removeMember",
    tags=("conversations",),
    responses={204: None},
    errors=(ErrorCode.NOT_FOUND, ErrorCode.NOT_A_GROUP, ErrorCode.OWNER_ONLY),
)
async def remove_member(conversation_id: str, user_id: str) -> Response:
    """Leave a group (`me`, or the caller's id), or remove a member as its owner.

    The answer comes after the user's connections to the conversation are closed.
    """
    service, user, key = services(), current_user(), conversation_key(conversation_id)
    service.limits.groups.start(user.id)
    leaver_id = user.id if user_id == "me" else parse_uuid(user_id)
    if leaver_id is None:
        raise groups.no_such_member()
    await groups.remove_member(service, key, user, leaver_id)
    record_event(SecurityEvent.MEMBER_REMOVED, user_id=user.id, conversation_id=str(key), removed=str(leaver_id))
    return empty()


async def member_page(conversation_id: UUID, limit: int, cursor: str | UnsetType) -> MemberPage:
    """Returns a page of the members of a conversation.

    Raises:
        PulseError: the cursor is not one of this conversation.
        NotAMember: the caller is not a member.
    """
    after = number_of(conversation_id.bytes, cursor) or 0
    return await services().store.page_members(conversation_id, current_user().id, limit=limit, after=after)
