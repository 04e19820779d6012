"""Tickets and limited attempts, on every store."""

import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import trio

from pulse_trio.store.base import AttemptBucket, AttemptVerdict, Store, Ticket, UsedTicket, User
from tests.contract.people import People
from tests.support.commands import carry_out, leave, new_id

HOUR = 3_600.0


def ticket(user: User, *, lifetime: float = 60, **changes: object) -> Ticket:
    values = {"conversation_id": None, "token_expires": 2e9, "signed_in": None, **changes}
    return Ticket(digest=random.randbytes(32), user_id=user.id, lifetime=lifetime, **values)  # type: ignore[arg-type]


async def test_a_ticket_is_used_once_and_names_its_user(store: Store, people: People) -> None:
    alice = await people.user("alice")
    drawn = ticket(alice, token_expires=1_234.5, signed_in=67.25)
    await store.draw_ticket(drawn)
    assert await store.use_ticket(drawn.digest) == UsedTicket(alice, None, 1_234.5, 67.25, None)
    assert await store.use_ticket(drawn.digest) is None
    assert await store.use_ticket(random.randbytes(32)) is None


async def test_a_ticket_for_a_conversation_comes_with_the_membership(store: Store, people: People) -> None:
    alice, bob, stranger = await people.users("alice", "bob", "stranger")
    group = await people.group(alice, bob)
    rev = await store.membership(group, bob.id)
    assert rev is not None
    for user, place, expected in ((bob, group, rev), (stranger, group, None), (bob, new_id(), None)):
        drawn = ticket(user, conversation_id=place)
        await store.draw_ticket(drawn)
        assert await store.use_ticket(drawn.digest) == UsedTicket(user, place, 2e9, None, expected)
    drawn = ticket(bob, conversation_id=group)
    await store.draw_ticket(drawn)
    await carry_out(store, leave(group, bob))
    used = await store.use_ticket(drawn.digest)
    assert used is not None
    assert used.members_rev is None


async def test_an_expired_ticket_and_one_of_nobody_are_rejected(store: Store, people: People) -> None:
    expired = ticket(await people.user("alice"), lifetime=0)
    of_nobody = ticket(User(new_id(), "nobody"))
    for drawn in (expired, of_nobody):
        await store.draw_ticket(drawn)
        assert await store.use_ticket(drawn.digest) is None


async def test_of_parallel_uses_of_each_ticket_one_gets_it(store: Store, people: People) -> None:
    users = await people.users(*(f"user{number}" for number in range(20)))
    drawn = [ticket(user) for user in users]
    won: Counter[str] = Counter()

    async def use(digest: bytes) -> None:
        used = await store.use_ticket(digest)
        if used is not None:
            won[used.user.username] += 1

    async with trio.open_nursery() as nursery:
        for each in drawn:
            nursery.start_soon(store.draw_ticket, each)
    uses = [each.digest for each in drawn] * 5
    random.shuffle(uses)
    async with trio.open_nursery() as nursery:
        for digest in uses:
            nursery.start_soon(use, digest)
    assert won == Counter(user.username for user in users)


async def test_only_the_users_own_oldest_ticket_is_forgotten(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    store.max_tickets_of_user = 3
    of_bob, *of_alice = [ticket(bob), *(ticket(alice) for _ in range(5))]
    for drawn in (of_bob, *of_alice):
        await store.draw_ticket(drawn)
    found = [await store.use_ticket(drawn.digest) for drawn in (of_bob, *of_alice)]
    assert [used and used.user for used in found] == [bob, None, None, alice, alice, alice]


async def test_all_tickets_are_bounded(store: Store, people: People) -> None:
    store.max_tickets = 5
    drawn = [ticket(user) for user in await people.users(*(f"user{number}" for number in range(9)))]
    for each in drawn:
        await store.draw_ticket(each)
    await store.forget_stale()
    found = [await store.use_ticket(each.digest) is not None for each in drawn]
    assert found == [False] * 4 + [True] * 5


def buckets() -> Callable[..., AttemptBucket]:
    """Returns a maker of buckets with keys of their own."""
    numbers = itertools.count()

    def make(burst: float, rate: float | None = None) -> AttemptBucket:
        return AttemptBucket(next(numbers).to_bytes(16, "big"), burst / HOUR if rate is None else rate, burst)

    return make


@pytest.fixture
def bucket() -> Callable[..., AttemptBucket]:
    return buckets()


async def take(store: Store, *groups: Sequence[AttemptBucket]) -> tuple[int, ...]:
    return (await store.take_tokens(groups)).taken


async def test_a_bucket_gives_its_burst(store: Store, bucket: Callable[..., AttemptBucket]) -> None:
    one, other = bucket(3), bucket(1)
    assert [await take(store, [one]) for _ in range(5)] == [(0,)] * 3 + [()] * 2
    verdict = await store.take_tokens([[one]])
    assert verdict.taken == ()
    assert verdict.waits[0] == pytest.approx(1_200, abs=60)
    assert await take(store, [other]) == (0,)


async def test_a_rejected_attempt_takes_nothing(store: Store, bucket: Callable[..., AttemptBucket]) -> None:
    empty, full, one = bucket(1), bucket(2), bucket(1)
    assert await take(store, [empty]) == (0,)
    for _ in range(5):
        assert await take(store, [full, empty]) == ()
        assert await take(store, [empty], [full]) == ()
    assert await take(store, [full], [one]) == (0, 1)
    assert await take(store, [full], [empty], [one, empty]) == (), "nothing of those where one must give"
    assert await take(store, [full]) == (0,)


async def test_one_of_the_further_groups_is_enough(store: Store, bucket: Callable[..., AttemptBucket]) -> None:
    first, second, third = bucket(9), bucket(1), bucket(2)
    assert await take(store, [first], [second], [third]) == (0, 1, 2)
    assert await take(store, [first], [second], [third]) == (0, 2)
    verdict = await store.take_tokens([[first], [second], [third]])
    assert verdict.taken == ()
    assert [round(wait / 600) for wait in verdict.waits] == [0, 6, 3]


async def test_empty_groups_give(store: Store, bucket: Callable[..., AttemptBucket]) -> None:
    one = bucket(1)
    assert await store.take_tokens([[]]) == AttemptVerdict((0,), (0.0,))
    assert await take(store, [], [one]) == (0, 1)
    assert await take(store, [], [one]) == ()
    await store.give_back_tokens([])


async def test_what_is_given_back_can_be_taken_again(store: Store, bucket: Callable[..., AttemptBucket]) -> None:
    one, other = bucket(2), bucket(2)
    for _ in range(5):
        assert [await take(store, [one, other]) for _ in range(3)] == [(0,), (0,), ()]
        await store.give_back_tokens([one])
        await store.give_back_tokens([other, one])
        await store.give_back_tokens([other, one])  # once more than was taken
        assert await take(store, [one]) == (0,)
        await store.give_back_tokens([one])


async def test_a_token_comes_back_in_time(store: Store, bucket: Callable[..., AttemptBucket]) -> None:
    fast, slow = bucket(1, rate=20), bucket(1)
    assert await take(store, [fast]) == (0,)
    assert await take(store, [slow]) == (0,)
    verdict = await store.take_tokens([[fast]])
    while not verdict.taken:
        await trio.sleep(verdict.waits[0])  # at most 50 ms; the clock is the database's
        verdict = await store.take_tokens([[fast]])
    assert await take(store, [slow]) == ()


async def test_parallel_attempts_take_no_more_than_there_is(store: Store, bucket: Callable[..., AttemptBucket]) -> None:
    """The first attempts, which no row exists for, and buckets in every order: no deadlock either."""
    shared, one, other = bucket(7), bucket(30), bucket(1)
    accepted: list[tuple[int, ...]] = []

    async def attempt(number: int) -> None:
        groups = [[shared, one] if number % 2 else [one, shared], [other], [bucket(1)]]
        taken = await take(store, *groups)
        if taken:
            accepted.append(taken)

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(attempt, number)
    assert Counter(accepted) == {(0, 2): 6, (0, 1, 2): 1}


async def test_buckets_are_bounded_and_the_latest_used_stay(store: Store, bucket: Callable[..., AttemptBucket]) -> None:
    store.max_attempt_buckets = 5
    attacked, others = bucket(1), [bucket(1) for _ in range(9)]
    for other in others:
        assert await take(store, [other]) == (0,)
    assert await take(store, [attacked]) == (0,)
    await store.forget_stale()
    assert await take(store, [attacked]) == ()
    assert [await take(store, [other]) for other in others[-4:]] == [()] * 4
    assert await take(store, [others[0]]) == (0,)
