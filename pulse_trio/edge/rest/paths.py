"""Ids in the paths of operations."""

from uuid import UUID

from pulse_trio.ids import parse_uuid
from pulse_trio.store.base import NotAMember


def conversation_key(text: str) -> UUID:
    """Parses the id of a conversation.

    Raises:
        NotAMember: it is not an id; so the answer is the one for a conversation that does not exist.
    """
    key = parse_uuid(text)
    if key is None:
        raise NotAMember
    return key
