"""Read positions and last-seen times, on every store."""

import pytest

from pulse_trio.model import MyMembership
from pulse_trio.store.base import NotAMember, ReadMark, ReadState, Store
from tests.contract.people import People
from tests.support.commands import add, at, carry_out, new_id, remove, set_properties


async def test_a_read_position_never_moves_back(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)  # the first number of each user's own sequence
    await people.send(group, alice, *"abcde")
    assert await store.mark_read([ReadMark(group, alice.id, 3)]) == [ReadState(3, 5, user_rev=2)]
    assert await store.mark_read([ReadMark(group, alice.id, 2)]) == [ReadState(3, 5, user_rev=2)]
    assert await store.mark_read([ReadMark(group, alice.id, 3)]) == [ReadState(3, 5, user_rev=2)]
    assert await store.mark_read([ReadMark(group, alice.id, 5)]) == [ReadState(5, 5, user_rev=3)]
    assert await people.positions(group, bob) == [(alice.id, 5), (bob.id, 0)]


async def test_a_mark_beyond_the_last_message_moves_nothing(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    assert await store.mark_read([ReadMark(group, alice.id, 1)]) == [ReadState(0, 0, user_rev=1)]
    await people.send(group, alice, "a", "b")
    # It does not affect other marks of the same call.
    marks = [ReadMark(group, alice.id, 3), ReadMark(group, alice.id, 1), ReadMark(group, bob.id, 2)]
    assert await store.mark_read(marks) == [ReadState(1, 2, 2), ReadState(1, 2, 2), ReadState(2, 2, 2)]
    assert await store.mark_read([ReadMark(group, alice.id, 10**18 - 1)]) == [ReadState(1, 2, 2)]


async def test_marks_of_several_conversations_share_a_call(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    first, second = await people.group(alice, bob), await people.group(bob, alice)
    await people.send(first, alice, "a", "b")
    await people.send(second, bob, "c")
    marks = [
        ReadMark(second, alice.id, 1),
        ReadMark(first, eve.id, 1),
        ReadMark(new_id(), alice.id, 1),
        ReadMark(first, bob.id, 2),
        ReadMark(first, alice.id, 1),
    ]
    states = await store.mark_read(marks)
    assert [state and (state.read_seq, state.last_seq) for state in states] == [(1, 1), None, None, (2, 2), (1, 2)]
    assert await store.mark_read([]) == []
    assert await people.positions(first, alice) == [(alice.id, 1), (bob.id, 2)]
    assert await people.positions(second, alice) == [(bob.id, 0), (alice.id, 1)]
    # Both of Alice's moved, so each has a number of its own, in any order.
    changes = await people.own_log(alice, after_rev=2)
    assert [change.user_rev for change in changes] == [3, 4]
    revs = {change.conversation_id: change.user_rev for change in changes}
    assert [state and state.user_rev for state in states] == [revs[second], None, None, 3, revs[first]]


async def test_two_marks_of_one_member_move_the_position_once(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    await people.send(group, alice, *"abc")
    marks = [ReadMark(group, alice.id, seq) for seq in (1, 3, 2)]
    assert await store.mark_read(marks) == [ReadState(3, 3, user_rev=2)] * 3
    assert await people.own_log(alice) == [MyMembership(group, alice.id, 2, is_member=True, read_seq=3)]


async def test_a_conversation_shows_the_requesters_read_position(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    pair = (await people.direct(alice, bob)).conversation
    await people.send(group, alice, *"abc")
    await people.send(pair.id, alice, "d")
    await store.mark_read([ReadMark(group, alice.id, 2), ReadMark(group, bob.id, 3), ReadMark(pair.id, bob.id, 1)])
    seen = {}
    for user in (alice, bob):
        found = await people.seen(group, user)
        seen[user.username] = found.read_seq, found.head.last_seq
        assert found in await people.listed(user)
    assert seen == {"alice": (2, 3), "bob": (3, 3)}
    await carry_out(store, set_properties(group, bob, name="New"))
    assert (await people.seen(group, bob)).read_seq == 3
    for user, read_seq in ((bob, 1), (alice, 0)):
        other = alice if user == bob else bob
        again = await people.direct(user, other)
        assert (again.is_new, again.conversation.read_seq) == (False, read_seq)


async def test_an_added_member_starts_at_the_end(store: Store, people: People) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    group = await people.group(alice, bob)
    await people.send(group, alice, "a", "b")
    await carry_out(store, add(group, alice, carol, bob))
    assert await people.positions(group, carol) == [(alice.id, 0), (bob.id, 0), (carol.id, 2)]
    assert await people.own_log(carol) == [MyMembership(group, carol.id, 1, is_member=True, read_seq=2)]


async def test_a_removed_member_cannot_mark_and_starts_again_at_the_end(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    await people.send(group, alice, "a", "b", "c")
    await store.mark_read([ReadMark(group, bob.id, 1)])
    await carry_out(store, remove(group, alice, bob))
    assert await store.mark_read([ReadMark(group, bob.id, 3)]) == [None]
    assert await people.own_log(bob) == [MyMembership(group, bob.id, 3, is_member=False, read_seq=0)]
    with pytest.raises(NotAMember):
        await people.positions(group, bob)
    assert await people.positions(group, alice) == [(alice.id, 0)]
    await people.send(group, alice, "d")
    await carry_out(store, add(group, alice, bob))
    assert await people.positions(group, bob) == [(alice.id, 0), (bob.id, 4)]


async def test_only_members_see_positions(store: Store, people: People) -> None:
    alice, eve = await people.users("alice", "eve")
    group = await people.group(alice)
    for conversation_id, user in ((group, eve), (new_id(), alice)):
        with pytest.raises(NotAMember):
            await people.positions(conversation_id, user)


async def test_the_latest_time_seen_counts(store: Store, people: People) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    await people.group(alice, bob, carol)
    everybody = [alice.id, bob.id, carol.id]
    assert await store.acquaintances(alice.id, everybody) == dict.fromkeys(everybody)
    await store.mark_seen({alice.id: at(1), bob.id: at(2)})
    await store.mark_seen({alice.id: at(3), bob.id: at(1), new_id(): at(1)})
    await store.mark_seen({})
    assert await store.acquaintances(alice.id, everybody) == {alice.id: at(3), bob.id: at(2), carol.id: None}


async def test_acquaintances_share_a_conversation(store: Store, people: People) -> None:
    alice, bob, carol, dave, eve = await people.users("alice", "bob", "carol", "dave", "eve")
    first, second = await people.group(alice, bob), await people.group(bob, alice, carol)
    await people.direct(dave, alice)
    await people.group(bob, eve)
    everybody = [user.id for user in (alice, bob, carol, dave, eve)]

    async def known(user_id: object) -> set[str]:
        found = await store.acquaintances(user_id, [*everybody, new_id()])  # type: ignore[arg-type]
        names = dict(zip(everybody, "abcde", strict=True))
        return {names[key] for key in found}

    assert await known(alice.id) == set("abcd")
    assert await known(eve.id) == set("be")
    assert await known(new_id()) == set()
    assert await store.acquaintances(alice.id, [carol.id]) == {carol.id: None}
    assert await store.acquaintances(alice.id, []) == {}
    await carry_out(store, remove(first, alice, bob))
    assert await known(alice.id) == set("abcd"), "they still share another"
    await carry_out(store, remove(second, bob, alice))
    assert await known(alice.id) == set("ad")
    assert await known(bob.id) == set("bce")
