"""Conversations, their lists and their properties, on every store."""

from uuid import UUID

import pytest

from pulse_trio.model import MyMembership, Properties
from pulse_trio.store.base import (
    Head,
    Memberships,
    NotAGroup,
    NotAMember,
    ReadMark,
    Store,
    StoreRefused,
    UnknownUsers,
    User,
)
from pulse_trio.store.page_size import conversation_bytes
from tests.contract.people import People
from tests.support.commands import (
    add,
    at,
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


async def test_created_group_has_the_given_values(store: Store, people: People) -> None:
    carol, alice, bob = await people.users("carol", "alice", "bob")
    new = people.conversation(carol, alice, bob, name="Ünïcode", description="What for", created_at=at(5))
    created = await store.create_conversation(new)
    assert created.is_new
    made = created.conversation
    assert (made.id, made.name, made.description, made.is_group) == (new.id, "Ünïcode", "What for", True)
    assert made.owner_id == carol.id
    assert made.members == (carol, alice, bob)
    assert (made.created_at, made.updated_at) == (at(5), at(5))
    assert made.head == Head(0, 0)
    assert made.last_message is None
    assert await store.get_conversation(new.id, bob.id) == made
    assert await store.head(new.id) == Head(0, 0)


async def test_creation_takes_a_number_of_each_members_own_sequence(store: Store, people: People) -> None:
    bob, alice, carol = await people.users("bob", "alice", "carol")
    await people.group(alice)
    created = await store.create_conversation(people.conversation(carol, alice, bob))
    group = created.conversation.id
    expected = [MyMembership(group, user.id, rev, is_member=True, read_seq=0) for user, rev in ((bob, 1), (alice, 2))]
    expected.append(MyMembership(group, carol.id, 1, is_member=True, read_seq=0))
    assert [user.id for user in (bob, alice, carol)] == sorted(user.id for user in (bob, alice, carol))
    assert created.memberships == tuple(expected)
    for user, membership in zip((bob, alice, carol), expected, strict=True):
        assert (await people.own_log(user))[-1] == membership
        assert (await store.memberships(user.id)).user_rev == membership.user_rev
    assert await people.log(group) == [], "initial members and properties have no change of their own"


async def test_two_groups_may_have_the_same_members(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    first, second = await people.group(alice, bob), await people.group(alice, bob)
    assert first != second
    assert len(await people.listed(alice)) == 2


async def test_existing_one_to_one_is_returned_to_both(store: Store, people: People) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    created = await people.direct(alice, bob)
    made = created.conversation
    assert created.is_new
    assert {each.user_id for each in created.memberships} == {alice.id, bob.id}
    assert made.members == (alice, bob)
    assert not made.is_group
    await people.send(made.id, bob, "hi")
    for owner, other in ((alice, bob), (bob, alice)):
        again = await people.direct(owner, other)
        assert (again.is_new, again.memberships) == (False, ())
        assert again.conversation == await store.get_conversation(made.id, alice.id)
        assert again.conversation.members == (alice, bob)
        assert again.conversation.owner_id == alice.id
        assert again.conversation.head == Head(1, 1, message_rev=1)
    assert (await store.memberships(bob.id)).user_rev == 1
    other_pair = await people.direct(alice, carol)
    assert other_pair.is_new
    assert other_pair.conversation.id != made.id
    assert await people.group(alice, bob) != made.id


@pytest.mark.parametrize("is_group", [True, False])
async def test_repeated_creation_returns_the_existing_one(store: Store, people: People, is_group: bool) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    new = people.conversation(alice, bob, is_group=is_group)
    await store.create_conversation(new)
    await people.send(new.id, bob, "hi")
    if is_group:
        await carry_out(store, add(new.id, bob, carol))
        await carry_out(store, set_properties(new.id, bob, name="Renamed"))
    other = await people.group(alice)
    logs = [await people.own_log(user) for user in (alice, bob, carol)]
    again = await store.create_conversation(new)
    assert (again.is_new, again.memberships) == (False, ())
    assert again.conversation == await store.get_conversation(new.id, alice.id)
    assert [await people.own_log(user) for user in (alice, bob, carol)] == logs
    assert [each.id for each in await people.listed(alice)] == [other, new.id], "a repeat is no activity"


async def test_repeated_creation_is_refused_once_its_owner_has_left(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    new = people.conversation(alice, bob)
    await store.create_conversation(new)
    await carry_out(store, leave(new.id, alice))
    with pytest.raises(NotAMember):
        await store.create_conversation(new)


@pytest.mark.parametrize("is_group", [True, False])
async def test_unknown_users_are_named_and_nothing_is_created(store: Store, people: People, is_group: bool) -> None:
    alice, bob = await people.users("alice", "bob")
    ghosts = [User(new_id(), f"ghost {n}") for n in range(2)]
    others = [ghosts[1], bob, ghosts[0]] if is_group else [ghosts[0]]
    new = people.conversation(alice, *others, is_group=is_group)
    with pytest.raises(UnknownUsers) as caught:
        await store.create_conversation(new)
    assert list(caught.value.ids) == [other.id for other in others if other != bob]
    assert await people.listed(alice) == []
    assert await store.memberships(alice.id) == Memberships({}, user_rev=0)
    with pytest.raises(NotAMember):
        await store.head(new.id)


async def test_only_members_get_a_conversation(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    group = await people.group(alice, bob)
    assert await store.get_conversation(group, eve.id) is None
    assert await store.get_conversation(new_id(), alice.id) is None
    assert await store.get_conversation(group, new_id()) is None
    assert await store.membership(group, bob.id) is not None
    assert await store.membership(group, eve.id) is None
    assert await store.membership(new_id(), alice.id) is None
    assert await people.listed(eve) == []


# --- lists ---


async def test_list_has_the_latest_activity_first(store: Store, people: People) -> None:
    """Activity is numbered as it is committed, so the times of commands do not matter."""
    alice, bob, eve = await people.users("alice", "bob", "eve")
    old = await people.group(alice, bob, created_at=at(3))
    middle = await people.group(bob, alice, created_at=at(2))
    young = await people.group(alice, eve, created_at=at(1))
    await people.group(bob, eve, created_at=at(4))

    async def listed() -> list[UUID]:
        conversations = await people.listed(alice)
        for conversation in conversations:
            assert conversation == await store.get_conversation(conversation.id, alice.id)
        return [conversation.id for conversation in conversations]

    assert await listed() == [young, middle, old]
    first = post(old, bob, at=at(-10))
    message = await changed_message(store, first)
    assert await listed() == [old, young, middle]
    await carry_out(store, set_properties(middle, alice, name="New", at=at(-11)))
    assert await listed() == [middle, old, young]
    await carry_out(store, post(young, eve, at=at(-5)))
    assert await listed() == [young, middle, old]
    addition = add(middle, alice, eve, at=at(-12))
    await carry_out(store, addition)
    assert await listed() == [middle, young, old]
    await carry_out(store, leave(old, bob, at=at(-13)))
    assert await listed() == [old, middle, young]
    await carry_out(store, remove(young, alice, eve, at=at(-14)))
    assert await listed() == [young, old, middle]
    # Neither edits, nor repeats, nor what changes nothing, nor reading is activity.
    await carry_out(store, post(middle, alice))
    await store.mark_read([ReadMark(old, alice.id, 1)])
    for command in (
        first,
        addition,
        add(young, alice, alice),
        set_properties(young, alice, name="Team"),
        delete(message, alice, at=at(99)),
    ):
        await carry_out(store, command)
        assert await listed() == [middle, young, old]


async def test_list_is_paged(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    made = [await people.group(alice) for _ in range(5)]
    by_offset: list[UUID] = []
    for offset in (0, 2, 4, 6):
        page = await store.list_conversations(alice.id, limit=2, offset=offset)
        assert page.total == 5
        assert (page.next_before is None) == (offset >= 4)
        by_offset += [conversation.id for conversation in page.conversations]
    assert by_offset == made[::-1]
    assert await _by_cursor(store, alice, limit=2) == made[::-1]
    assert await _by_cursor(store, alice, limit=5) == made[::-1]
    assert (await store.list_conversations(alice.id, limit=5)).next_before is None


async def test_a_list_ends_before_it_exceeds_its_bytes(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    made = [await people.group(alice) for _ in range(6)]
    for group, text in zip(made, ("x", "l" * 4_000, "界" * 3_000, "\x01" * 900, "y", "z" * 20_000), strict=True):
        await people.send(group, alice, text)
    for bound in (1, 8_000, 14_000, 10**6):
        assert await _by_cursor(store, alice, limit=4, max_bytes=bound) == made[::-1]
        page = await store.list_conversations(alice.id, limit=4, max_bytes=bound)
        assert len(page.conversations) == (4 if bound == 10**6 else 1), "the first one always fits"
        page = await store.list_conversations(alice.id, limit=4, offset=1, max_bytes=bound)
        sizes = [conversation_bytes(conversation) for conversation in page.conversations]
        assert sum(sizes) <= bound or len(sizes) == 1
        assert len(sizes) == {1: 1, 8_000: 2, 14_000: 2, 10**6: 4}[bound]


async def _by_cursor(store: Store, user: User, *, limit: int, max_bytes: int | None = None) -> list[UUID]:
    found: list[UUID] = []
    page = await store.list_conversations(user.id, limit=limit, max_bytes=max_bytes)
    while True:
        found += [conversation.id for conversation in page.conversations]
        if page.next_before is None:
            return found
        page = await store.list_conversations(user.id, limit=limit, before=page.next_before, max_bytes=max_bytes)


async def test_conversation_that_moves_up_while_one_pages_hides_no_other(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    made = [await people.group(alice) for _ in range(6)]
    first = await store.list_conversations(alice.id, limit=2)
    assert [conversation.id for conversation in first.conversations] == [made[5], made[4]]
    # One that was seen, one that is to come, and a new one.
    await people.send(made[4], alice, "up")
    await people.send(made[1], alice, "up")
    await people.group(alice)
    second = await store.list_conversations(alice.id, limit=2, before=first.next_before)
    assert ([conversation.id for conversation in second.conversations], second.total) == ([made[3], made[2]], 7)
    third = await store.list_conversations(alice.id, limit=2, before=second.next_before)
    assert [conversation.id for conversation in third.conversations] == [made[0]]
    assert third.next_before is None


async def test_updated_at_never_goes_back(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, created_at=at(10))
    for command in (
        post(group, alice, at=at(1)),
        add(group, alice, bob, at=at(2)),
        remove(group, alice, bob, at=at(3)),
        set_properties(group, alice, name="x", at=at(4)),
    ):
        await carry_out(store, command)
        assert (await people.seen(group, alice)).updated_at == at(10)


async def test_last_message_is_the_newest_in_its_current_state(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    first, second = await people.send(group, bob, "first", "second")
    assert [each.last_message for each in await people.listed(alice)] == [second]
    changed = await changed_message(store, edit(second, bob, "changed"))
    assert [each.last_message for each in await people.listed(alice)] == [changed]
    await carry_out(store, edit(first, bob, "the older one"))
    assert [each.last_message for each in await people.listed(alice)] == [changed]


# --- properties ---


@pytest.mark.parametrize(
    ("values", "name", "description"),
    [
        ({"name": "New"}, "New", "old description"),
        ({"description": "New"}, "Team", "New"),
        ({"name": None}, None, "old description"),
        ({"description": None}, "Team", None),
        ({"name": "", "description": "d"}, "", "d"),
        ({"name": "Team", "description": "d"}, "Team", "d"),
    ],
)
async def test_only_the_given_properties_are_set(
    store: Store, people: People, values: dict[str, str | None], name: str | None, description: str | None
) -> None:
    alice, bob = await people.users("alice", "bob")
    new = people.conversation(alice, bob, description="old description")
    await store.create_conversation(new)
    await people.send(new.id, alice, "one")
    outcome = await carry_out(store, set_properties(new.id, bob, at=at(7), **values))
    expected = Properties(new.id, 2, name, description, owner_id=alice.id, actor_id=bob.id)
    assert outcome == (expected,)
    assert await people.log(new.id, after_rev=1) == [expected]
    assert await store.head(new.id) == Head(1, 2, message_rev=1, properties_rev=2)
    seen = await people.seen(new.id, alice)
    assert (seen.name, seen.description, seen.updated_at, seen.head.properties_rev) == (name, description, at(7), 2)


@pytest.mark.parametrize("values", [{"name": "Crew"}, {"name": "Crew", "description": None}, {"description": None}, {}])
async def test_equal_properties_take_no_rev(store: Store, people: People, values: dict[str, str | None]) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    (unchanged,) = await carry_out(store, set_properties(group, alice, name="Team", at=at(5)))
    assert unchanged == Properties(group, 0, "Team", None, owner_id=alice.id, actor_id=None)
    changed = await carry_out(store, set_properties(group, alice, name="Crew", at=at(6)))
    assert await carry_out(store, set_properties(group, bob, at=at(7), **values)) == changed
    assert await store.head(group) == Head(0, 1, properties_rev=1)
    assert (await people.seen(group, alice)).updated_at == at(6)


async def test_repeated_properties_do_not_come_back(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    first = set_properties(group, bob, name="First")
    changed = await carry_out(store, first)
    assert await carry_out(store, first) == changed
    second = await carry_out(store, set_properties(group, alice, name="Second"))
    assert await carry_out(store, first) == second
    third = await carry_out(store, set_properties(group, alice, description="Third"))
    assert await carry_out(store, first) == third
    await carry_out(store, leave(group, bob))
    assert await carry_out(store, first) == third
    assert await store.head(group) == Head(0, 4, properties_rev=3, members_rev=4)


async def test_setting_properties_is_refused(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    group = await people.group(alice, bob)
    direct = (await people.direct(alice, bob)).conversation
    for command, refusal in (
        (set_properties(group, eve, name="x"), NotAMember),
        (set_properties(new_id(), alice, name="x"), NotAMember),
        (set_properties(direct.id, eve, name="x"), NotAMember),
        (set_properties(direct.id, alice, name="x"), NotAGroup),
    ):
        with pytest.raises(refusal):
            await carry_out(store, command)
    with pytest.raises(StoreRefused):
        await store.apply([set_properties(group, alice, name="a\x00b")])
    assert await store.get_conversation(direct.id, alice.id) == direct
    assert await store.head(group) == Head(0, 0)


# --- memberships ---


async def test_memberships_are_the_heads_of_a_users_conversations(store: Store, people: People) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    team, other, foreign = await people.group(alice, bob), await people.group(bob, alice), await people.group(bob)
    (message,) = await people.send(team, alice, "one")
    await carry_out(store, edit(message, alice, "uno"))
    await carry_out(store, add(team, alice, carol))
    await carry_out(store, set_properties(team, alice, name="Crew"))
    head = Head(1, 4, message_rev=2, members_rev=3, properties_rev=4)
    assert await store.head(team) == head
    assert await store.memberships(alice.id) == Memberships({team: head, other: Head(0, 0)}, user_rev=2)
    assert await store.memberships(alice.id, [team, foreign, new_id()]) == Memberships({team: head}, user_rev=2)
    assert await store.memberships(alice.id, []) == Memberships({}, user_rev=2)
    assert await store.memberships(carol.id) == Memberships({team: head}, user_rev=1)
    assert await store.memberships(new_id()) == Memberships({}, user_rev=0)
    assert await store.memberships(alice.id, limit=2) == await store.memberships(alice.id)
    some = await store.memberships(alice.id, limit=1)
    assert (len(some.heads), some.user_rev) == (1, 2)
    assert some.heads.items() <= {team: head, other: Head(0, 0)}.items()
