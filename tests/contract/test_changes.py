"""The log of a conversation's changes, and each user's own sequence, on every store."""

from dataclasses import replace

from pulse_trio.model import Kind, Member, MyMembership, Properties
from pulse_trio.store.base import Head, ReadMark, Store
from tests.contract.people import People
from tests.support.commands import (
    add,
    carry_out,
    changed_message,
    delete,
    edit,
    leave,
    new_id,
    post,
    remove,
    set_properties,
)


async def test_all_kinds_share_one_order(store: Store, people: People) -> None:
    """The example of `pulse_trio/store/base.py`."""
    alice, bob = await people.users("alice", "Bob")
    group = await people.group(alice)
    first, second = await people.send(group, alice, "a", "b")
    edited = await changed_message(store, edit(first, alice, "A"))
    await carry_out(store, add(group, alice, bob))
    named = await carry_out(store, set_properties(group, alice, name="Crew"))
    member = Member(group, 4, bob.id, "Bob", is_member=True, actor_id=alice.id, member_count=2)
    assert named == (Properties(group, 5, "Crew", None, owner_id=alice.id, actor_id=alice.id),)
    assert (edited.seq, edited.rev) == (1, 3)
    assert await people.log(group) == [second, edited, member, *named]
    assert await people.log(group, after_rev=2) == [edited, member, *named]
    assert await store.head(group) == Head(2, 5, message_rev=3, members_rev=4, properties_rev=5)


async def test_each_object_is_there_once_as_it_now_is(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice)
    for command in (
        add(group, alice, bob),
        set_properties(group, alice, name="1"),
        remove(group, alice, bob),
        set_properties(group, alice, name="2"),
        add(group, alice, bob),
        set_properties(group, alice, description="3"),
    ):
        await carry_out(store, command)
    member = Member(group, 5, bob.id, "bob", is_member=True, actor_id=alice.id, member_count=2)
    properties = Properties(group, 6, "2", "3", owner_id=alice.id, actor_id=alice.id)
    for after_rev in range(5):
        assert await people.log(group, after_rev=after_rev) == [member, properties]
    assert await people.log(group, after_rev=5) == [properties]
    assert await people.log(group, after_rev=6) == []
    await carry_out(store, leave(group, bob))
    tombstone = replace(member, rev=7, is_member=False, actor_id=bob.id, member_count=1)
    assert await people.log(group) == [properties, tombstone]


async def test_pages_of_changes_follow_each_other(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group, other = await people.group(alice), await people.group(alice)
    sent = await people.send(group, alice, *map(str, range(6)))
    await people.send(other, alice, "elsewhere")
    edited = await changed_message(store, edit(sent[1], alice, "edited"))
    named = await carry_out(store, set_properties(group, alice, name="x"))
    everything = [sent[0], *sent[2:], edited, *named]
    assert await people.log(group) == everything
    for after_rev, page in ((0, everything[:2]), (1, everything[1:3]), (6, everything[5:]), (7, everything[6:])):
        found = await store.changes(group, after_rev=after_rev, kinds=Kind.ALL, limit=2)
        assert found == page, after_rev
    for after_rev in (8, 9, 10**6):
        assert await people.log(group, after_rev=after_rev) == []
    assert await people.log(new_id()) == []


async def test_only_the_asked_kinds_are_returned(store: Store, people: People) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    group = await people.group(alice, carol)
    await people.send(group, alice, "a", "b")
    for command in (
        add(group, alice, bob),
        set_properties(group, bob, name="x"),
        leave(group, alice),
        post(group, bob),
    ):
        await carry_out(store, command)
    everything = await people.log(group)
    assert [(change.rev, change.kind) for change in everything] == [
        (1, Kind.MESSAGE),
        (2, Kind.MESSAGE),
        (3, Kind.MEMBER),
        (5, Kind.MEMBER),
        (6, Kind.CONVERSATION),
        (7, Kind.MESSAGE),
    ]
    for kinds in range(Kind.ALL + 1):
        expected = [change for change in everything if change.kind & kinds]
        assert await people.log(group, kinds=kinds) == expected, kinds
        # A page is full of the asked kinds, however many others lie between.
        first = await store.changes(group, after_rev=0, kinds=kinds, limit=2)
        assert first == expected[:2], kinds


async def test_outcomes_are_the_changes_of_the_log(store: Store, people: People) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    group = await people.group(alice, bob)
    (message,) = await people.send(group, bob, "one")
    for command in (
        edit(message, bob, "two"),
        delete(message, alice),
        set_properties(group, bob, description="d"),
        add(group, bob, carol),
        remove(group, alice, bob),
        add(group, carol, bob),
        leave(group, alice),
    ):
        head = await store.head(group)
        outcome = await carry_out(store, command)
        # A user's own number is known to the command, and not to who reads later.
        logged = [replace(change, user_rev=0) if isinstance(change, Member) else change for change in outcome]
        assert await people.log(group, after_rev=head.last_rev) == logged
        assert [change.rev for change in outcome] == list(range(head.last_rev + 1, head.last_rev + len(outcome) + 1))


# --- each user's own sequence ---


async def test_own_sequence_has_each_conversation_once(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group, other = await people.group(alice), await people.group(alice)
    await people.send(group, alice, "a", "b")
    # Bob is away meanwhile.
    for command in (add(group, alice, bob), remove(group, alice, bob), add(other, alice, bob), add(group, alice, bob)):
        await carry_out(store, command)
    await people.send(group, alice, "c")
    first = MyMembership(other, bob.id, 3, is_member=True, read_seq=0)
    second = MyMembership(group, bob.id, 4, is_member=True, read_seq=2)
    for after_rev in range(3):
        assert await people.own_log(bob, after_rev=after_rev) == [first, second]
    assert await people.own_log(bob, after_rev=3) == [second]
    assert await people.own_log(bob, after_rev=4) == []
    assert await store.user_changes(bob.id, after_rev=0, limit=1) == [first]
    assert await store.user_changes(bob.id, after_rev=3, limit=1) == [second]
    await carry_out(store, remove(other, alice, bob))
    await store.mark_read([ReadMark(group, bob.id, 3)])
    assert await people.own_log(bob) == [
        MyMembership(other, bob.id, 5, is_member=False, read_seq=0),
        MyMembership(group, bob.id, 6, is_member=True, read_seq=3),
    ]
    assert (await store.memberships(bob.id)).user_rev == 6
    assert await people.own_log(alice) == [
        MyMembership(group, alice.id, 1, is_member=True, read_seq=0),
        MyMembership(other, alice.id, 2, is_member=True, read_seq=0),
    ]
    assert await store.user_changes(new_id(), after_rev=0, limit=9) == []


async def test_only_changes_of_their_own_membership_take_a_users_number(store: Store, people: People) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    group = await people.group(alice, bob)
    own = await people.own_log(alice)
    (message,) = await people.send(group, bob, "one")
    for command in (
        edit(message, bob, "two"),
        delete(message, bob),
        set_properties(group, bob, name="x"),
        add(group, bob, carol, alice),
        leave(group, bob),
        remove(group, alice, carol),
    ):
        await carry_out(store, command)
    await store.mark_read([ReadMark(group, alice.id, 9), ReadMark(group, bob.id, 1)])
    assert await people.own_log(alice) == own == [MyMembership(group, alice.id, 1, is_member=True, read_seq=0)]
    assert (await store.memberships(alice.id)).user_rev == 1
    # An owner who inherits nothing but the ownership has the same membership.
    await carry_out(store, add(group, alice, bob))
    await carry_out(store, leave(group, alice))
    assert [change.user_rev for change in await people.own_log(bob)] == [3]
    assert await people.own_log(alice) == [MyMembership(group, alice.id, 2, is_member=False, read_seq=0)]
