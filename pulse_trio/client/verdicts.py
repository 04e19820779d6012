"""What to do when a connection has ended: the tables of docs/protocol.md, as a client reads them."""

from dataclasses import dataclass
from typing import Final

from pulse_trio.client.errors import ClientError, NotAMember, ProtocolError, Refused
from pulse_trio.client.wire import Ending
from pulse_trio.protocol import CloseCode

RESTART_SPREAD: Final = 3.0  # seconds within which clients of a server that restarts come back
FLOOD_PAUSE: Final = 5.0  # seconds, and everything is sent more slowly after it

MENDABLE_STATUSES: Final = {408, 425, 429, 500, 502, 503, 504}
"""Of HTTP: what was refused with one of these may be taken later."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How to go on.

    Attributes:
        at_once: without waiting, and without counting it as a failure.
        least: seconds to wait in any case.
        spread: further seconds, of which a random part is waited.
        renews: with another token.
        resets: from the present, as there is no going on from the past.
        too_big: one of the messages under way was too large for the server.
        slows: more slowly.
        error: not at all.
    """

    at_once: bool = False
    least: float = 0.0
    spread: float = 0.0
    renews: bool = False
    resets: bool = False
    too_big: bool = False
    slows: bool = False
    error: ClientError | None = None


def verdict_of(ending: Ending) -> Verdict:
    """What follows from how a connection ended."""
    if ending.status is not None:
        return _of_refusal(ending)
    if ending.is_gap:
        return Verdict(at_once=True)
    match ending.code:
        case CloseCode.RESTART:
            return Verdict(spread=RESTART_SPREAD)
        case CloseCode.TOKEN_EXPIRED:
            return Verdict(at_once=True, renews=True)
        case CloseCode.REMOVED:
            return Verdict(error=NotAMember("you are not in this conversation any more"))
        case CloseCode.TOO_SLOW:
            return Verdict()  # the reader was held: it comes back when there is room again
        case CloseCode.CANNOT_RESUME:
            return Verdict(at_once=True, resets=True)
        case CloseCode.TOO_BIG:
            return Verdict(too_big=True)
        case CloseCode.FLOODING:
            return Verdict(least=FLOOD_PAUSE, slows=True)
        case CloseCode.PROTOCOL_ERROR | CloseCode.INVALID_TEXT:
            return Verdict(error=ProtocolError(f"the server does not take what this client sends: {ending.reason}"))
    return Verdict()


def _of_refusal(ending: Ending) -> Verdict:
    told = ending.refusal
    if ending.status == 401:
        return Verdict(at_once=True, renews=True)
    if isinstance(told, Refused):
        if ending.status in MENDABLE_STATUSES:
            return Verdict(least=told.retry_after or 0.0)
        return Verdict(error=told)
    return Verdict(error=told or ProtocolError(ending.reason))
