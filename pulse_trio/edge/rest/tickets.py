"""The REST resource of tickets: exchange a token for a ticket that opens one WebSocket."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta
from quart import Blueprint, Response

from pulse_trio.edge.responses import answer
from pulse_trio.edge.rest.operation import EXAMPLE_ID, current_identity, operation
from pulse_trio.edge.services import services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid

EXAMPLE_TICKET: Final = "kq3v8VJb7yBz0m5n9dR1xQe4Lw6tYc2hUaGpZsXoIfE"

tickets = Blueprint("tickets", __name__, url_prefix="/api/chat")


class TicketRequest(msgspec.Struct):
    """The connection that the ticket opens."""

    conversation_id: (
        Annotated[
            str,
            Meta(
                description="The conversation to connect to; without it, the session connection.",
                examples=[EXAMPLE_ID],
                extra_json_schema={"format": "uuid"},
            ),
        ]
        | None
    ) = None


class TicketBody(msgspec.Struct):
    """A ticket for one connection."""

    ticket: Annotated[str, Meta(description="For `?ticket=` in the URL of the WebSocket.", examples=[EXAMPLE_TICKET])]
    expires_in: Annotated[int, Meta(description="Seconds until it expires.", examples=[30])]


@tickets.post("/ws-ticket")
@operation(name="drawTicket", tags=("connections",), body=TicketRequest, responses={200: TicketBody})
async def draw_ticket(body: TicketRequest) -> Response:
    """Get a ticket that opens one WebSocket, so that the token does not appear in its URL."""
    service, identity = services(), current_identity()
    key = None if body.conversation_id is None else parse_uuid(body.conversation_id)
    if body.conversation_id is not None and key is None:
        raise PulseError(ErrorCode.INVALID_FIELD, "`conversation_id` is not an id", field="conversation_id")
    # The handshake checks the membership, as it does with a token: a check here would be out of date by then.
    ticket = await service.tickets.issue(identity, key)
    remaining = int(identity.expires - service.clock().timestamp())
    return answer(TicketBody(ticket, min(service.tickets.lifetime, remaining)))
