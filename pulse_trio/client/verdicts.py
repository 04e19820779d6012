"""Decides how to continue after a connection has ended: the tables of docs/protocol.md, as a client reads them."""

from dataclasses import dataclass
from typing import Final

from pulse_trio.client.errors import ClientError, NotAMember, ProtocolError, Refused
from pulse_trio.client.wire import Ending
from pulse_trio.protocol import CloseCode

RESTART_SPREAD: Final = 3.0  # seconds over which the clients of a restarting server spread their reconnections
FLOOD_PAUSE: Final = 5.0  # seconds; after it frames are sent more slowly

RETRYABLE_STATUSES: Final = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses after which the same request may succeed later."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The way to reconnect.

    Attributes:
        at_once: without waiting, and without counting a failure.
        least: seconds to wait at least.
        spread: upper bound of a random addition to the wait, in seconds.
        renews: with a new token.
        resets: from the present, because the server cannot resume from `after`.
        too_big: without the largest pending message, which the server rejected.
        slows: sending more slowly.
        error: not at all; the room fails with this error.
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
    """Returns the verdict for the end of a connection."""
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
            return Verdict(error=NotAMember("you are no longer a member of this conversation"))
        case CloseCode.TOO_SLOW:
            return Verdict()  # reading was paused on purpose: the room reconnects when there is space for events
        case CloseCode.CANNOT_RESUME:
            return Verdict(at_once=True, resets=True)
        case CloseCode.TOO_BIG:
            return Verdict(too_big=True)
        case CloseCode.FLOODING:
            return Verdict(least=FLOOD_PAUSE, slows=True)
        case CloseCode.PROTOCOL_ERROR | CloseCode.INVALID_TEXT:
            return Verdict(error=ProtocolError(f"the server rejects what this client sends: {ending.reason}"))
    return Verdict()


def _of_refusal(ending: Ending) -> Verdict:
    refusal = ending.refusal
    if ending.status == 401:
        return Verdict(at_once=True, renews=True)
    if isinstance(refusal, Refused):
        if ending.status in RETRYABLE_STATUSES:
            return Verdict(least=refusal.retry_after or 0.0)
        return Verdict(error=refusal)
    return Verdict(error=refusal or ProtocolError(ending.reason))
