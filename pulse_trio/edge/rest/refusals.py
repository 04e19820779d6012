"""The answers to refused operations: which error a client gets for an error of a use case."""

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.store.base import NoSuchMessage, NotAGroup, NotAMember, NotYourMessage, OwnerOnly, StoreError


def refusal(error: StoreError) -> PulseError | None:
    """Returns the error that a client gets for a refused operation; None if the store failed."""
    match error:
        case NotAMember():  # the same for a conversation that does not exist: only members learn that it does
            return PulseError(ErrorCode.NOT_FOUND, "There is no such conversation")
        case NotAGroup():
            return PulseError(ErrorCode.NOT_A_GROUP)
        case OwnerOnly():
            return PulseError(ErrorCode.OWNER_ONLY)
        case NoSuchMessage():
            return PulseError(ErrorCode.NO_SUCH_MESSAGE)
        case NotYourMessage():
            return PulseError(ErrorCode.NOT_YOUR_MESSAGE)
    return None
