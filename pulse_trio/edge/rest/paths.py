"""The conversation that a path names, and what everybody is told who is not in it."""

from uuid import UUID

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid


def conversation_key(text: str) -> UUID:
    """The id of a conversation in a path.

    Raises:
        PulseError: it is not an id; the same answer as for one that does not exist.
    """
    key = parse_uuid(text)
    if key is None:
        raise no_conversation()
    return key


def no_conversation() -> PulseError:
    """What everybody is told who is not in a conversation, whether it exists or not."""
    return PulseError(ErrorCode.NOT_FOUND, "There is no such conversation")
