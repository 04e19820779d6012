"""The REST resource of read positions: move the caller's, list those of all members."""

from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType
from quart import Blueprint, Response

from pulse_trio.conversations import messages
from pulse_trio.edge.responses import answer
from pulse_trio.edge.rest.cursors import Cursor, NextCursor, next_cursor
from pulse_trio.edge.rest.members import member_page
from pulse_trio.edge.rest.messages import MAX_SEQ
from pulse_trio.edge.rest.operation import current_user, operation
from pulse_trio.edge.rest.paths import conversation_key
from pulse_trio.edge.services import services
from pulse_trio.errors import ErrorCode

MAX_POSITIONS: Final = 1_000  # positions of a page: 60 KB, and all of nearly every group

read_positions = Blueprint("read_positions", __name__, url_prefix="/api/chat/conversations/<conversation_id>/read")


class ReadMarkBody(msgspec.Struct):
    """The message up to which the caller has read."""

    seq: Annotated[int, Meta(ge=1, le=MAX_SEQ, description="The `seq` of a message.", examples=[1])]


class ReadBody(msgspec.Struct):
    """The caller's read position, and the number of messages after it."""

    read_seq: int
    unread_count: int


class PositionsQuery(msgspec.Struct):
    """The page of read positions to return."""

    limit: Annotated[int, Meta(ge=1, le=MAX_POSITIONS, description="Most positions of this page.")] = MAX_POSITIONS
    cursor: Cursor | UnsetType = UNSET


class PositionBody(msgspec.Struct):
    """The read position of a member."""

    user_id: UUID
    seq: int


class PositionList(msgspec.Struct):
    """A page of read positions, in the order the members were added."""

    positions: list[PositionBody]
    next_cursor: NextCursor


@read_positions.put("")
@operation(
    name="markRead",
    tags=("messages",),
    body=ReadMarkBody,
    responses={200: ReadBody},
    errors=(ErrorCode.NOT_FOUND, ErrorCode.NO_SUCH_MESSAGE),
)
async def mark_read(conversation_id: str, body: ReadMarkBody) -> Response:
    """Mark everything up to a message as read.

    A position never goes back: a lower `seq` than before changes nothing. Every connection to the conversation gets
    `read`.
    """
    service, user, key = services(), current_user(), conversation_key(conversation_id)
    service.limits.reads.start(user.id)
    state = await messages.mark_read(service, key, user, body.seq)
    return answer(ReadBody(state.read_seq, state.last_seq - state.read_seq))


@read_positions.get("")
@operation(
    name="listReadPositions",
    tags=("messages",),
    query=PositionsQuery,
    responses={200: PositionList},
    errors=(ErrorCode.NOT_FOUND,),
    large=True,
    compressed=True,
)
async def list_read_positions(conversation_id: str, query: PositionsQuery) -> Response:
    """List the read positions of the members, in the order they were added."""
    key = conversation_key(conversation_id)
    page = await member_page(key, query.limit, query.cursor)
    positions = [PositionBody(member.user.id, member.read_seq) for member in page.members]
    return answer(PositionList(positions, next_cursor(key.bytes, page.next_after)))
