"""Read positions: how far the members of a conversation have read."""

from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType
from quart import Blueprint, Response

from pulse_trio.edge.responses import answer
from pulse_trio.edge.rest.cursors import Cursor, NextCursor, next_cursor
from pulse_trio.edge.rest.members import member_page
from pulse_trio.edge.rest.messages import SEQ_MOST
from pulse_trio.edge.rest.operation import current_user, operation
from pulse_trio.edge.rest.paths import conversation_key, no_conversation
from pulse_trio.edge.services import services
from pulse_trio.errors import ErrorCode
from pulse_trio.store.base import NotAMember

POSITIONS_LIMIT: Final = 1_000  # positions of a page: 60 KB, and all of nearly every group

reads = Blueprint("reads", __name__, url_prefix="/api/chat/conversations/<conversation_id>/read")


class ReadMarkBody(msgspec.Struct):
    """Up to where the caller has read."""

    seq: Annotated[int, Meta(ge=1, le=SEQ_MOST, description="The `seq` of a message.", examples=[1])]


class ReadBody(msgspec.Struct):
    """Up to where the caller has read, and how many messages follow."""

    read_seq: int
    unread_count: int


class PositionsQuery(msgspec.Struct):
    """The page of read positions to return."""

    limit: Annotated[int, Meta(ge=1, le=POSITIONS_LIMIT, description="Most positions of this page.")] = POSITIONS_LIMIT
    cursor: Cursor | UnsetType = UNSET


class PositionBody(msgspec.Struct):
    """Up to where a member has read."""

    user_id: UUID
    seq: int


class PositionList(msgspec.Struct):
    """A page of how far members have read, in the order they came."""

    positions: list[PositionBody]
    next_cursor: NextCursor


@reads.put("")
@operation(
    name="markRead",
    tags=("messages",),
    body=ReadMarkBody,
    responses={200: ReadBody},
    errors=(ErrorCode.NOT_FOUND, ErrorCode.NO_SUCH_MESSAGE),
)
async def mark_read(conversation_id: str, body: ReadMarkBody) -> Response:
    """Say that the caller has read everything up to a message.

    A position never goes backwards: a lower one than before changes nothing. Everybody connected gets `read`.
    """
    parts, user = services(), current_user()
    key = conversation_key(conversation_id)
    parts.limits.reads.start(user.id)
    try:
        standing = await parts.hub.mark_read(key, user.id, body.seq)
    except NotAMember:
        raise no_conversation() from None
    return answer(ReadBody(standing.read_seq, standing.last_seq - standing.read_seq))


@reads.get("")
@operation(
    name="listReadPositions",
    tags=("messages",),
    query=PositionsQuery,
    responses={200: PositionList},
    errors=(ErrorCode.NOT_FOUND,),
    large=True,
)
async def list_read_positions(conversation_id: str, query: PositionsQuery) -> Response:
    """List how far each member has read, in the order they came."""
    key = conversation_key(conversation_id)
    page = await member_page(key, query.limit, query.cursor)
    positions = [PositionBody(member.user.id, member.read_seq) for member in page.members]
    return answer(PositionList(positions, next_cursor(key, page.next_after)))
