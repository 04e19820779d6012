"""Events and errors are values: they can be kept, copied and sent to another process."""

import copy
import pickle
import typing
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
from pulse_trio.client.frame_codec import decode, message_of
from pulse_trio.client.records import (
    Event,
    GroupDetails,
    Joined,
    Left,
    Member,
    MembersChanged,
    Message,
    MessageDeleted,
    MessageEdited,
    Offline,
    Online,
    Presence,
    Reset,
    Typing,
    User,
    Warned,
    read_positions,
)
from pulse_trio.protocol import MessageDeletedFrame
from tests.unit.client.scripted import ALICE, BOB, CONVERSATION, EPOCH, NOW, TEAM

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


ID = UUID(ALICE)
STORED = {
    "id": "0190a6c0-8a11-7d20-9b1f-5c4d3e2f1a0b",
    "conversation_id": TEAM,
    "sender_id": BOB,
    "sender_username": "bob",
    "content": "hello",
    "created_at": NOW,
    "updated_at": NOW,
    "seq": 1,
    "rev": 3,
    "client_id": "m-1",
}
MESSAGE = msgspec.convert(STORED, Message)
DETAILS = GroupDetails("Team", None, ID, 4)
EVENTS: list[Event] = [
    MESSAGE,
    MessageEdited(MESSAGE),
    MessageDeleted(MESSAGE),
    Typing(ID, "alice"),
    Joined(ID, "alice"),
    Left(ID, "alice"),
    MembersChanged("added", ID, "alice was added", (ID,), 1, (Member(ID, "alice", True, 4),), 2, DETAILS),
    read_positions({ID: 7}),
    Offline("because", 1.5),
    Online(),
    Reset(1, 3, EPOCH),
    Warned("rate_limited", "Slow down"),
]
OTHERS = [
    User(ID, "alice"),
    Presence(ID, True),
    msgspec.convert({**CONVERSATION, "last_message": STORED}, Conversation),
]


def test_every_kind_of_event_is_listed() -> None:
    assert [type(event) for event in EVENTS] == list(typing.get_args(Event))


@pytest.mark.parametrize("record", [*EVENTS, *OTHERS], ids=lambda record: type(record).__name__)
def test_records_can_be_hashed_copied_and_pickled_and_not_changed(record: object) -> None:
    for again in (copy.deepcopy(record), pickle.loads(pickle.dumps(record))):
        assert (type(again), again) == (type(record), record)
        assert hash(again) == hash(record)
    for name in getattr(record, "__struct_fields__", None) or typing.get_type_hints(type(record)):
        with pytest.raises(AttributeError):
            setattr(record, name, 1)


def test_a_deleted_message_is_the_same_from_history_and_live() -> None:
    """An edit before the deletion is in the answer of the history, and not in the frame."""
    fields = {name: value for name, value in STORED.items() if name not in {"id", "content", "created_at"}}
    frame = {"type": "message_deleted", "message_id": STORED["id"], "timestamp": NOW, **fields}
    live = decode(msgspec.json.encode(frame))
    assert isinstance(live, MessageDeletedFrame)
    history = {**STORED, "content": "", "is_edited": True, "is_deleted": True}
    assert msgspec.json.decode(msgspec.json.encode(history), type=Message) == message_of(live)


@pytest.mark.parametrize("more", [True, False])
def test_a_conversation_says_that_it_has_more_members_than_it_lists(more: bool) -> None:
    assert msgspec.convert({**CONVERSATION, "has_more_users": more}, Conversation).has_more_users is more
    assert msgspec.convert(CONVERSATION, Conversation).has_more_users is None, "from a server of before"
