"""Read positions and last-seen times, on every store."""

import pytest

from pulse_trio.store.base import NotAMember, ReadMark, ReadState, Store
from tests.contract.people import People, at


async def test_a_read_position_never_moves_back(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    await people.send(group, alice, *"abcde")
    assert await store.mark_read([ReadMark(group, alice.id, 3)]) == [ReadState(3, 5)]
    assert await store.mark_read([ReadMark(group, alice.id, 2)]) == [ReadState(3, 5)]
    assert await store.mark_read([ReadMark(group, alice.id, 3)]) == [ReadState(3, 5)]
    assert await store.mark_read([ReadMark(group, alice.id, 5)]) == [ReadState(5, 5)]
    assert await people.positions(group, bob) == [(alice.id, 5), (bob.id, 0)]


async def test_a_mark_beyond_the_last_message_moves_nothing(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    assert await store.mark_read([ReadMark(group, alice.id, 1)]) == [ReadState(0, 0)]
    await people.send(group, alice, "a", "b")
    # It does not affect other marks of the same call.
    marks = [ReadMark(group, alice.id, 3), ReadMark(group, alice.id, 1), ReadMark(group, bob.id, 2)]
    assert await store.mark_read(marks) == [ReadState(1, 2), ReadState(1, 2), ReadState(2, 2)]
    assert await store.mark_read([ReadMark(group, alice.id, 10**18 - 1)]) == [ReadState(1, 2)]


async def test_marks_of_several_conversations_share_a_call(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    first, second = await people.group(alice, bob), await people.group(bob, alice)
    await people.send(first, alice, "a", "b")
    await people.send(second, bob, "c")
    unknown = people.new_id()
    marks = [
        ReadMark(second, alice.id, 1),
        ReadMark(first, eve.id, 1),
        ReadMark(unknown, alice.id, 1),
        ReadMark(first, bob.id, 2),
        ReadMark(first, alice.id, 1),
    ]
    assert await store.mark_read(marks) == [ReadState(1, 1), None, None, ReadState(2, 2), ReadState(1, 2)]
    assert await store.mark_read([]) == []
    assert await people.positions(first, alice) == [(alice.id, 1), (bob.id, 2)]
    assert await people.positions(second, alice) == [(bob.id, 0), (alice.id, 1)]


async def test_a_conversation_shows_the_requesters_read_position(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    pair, _ = await people.direct(alice, bob)
    await people.send(group, alice, *"abc")
    await people.send(pair.id, alice, "d")
    await store.mark_read([ReadMark(group, alice.id, 2), ReadMark(group, bob.id, 3), ReadMark(pair.id, bob.id, 1)])
    seen = {}
    for user in (alice, bob):
        found = await store.get_conversation(group, user.id)
        assert found is not None
        seen[user.username] = found.read_seq, found.head.last_seq
        listed, _ = await store.list_conversations(user.id, limit=9, offset=0)
        assert found in listed
    assert seen == {"alice": (2, 3), "bob": (3, 3)}
    assert (await store.rename(group, bob.id, {"name": "New"}, now=at(1))).read_seq == 3
    again, created = await people.direct(bob, alice)
    assert (created, again.read_seq) == (False, 1)
    again, created = await people.direct(alice, bob)
    assert (created, again.read_seq) == (False, 0)


async def test_an_added_member_starts_at_the_end(store: Store, people: People) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    group = await people.group(alice, bob)
    await people.send(group, alice, "a", "b")
    await store.add_members(group, alice.id, [carol.id, bob.id], limit=9, now=at(1))
    assert await people.positions(group, carol) == [(alice.id, 0), (bob.id, 0), (carol.id, 2)]


async def test_a_removed_member_cannot_mark_and_starts_again_at_the_end(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    await people.send(group, alice, "a", "b", "c")
    await store.mark_read([ReadMark(group, bob.id, 1)])
    await store.remove_member(group, alice.id, bob.id, now=at(1))
    assert await store.mark_read([ReadMark(group, bob.id, 3)]) == [None]
    with pytest.raises(NotAMember):
        await people.positions(group, bob)
    assert await people.positions(group, alice) == [(alice.id, 0)]
    await people.send(group, alice, "d")
    await store.add_members(group, alice.id, [bob.id], limit=9, now=at(2))
    assert await people.positions(group, bob) == [(alice.id, 0), (bob.id, 4)]


async def test_only_members_see_positions(store: Store, people: People) -> None:
    alice, eve = await people.users("alice", "eve")
    group = await people.group(alice)
    for conversation_id, user in ((group, eve), (people.new_id(), alice)):
        with pytest.raises(NotAMember):
            await people.positions(conversation_id, user)


async def test_the_latest_time_seen_counts(store: Store, people: People) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    await people.group(alice, bob, carol)
    everybody = [alice.id, bob.id, carol.id]
    assert await store.acquaintances(alice.id, everybody) == dict.fromkeys(everybody)
    await store.mark_seen({alice.id: at(1), bob.id: at(2)})
    await store.mark_seen({alice.id: at(3), bob.id: at(1), people.new_id(): at(1)})
    await store.mark_seen({})
    assert await store.acquaintances(alice.id, everybody) == {alice.id: at(3), bob.id: at(2), carol.id: None}


async def test_acquaintances_share_a_conversation(store: Store, people: People) -> None:
    alice, bob, carol, dave, eve = await people.users("alice", "bob", "carol", "dave", "eve")
    first, second = await people.group(alice, bob), await people.group(bob, alice, carol)
    await people.direct(dave, alice)
    await people.group(bob, eve)
    everybody = [user.id for user in (alice, bob, carol, dave, eve)]

    async def known(user_id: object) -> set[str]:
        found = await store.acquaintances(user_id, [*everybody, people.new_id()])  # type: ignore[arg-type]
        names = dict(zip(everybody, "abcde", strict=True))
        return {names[key] for key in found}

    assert await known(alice.id) == set("abcd")
    assert await known(eve.id) == set("be")
    assert await known(people.new_id()) == set()
    assert await store.acquaintances(alice.id, [carol.id]) == {carol.id: None}
    assert await store.acquaintances(alice.id, []) == {}
    await store.remove_member(first, alice.id, bob.id, now=at(1))
    assert await known(alice.id) == set("abcd"), "they still share another"
    await store.remove_member(second, bob.id, alice.id, now=at(2))
    assert await known(alice.id) == set("ad")
    assert await known(bob.id) == set("bce")
