"""Lists of users in the bodies of requests, and the errors about them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Final
from uuid import UUID

from msgspec import Meta

from pulse_trio.edge.audit import SecurityEvent
from pulse_trio.edge.rest.operation import EXAMPLE_ID
from pulse_trio.edge.security_events import record_event
from pulse_trio.edge.services import services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid
from pulse_trio.store.base import TooManyMembers, UnknownUsers

MAX_IDS: Final = 1_000  # in one request; with the default PULSE_MAX_BODY_BYTES as many fit
MAX_IDS_SHOWN: Final = 10  # in an error about several ids
MAX_CHARS_SHOWN: Final = 64  # of each of them

# Texts and not UUIDs, so that the error about unknown users names the malformed ids as well.
UserIds = Annotated[
    list[Annotated[str, Meta(extra_json_schema={"format": "uuid"})]],
    Meta(
        description="Ids of users, each once.",
        examples=[[EXAMPLE_ID]],
        max_length=MAX_IDS,
        extra_json_schema={"uniqueItems": True},
    ),
]


def read_user_ids(texts: Sequence[str], field: str) -> list[UUID]:
    """Parses the ids of a field.

    Raises:
        PulseError: one of them is not an id, or is repeated; names them.
    """
    keys = [parse_uuid(text) for text in texts]
    malformed = [text for text, key in zip(texts, keys, strict=True) if key is None]
    if malformed:
        raise _unknown_users(malformed, field)
    counts = Counter(keys)
    repeated = [str(key) for key, count in counts.items() if count > 1]
    if repeated:
        raise PulseError(ErrorCode.INVALID_FIELD, f"`{field}` repeats {_listed(repeated)}", field=field)
    return [key for key in keys if key is not None]


@contextmanager
def errors_about(field: str) -> Iterator[None]:
    """Wraps a use case; its errors about users name the field that lists them.

    Raises:
        PulseError: some users do not exist, or the group would have too many members.
    """
    try:
        yield
    except UnknownUsers as error:
        raise _unknown_users([str(user_id) for user_id in error.ids], field) from None
    except TooManyMembers:
        message = f"A group has at most {services().settings.max_group_members} members"
        raise PulseError(ErrorCode.TOO_MANY_MEMBERS, message, field=field) from None


def record_added(user_id: UUID, conversation_id: UUID, added: Sequence[UUID]) -> None:
    """Records in the log that a user has put users into a conversation; nothing without any."""
    if not added:
        return
    shown = [str(other) for other in added[:MAX_IDS_SHOWN]]
    record_event(
        SecurityEvent.MEMBERS_ADDED,
        user_id=user_id,
        conversation_id=str(conversation_id),
        count=len(added),
        added=shown,
    )


def _unknown_users(ids: Sequence[str], field: str) -> PulseError:
    return PulseError(ErrorCode.UNKNOWN_USER, f"`{field}` has unknown users: {_listed(ids)}", field=field)


def _listed(ids: Sequence[str]) -> str:
    shown = ", ".join(text[:MAX_CHARS_SHOWN] for text in ids[:MAX_IDS_SHOWN])
    return shown if len(ids) <= MAX_IDS_SHOWN else f"{shown} and {len(ids) - MAX_IDS_SHOWN} more"
