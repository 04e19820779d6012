"""The members of a conversation, by page."""

from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType
from quart import Blueprint, Response

from pulse_trio.edge.responses import answer
from pulse_trio.edge.rest.accounts import UserBody, user_body
from pulse_trio.edge.rest.cursors import Cursor, NextCursor, next_cursor, read_cursor
from pulse_trio.edge.rest.operation import Limit, current_user, operation
from pulse_trio.edge.rest.paths import conversation_key, no_conversation
from pulse_trio.edge.services import services
from pulse_trio.errors import ErrorCode
from pulse_trio.store.base import MemberPage, NotAMember

members = Blueprint("members", __name__, url_prefix="/api/chat/conversations/<conversation_id>/members")


class MembersQuery(msgspec.Struct):
    """Which members to return."""

    limit: Limit = 100
    cursor: Cursor | UnsetType = UNSET


class MemberList(msgspec.Struct):
    """A page of the members of a conversation, in the order they came. `total` counts all members."""

    members: list[UserBody]
    total: int
    limit: int
    next_cursor: NextCursor


@members.get("")
@operation(
    name="listMembers",
    tags=("conversations",),
    query=MembersQuery,
    responses={200: MemberList},
    errors=(ErrorCode.NOT_FOUND,),
    large=True,
)
async def list_members(conversation_id: str, query: MembersQuery) -> Response:
    """List the members of a conversation, in the order they came.

    A page costs the same at every depth. Pages stay exact while members come and go: none is repeated, and none who
    stays is left out.
    """
    key = conversation_key(conversation_id)
    page = await member_page(key, query.limit, query.cursor)
    bodies = [user_body(member.user) for member in page.members]
    return answer(MemberList(bodies, page.total, query.limit, next_cursor(key, page.next_after)))


async def member_page(conversation_id: UUID, limit: int, cursor: str | UnsetType) -> MemberPage:
    """A page of the members of a conversation that the caller is in.

    Raises:
        PulseError: the cursor is none, or the caller is not a member.
    """
    after = read_cursor(conversation_id, cursor)
    try:
        return await services().store.page_members(conversation_id, current_user().id, limit=limit, after=after)
    except NotAMember:
        raise no_conversation() from None
