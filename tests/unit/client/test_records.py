"""Events and errors are values: they can be kept, copied and sent to another process."""

import copy
import pickle
from uuid import UUID

import msgspec
import pytest

from pulse_trio.client import (
    AuthenticationFailed,
    ClientError,
    Conflict,
    ConnectionLost,
    Conversation,
    NotAMember,
    NotStored,
    Refused,
)
from pulse_trio.client.records import read_positions
from tests.unit.client.scripted import CONVERSATION

ERRORS = [
    Conflict("It was changed", None),
    Refused("rate_limited", "Slow down", field="query", status=429, retry_after=1.5),
    Refused("invalid_text", "No"),
    NotStored("m-1"),
    AuthenticationFailed("No", "invalid_token"),
    NotAMember("No"),
    ConnectionLost("No"),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_errors_can_be_copied_and_pickled(error: ClientError) -> None:
    for again in (copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is type(error)
        assert (str(again), vars(again)) == (str(error), vars(error))


def test_read_positions_can_be_hashed_copied_and_pickled() -> None:
    positions = read_positions({UUID(int=1): 7, UUID(int=2): 3})
    for again in (copy.deepcopy(positions), pickle.loads(pickle.dumps(positions))):
        assert again == positions
        assert hash(again) == hash(positions)
        with pytest.raises(TypeError):
            again.positions[UUID(int=1)] = 8


@pytest.mark.parametrize("more", [True, False])
def test_a_conversation_says_that_it_has_more_members_than_it_lists(more: bool) -> None:
    assert msgspec.convert({**CONVERSATION, "has_more_users": more}, Conversation).has_more_users is more
    assert msgspec.convert(CONVERSATION, Conversation).has_more_users is None, "from a server of before"
