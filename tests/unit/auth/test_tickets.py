"""Tickets: one use, a few seconds, one user and one conversation, in bounded memory."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from pulse_trio.auth.tickets import Tickets
from pulse_trio.auth.tokens import Identity
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.store.base import User
from pulse_trio.store.memory import MemoryStore
from pulse_trio.store.protections import MAX_TICKETS, MAX_TICKETS_OF_USER

START = datetime(2026, 2, 4, 10, 30, tzinfo=UTC)
LIFETIME = 30
ROOM, OTHER_ROOM = UUID(int=1), UUID(int=2)


class FakeClock:
    """A wall clock that a test may set on its own."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def identity(number: int = 1, seconds: float = 3_600) -> Identity:
    return Identity(User(UUID(int=number), f"user{number}"), START.timestamp() + seconds)


async def make_store(users: int = 8) -> MemoryStore:
    """Returns a store with so many users."""
    store = MemoryStore()
    for number in range(1, users + 1):
        await store.create_user(identity(number).user, password_hash=None, subject=None, created_at=START)
    return store


async def make_tickets(clock: FakeClock | None = None, *, of_user: int = 100, in_all: int = MAX_TICKETS) -> Tickets:
    store = await make_store()
    store.max_tickets_of_user, store.max_tickets = of_user, in_all
    return Tickets(store, LIFETIME, clock or FakeClock())


def kept(tickets: Tickets) -> MemoryStore:
    """Returns the store of tickets."""
    assert isinstance(tickets._store, MemoryStore)
    return tickets._store


async def refused(tickets: Tickets, text: str, conversation_id: UUID | None = ROOM) -> str:
    with pytest.raises(PulseError) as caught:
        await tickets.redeem(text, conversation_id)
    assert caught.value.code is ErrorCode.INVALID_TOKEN
    assert caught.value.code.status == 401
    return caught.value.message


async def test_a_ticket_works_once_and_identifies_its_user() -> None:
    tickets = await make_tickets()
    for place in (ROOM, None):
        text = await tickets.issue(identity(), place)
        assert await tickets.redeem(text, place) == (identity(), None)
        await refused(tickets, text, place)
    assert len(kept(tickets)._tickets) == 0


@pytest.mark.parametrize(("drawn_for", "shown_at"), [(ROOM, OTHER_ROOM), (ROOM, None), (None, ROOM)])
async def test_a_ticket_for_another_conversation_is_rejected_and_used_up(
    drawn_for: UUID | None, shown_at: UUID | None
) -> None:
    tickets = await make_tickets()
    text = await tickets.issue(identity(), drawn_for)
    await refused(tickets, text, shown_at)
    await refused(tickets, text, drawn_for)


@pytest.mark.parametrize(("seconds", "is_good"), [(0, True), (29.99, True), (30, False), (31, False), (10**6, False)])
async def test_a_ticket_is_valid_for_its_lifetime(mock_clock: MockClock, seconds: float, is_good: bool) -> None:
    tickets = await make_tickets()
    text = await tickets.issue(identity(), ROOM)
    mock_clock.jump(seconds)
    if is_good:
        await tickets.redeem(text, ROOM)
    else:
        await refused(tickets, text)


async def test_a_ticket_does_not_outlive_its_token() -> None:
    clock = FakeClock()
    tickets = await make_tickets(clock)
    first, second = [await tickets.issue(identity(seconds=5), ROOM) for _ in range(2)]
    clock.now = START + timedelta(seconds=4.9)
    assert (await tickets.redeem(first, ROOM))[0].expires == START.timestamp() + 5
    clock.now = START + timedelta(seconds=5)
    await refused(tickets, second)


async def test_setting_the_wall_clock_back_does_not_prolong_a_ticket(mock_clock: MockClock) -> None:
    clock = FakeClock()
    tickets = await make_tickets(clock)
    text = await tickets.issue(identity(), ROOM)
    clock.now = START - timedelta(hours=1)
    mock_clock.jump(LIFETIME)
    await refused(tickets, text)


async def test_one_of_many_parallel_uses_wins() -> None:
    tickets = await make_tickets()
    text = await tickets.issue(identity(), ROOM)
    won = 0

    async def use() -> None:
        nonlocal won
        await trio.lowlevel.checkpoint()
        try:
            await tickets.redeem(text, ROOM)
        except PulseError:
            return
        won += 1

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(use)
    assert won == 1


async def test_every_rejection_is_the_same() -> None:
    tickets = await make_tickets()
    used = await tickets.issue(identity(), ROOM)
    await tickets.redeem(used, ROOM)
    elsewhere = await tickets.issue(identity(), OTHER_ROOM)
    assert (
        len({await refused(tickets, text) for text in (used, elsewhere, "", "nonsense", "\ud800", "x" * 100_000)}) == 1
    )


async def test_tickets_are_random_and_kept_as_hashes() -> None:
    tickets = await make_tickets()
    texts = [await tickets.issue(identity(), ROOM) for _ in range(50)]
    assert len(set(texts)) == 50
    assert all(len(text) == 43 and text.replace("-", "").replace("_", "").isalnum() for text in texts)
    stored = repr(vars(kept(tickets)))
    assert not [text for text in texts if text in stored]


async def test_only_the_users_own_oldest_ticket_is_forgotten() -> None:
    tickets = await make_tickets(of_user=3)
    of_other = await tickets.issue(identity(2), ROOM)
    mine = [await tickets.issue(identity(1), ROOM) for _ in range(4)]
    assert len(kept(tickets)._tickets) == 4
    await refused(tickets, mine[0])
    for text in mine[1:]:
        assert (await tickets.redeem(text, ROOM))[0].user.id == UUID(int=1)
    assert (await tickets.redeem(of_other, ROOM))[0].user.id == UUID(int=2)
    assert MAX_TICKETS_OF_USER >= 100, "all of a user's connections may come back at once"


async def test_all_tickets_are_bounded() -> None:
    tickets = await make_tickets(in_all=5)
    texts = [await tickets.issue(identity(number), ROOM) for number in range(1, 9)]
    assert len(kept(tickets)._tickets) == 5
    for text in texts[:3]:
        await refused(tickets, text)
    for text in texts[3:]:
        await tickets.redeem(text, ROOM)
    assert MAX_TICKETS * 500 < 64 * 2**20


async def test_expired_tickets_are_forgotten_when_the_next_is_issued(mock_clock: MockClock) -> None:
    tickets = await make_tickets()
    for number in range(1, 8):
        await tickets.issue(identity(number), ROOM)
    mock_clock.jump(LIFETIME)
    await tickets.issue(identity(1), ROOM)
    assert len(kept(tickets)._tickets) == 1
    assert kept(tickets)._tickets_of_user.keys() == {UUID(int=1)}


@given(
    steps=st.lists(
        st.tuples(
            st.integers(1, 3),  # whose
            st.integers(0, 12),  # which of the texts so far to show, or a new one to draw
            st.sampled_from([ROOM, OTHER_ROOM, None]),
            st.sampled_from([0, 0, 0, 10, 29, 30]),  # seconds before
        ),
        max_size=40,
    )
)
def test_any_history_agrees_with_a_plain_model(
    steps: list[tuple[int, int, UUID | None, int]],
) -> None:
    """A ticket is accepted if and only if it exists, in time, and where it belongs."""
    per_user, in_all = 2, 4

    async def run() -> None:
        tickets = await make_tickets(of_user=per_user, in_all=in_all)
        known: list[str] = []
        model: list[tuple[str, int, UUID | None, float]] = []  # text, whose, where, until
        for whose, which, place, seconds in steps:
            mock.jump(seconds)
            now = trio.current_time()
            if which < len(known):
                found = [entry for entry in model if entry[0] == known[which]]
                model = [entry for entry in model if entry[0] != known[which]]
                if found and found[0][2] == place and found[0][3] > now:
                    assert (await tickets.redeem(known[which], place))[0].user.id == UUID(int=found[0][1])
                else:
                    await refused(tickets, known[which], place)
                continue
            model = [entry for entry in model if entry[3] > now]
            model = model[-(in_all - 1) :]
            own = [entry for entry in model if entry[1] == whose]
            if len(own) >= per_user:
                model.remove(own[0])
            text = await tickets.issue(identity(whose, 10**9), place)
            known.append(text)
            model.append((text, whose, place, now + LIFETIME))
            assert len(kept(tickets)._tickets) == len(model)

    mock = MockClock()
    trio.run(run, clock=mock)
