"""Acts at the same time, on every store: whatever the order, the numbers have no holes and the log has everything.

Every act on a group races against itself, against its own repeat, and against every other act.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

import pytest
import trio

from pulse_trio.model import Change, Command, Kind, Member, Message, MyMembership
from pulse_trio.store.base import (
    NoSuchMember,
    NotAMember,
    Outcome,
    ReadMark,
    ReadState,
    StaleRev,
    Store,
    TooManyMembers,
    User,
)
from tests.contract.observed import Observed
from tests.contract.people import People, messages
from tests.support.commands import add, carry_out, delete, edit, leave, post, remove, set_properties


@dataclass
class Arena:
    """A group of alice (its owner), bob and carol, with a message of bob's; dave and eve are not in it."""

    observed: Observed
    group: UUID
    message: Message
    alice: User
    bob: User
    carol: User
    dave: User
    eve: User


Act: TypeAlias = Command | ReadMark

ACTS: Final[dict[str, Callable[[Arena, int], Act]]] = {
    "post": lambda a, n: post(a.group, a.bob, f"post {n}"),
    "post of one client_id": lambda a, n: post(a.group, a.bob, f"post {n}", client_id="same"),
    "edit": lambda a, n: edit(a.message, a.bob, f"edit {n}"),
    "edit of one rev": lambda a, n: edit(a.message, a.bob, f"edit {n}", if_rev=a.message.rev),
    "deletion": lambda a, _: delete(a.message, a.alice),
    "properties": lambda a, n: set_properties(a.group, a.carol, name=f"name {n}"),
    "addition": lambda a, _: add(a.group, a.carol, a.eve, a.dave),
    "addition of the removed": lambda a, _: add(a.group, a.alice, a.dave, a.bob),
    "removal": lambda a, _: remove(a.group, a.alice, a.bob),
    "leave": lambda a, _: leave(a.group, a.bob),
    "leave of the owner": lambda a, _: leave(a.group, a.alice),
    "mark": lambda a, n: ReadMark(a.group, a.bob.id, n),
}


async def make_arena(store: Store, people: People, number: int) -> Arena:
    users = await people.users(*(f"{name}{number}" for name in ("alice", "bob", "carol", "dave", "eve")))
    observed = Observed(store, users)
    new = people.conversation(*users[:3])
    await observed.create(new)
    sent: list[Message] = []
    for text in ("one", "two", "three"):
        sent += messages([await observed.apply(post(new.id, users[1], text))])
    return Arena(observed, new.id, sent[0], *users)


async def race(observed: Observed, acts: Sequence[Act], rand: random.Random) -> list[Outcome | ReadState | None]:
    """Starts all acts at once, in random order; returns their results in the given order."""
    results: dict[int, Outcome | ReadState | None] = {}

    async def perform(number: int, act: Act) -> None:
        results[number] = await (observed.mark_read(act) if isinstance(act, ReadMark) else observed.apply(act))

    numbered = list(enumerate(acts))
    rand.shuffle(numbered)
    async with trio.open_nursery() as nursery:
        for number, act in numbered:
            nursery.start_soon(perform, number, act)
    return [results[number] for number in range(len(acts))]


@pytest.mark.parametrize("first", ACTS)
async def test_acts_race_against_each_other(store: Store, people: People, first: str) -> None:
    rand = random.Random(first)
    for number, second in enumerate(ACTS):
        arena = await make_arena(store, people, number)
        acts = [ACTS[name](arena, n) for n, name in enumerate((first, second, first, second), 1)]
        try:
            await race(arena.observed, [*acts, *acts], rand)
            await arena.observed.check()
        except AssertionError as error:
            error.add_note(f"{first} against {second}")
            raise


async def test_all_acts_race_at_once(store: Store, people: People) -> None:
    rand = random.Random(0)
    for number in range(5):
        arena = await make_arena(store, people, number)
        for _ in range(3):
            await race(arena.observed, [make(arena, rand.randint(1, 4)) for make in ACTS.values()] * 2, rand)
        await arena.observed.check()


async def test_groups_with_the_same_users_race_without_a_deadlock(store: Store, people: People) -> None:
    """Rows of users are locked in the order of their ids, whatever the order in the command."""
    users = await people.users("ann", "bob", *(f"u{n}" for n in range(8)))
    ann, bob, *others = users
    observed = Observed(store, users)
    rand = random.Random(1)
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            rand.shuffle(others)
            new = people.conversation(*rand.sample([ann, bob], 2), *others[:3])
            nursery.start_soon(observed.create, new)
    groups = [each.id for each in await people.listed(ann)]
    assert len(groups) == 6
    for group in groups:
        await observed.apply(post(group, ann))
    acts: list[Act] = []
    for group in groups:
        for user in (ann, bob):
            acts.append(add(group, user, *rand.sample(others, 8)))
            acts += [ReadMark(group, user.id, 1), *(remove(group, user, other) for other in rand.sample(others, 2))]
    await race(observed, acts, rand)
    await observed.check()


# --- one winner ---


async def test_of_racing_additions_each_user_is_added_by_one(store: Store, people: People) -> None:
    arena = await make_arena(store, people, 0)
    a = arena
    acts = [add(a.group, actor, *pair) for actor in (a.alice, a.bob) for pair in ((a.dave, a.eve), (a.eve, a.dave))]
    outcomes = await race(a.observed, acts, random.Random(0))
    changes = [change for outcome in outcomes if isinstance(outcome, tuple) for change in outcome]
    added = [change.user_id for change in changes if isinstance(change, Member)]
    assert sorted(added) == sorted([a.dave.id, a.eve.id])
    await a.observed.check()


async def test_of_racing_additions_one_gets_the_last_place(store: Store, people: People) -> None:
    arena = await make_arena(store, people, 0)
    acts = [add(arena.group, arena.alice, user, limit=4) for user in (arena.dave, arena.eve)]
    outcomes = await race(arena.observed, acts, random.Random(0))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == [TooManyMembers.__name__, "tuple"]
    assert len((await store.members(arena.group)).ids) == 4
    await arena.observed.check()


async def test_of_racing_edits_of_one_rev_one_is_accepted(store: Store, people: People) -> None:
    arena = await make_arena(store, people, 0)
    acts = [edit(arena.message, arena.bob, f"edit {n}", if_rev=1) for n in range(5)]
    outcomes = await race(arena.observed, acts, random.Random(0))
    (accepted,) = [messages([outcome])[0] for outcome in outcomes if isinstance(outcome, tuple)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, StaleRev)]
    assert [refusal.current for refusal in refused] == [accepted] * 4
    await arena.observed.check()


async def test_of_a_racing_leave_and_removal_one_is_carried_out(store: Store, people: People) -> None:
    arena = await make_arena(store, people, 0)
    acts = [leave(arena.group, arena.bob), remove(arena.group, arena.alice, arena.bob)]
    outcomes = await race(arena.observed, acts, random.Random(0))
    (refusal,) = [outcome for outcome in outcomes if not isinstance(outcome, tuple)]
    assert isinstance(refusal, NotAMember if refusal is outcomes[0] else NoSuchMember)
    await arena.observed.check()


@pytest.mark.parametrize("is_group", [True, False])
async def test_of_racing_creations_one_creates(store: Store, people: People, is_group: bool) -> None:
    """Of a group with one id, and of a one-to-one from both sides with ids of their own."""
    alice, bob = await people.users("alice", "bob")
    observed = Observed(store, [alice, bob])
    if is_group:
        news = [people.conversation(alice, bob)] * 4
    else:
        news = [people.conversation(*pair, is_group=False) for pair in [(alice, bob), (bob, alice)] * 2]
    created = []

    async def create(number: int) -> None:
        created.append(await observed.create(news[number]))

    async with trio.open_nursery() as nursery:
        for number in range(len(news)):
            nursery.start_soon(create, number)
    assert sorted(each.is_new for each in created) == [False, False, False, True]
    assert len({each.conversation.id for each in created}) == 1
    await observed.check()


# --- readers ---


async def test_walk_among_racing_changes_misses_nothing(store: Store, people: People) -> None:
    """A client that resumes page by page, while others change things, ends with what a new client loads."""
    arena = await make_arena(store, people, 0)
    rand = random.Random(2)
    known: dict[object, Change] = {}
    own: dict[UUID, MyMembership] = {}
    last_rev = user_rev = 0
    is_over = False

    async def follow(limit: int) -> bool:
        nonlocal last_rev
        page = await store.changes(arena.group, after_rev=last_rev, kinds=Kind.ALL, limit=limit)
        for change in page:
            assert change.rev > last_rev
            last_rev = change.rev
            known[_object(change)] = change
        return bool(page)

    async def follow_own(limit: int) -> bool:
        nonlocal user_rev
        page = await store.user_changes(arena.bob.id, after_rev=user_rev, limit=limit)
        for membership in page:
            assert membership.user_rev > user_rev
            user_rev = membership.user_rev
            own[membership.conversation_id] = membership
        return bool(page)

    async def read() -> None:
        while not is_over:
            await follow(2)
            await follow_own(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for _ in range(8):
            acts = [make(arena, rand.randint(1, 4)) for name, make in ACTS.items() if name != "leave of the owner"]
            await race(arena.observed, acts, rand)
        is_over = True
    while await follow(2) or await follow_own(1):
        pass
    log = await people.log(arena.group)
    assert {key: change.rev for key, change in known.items()} == {_object(change): change.rev for change in log}
    assert list(own.values()) == await people.own_log(arena.bob)
    await arena.observed.check()


async def test_members_and_heads_are_of_one_moment(store: Store, people: People) -> None:
    """The members of an answer are those that the log has at its rev."""
    arena = await make_arena(store, people, 0)
    seen: list[tuple[int, tuple[UUID, ...]]] = []
    is_over = False

    async def read() -> None:
        while not is_over:
            members = await store.members(arena.group)
            seen.append((members.rev, members.ids))

    history: dict[int, tuple[UUID, ...]] = {0: (await store.members(arena.group)).ids}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for _ in range(10):
            for command in (add(arena.group, arena.alice, arena.dave, arena.eve), leave(arena.group, arena.dave)):
                await carry_out(store, command)
                members = await store.members(arena.group)
                history[members.rev] = members.ids
            await carry_out(store, remove(arena.group, arena.alice, arena.eve))
            members = await store.members(arena.group)
            history[members.rev] = members.ids
        is_over = True
    assert seen
    for rev, ids in seen:
        assert history[rev] == ids


def _object(change: Change) -> object:
    if isinstance(change, Message):
        return change.id
    return change.user_id if isinstance(change, Member) else "properties"
