"""The REST resource of presence: which users are online."""

from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta
from quart import Blueprint, Response

from pulse_trio.edge.responses import answer
from pulse_trio.edge.rest.operation import Time, current_user, operation
from pulse_trio.edge.services import services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid

presence = Blueprint("presence", __name__, url_prefix="/api/chat/users")


class PresenceBody(msgspec.Struct):
    """The presence of a user."""

    user_id: UUID
    is_online: bool
    last_seen_at: Annotated[
        Time | None,
        Meta(description="When their last connection closed; for a user who is online, when the first one opened."),
    ]


@presence.get("/<user_id>/presence")
@operation(name="getPresence", tags=("accounts",), responses={200: PresenceBody}, errors=(ErrorCode.NOT_FOUND,))
async def get_presence(user_id: str) -> Response:
    """Show whether a user is online who shares a conversation with the caller; `me` is the caller."""
    service, user = services(), current_user()
    service.limits.presence.start(user.id)
    key = user.id if user_id == "me" else parse_uuid(user_id)
    found = [] if key is None else await service.hub.watches.look_up(user.id, [key])
    if not found:
        raise PulseError(ErrorCode.NOT_FOUND, "There is no such user in your conversations")
    return answer(PresenceBody(found[0].user_id, found[0].is_online, found[0].last_seen_at))
