"""Conversations and their members, on every store."""

from uuid import UUID

import pytest

from pulse_trio.store.base import (
    LISTED_MEMBERS,
    SHOWN_MEMBERS,
    Added,
    Head,
    Members,
    NotAGroup,
    NotAMember,
    OwnerOnly,
    ReadMark,
    Removed,
    Store,
    TooManyMembers,
    UnknownUsers,
    User,
)
from tests.contract.people import People, at


async def test_created_group_has_the_given_values(store: Store, people: People) -> None:
    carol, alice, bob = await people.users("carol", "alice", "bob")
    new = people.conversation(carol, alice, bob, name="Ünïcode", description="What for", created_at=at(5))
    made, created = await store.create_conversation(new)
    assert created
    assert (made.id, made.name, made.description, made.is_group) == (new.id, "Ünïcode", "What for", True)
    assert made.owner_id == carol.id
    assert made.members == (carol, alice, bob)
    assert (made.created_at, made.updated_at) == (at(5), at(5))
    assert made.head == Head(0, 0)
    assert made.last_message is None
    assert await store.get_conversation(new.id, bob.id) == made
    assert await store.head(new.id) == Head(0, 0)


async def test_two_groups_may_have_the_same_members(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    first, second = await people.group(alice, bob), await people.group(alice, bob)
    assert first != second
    assert (await store.list_conversations(alice.id, limit=9, offset=0))[1] == 2


async def test_existing_one_to_one_is_returned_to_both(store: Store, people: People) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    made, created = await people.direct(alice, bob)
    assert created
    assert made.members == (alice, bob)
    assert not made.is_group
    await people.send(made.id, bob, "hi")
    for owner, other in ((alice, bob), (bob, alice)):
        again, created = await people.direct(owner, other)
        assert not created
        assert again == await store.get_conversation(made.id, alice.id)
        assert again.members == (alice, bob)
        assert again.owner_id == alice.id
        assert again.head == Head(1, 1)
    other_pair, created = await people.direct(alice, carol)
    assert created
    assert other_pair.id != made.id
    group = await people.group(alice, bob)
    assert group != made.id


@pytest.mark.parametrize("is_group", [True, False])
async def test_unknown_users_are_named_and_nothing_is_created(store: Store, people: People, is_group: bool) -> None:
    alice, bob = await people.users("alice", "bob")
    ghosts = [User(people.new_id(), f"ghost {n}") for n in range(2)]
    others = [ghosts[1], bob, ghosts[0]] if is_group else [ghosts[0]]
    new = people.conversation(alice, *others, is_group=is_group)
    with pytest.raises(UnknownUsers) as caught:
        await store.create_conversation(new)
    assert list(caught.value.ids) == [other.id for other in others if other != bob]
    assert await store.list_conversations(alice.id, limit=9, offset=0) == ([], 0)
    with pytest.raises(NotAMember):
        await store.head(new.id)


async def test_only_members_get_a_conversation(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    group = await people.group(alice, bob)
    assert await store.get_conversation(group, eve.id) is None
    assert await store.get_conversation(people.new_id(), alice.id) is None
    assert await store.get_conversation(group, people.new_id()) is None
    assert await store.membership(group, bob.id) is not None
    assert await store.membership(group, eve.id) is None
    assert await store.membership(people.new_id(), alice.id) is None
    assert await store.list_conversations(eve.id, limit=9, offset=0) == ([], 0)


async def test_list_has_the_latest_activity_first(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    old = await people.group(alice, bob, created_at=at(1))
    middle = await people.group(bob, alice, created_at=at(2))
    young = await people.group(alice, eve, created_at=at(3))
    await people.group(bob, eve, created_at=at(4))

    async def listed() -> list[object]:
        conversations, total = await store.list_conversations(alice.id, limit=9, offset=0)
        assert total == 3
        for conversation in conversations:
            assert conversation == await store.get_conversation(conversation.id, alice.id)
        return [conversation.id for conversation in conversations]

    assert await listed() == [young, middle, old]
    await store.append([people.message(old, bob, created_at=at(10))])
    assert await listed() == [old, young, middle]
    await store.rename(middle, alice.id, {"name": "New"}, now=at(11))
    assert await listed() == [middle, old, young]
    await store.append([people.message(young, eve, created_at=at(5))])
    assert await listed() == [middle, old, young]
    await store.add_members(young, alice.id, [bob.id], limit=9, now=at(12))
    assert await listed() == [young, middle, old]
    await store.remove_member(old, bob.id, bob.id, now=at(13))
    assert await listed() == [old, young, middle]


async def test_list_is_paged_and_breaks_ties_by_id(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    made = [await people.group(alice) for _ in range(5)]
    found = []
    for offset in (0, 2, 4, 6):
        conversations, total = await store.list_conversations(alice.id, limit=2, offset=offset)
        assert total == 5
        found += [conversation.id for conversation in conversations]
    assert found == sorted(made, reverse=True)


async def test_updated_at_never_goes_back(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, created_at=at(10))
    await store.append([people.message(group, alice, created_at=at(1))])
    await store.add_members(group, alice.id, [bob.id], limit=9, now=at(2))
    await store.remove_member(group, alice.id, bob.id, now=at(3))
    assert (await store.rename(group, alice.id, {"name": "x"}, now=at(4))).updated_at == at(10)


async def test_last_message_is_the_newest_in_its_current_state(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    first, second = await people.send(group, bob, "first", "second")
    assert await _last_message(store, group, alice) == second
    changed = await store.revise(people.revision(second, bob, "changed"))
    assert await _last_message(store, group, alice) == changed
    await store.revise(people.revision(first, bob, "the older one"))
    assert await _last_message(store, group, alice) == changed


async def _last_message(store: Store, conversation_id: object, user: User) -> object:
    ((conversation,), _) = await store.list_conversations(user.id, limit=1, offset=0)
    assert conversation.id == conversation_id
    return conversation.last_message


async def test_added_members_come_last_in_the_given_order(store: Store, people: People) -> None:
    alice, bob, carol, dave = await people.users("alice", "bob", "carol", "dave")
    group = await people.group(alice, dave)
    added = await store.add_members(group, dave.id, [carol.id, alice.id, bob.id, carol.id], limit=9, now=at(1))
    assert added.users == (carol, bob)
    assert (await store.add_members(group, bob.id, [carol.id, bob.id], limit=9, now=at(50))).users == ()
    conversation = await store.get_conversation(group, bob.id)
    assert conversation is not None
    assert conversation.members == (alice, dave, carol, bob)
    assert conversation.updated_at == at(1)


async def test_readded_member_comes_last(store: Store, people: People) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    group = await people.group(alice, bob, carol)
    assert (await store.remove_member(group, bob.id, bob.id, now=at(1))).user == bob
    assert (await store.add_members(group, carol.id, [bob.id], limit=3, now=at(2))).users == (bob,)
    conversation = await store.get_conversation(group, bob.id)
    assert conversation is not None
    assert conversation.members == (alice, carol, bob)


async def test_members_are_limited(store: Store, people: People) -> None:
    alice, bob, carol, dave = await people.users("alice", "bob", "carol", "dave")
    group = await people.group(alice, bob)
    with pytest.raises(TooManyMembers):
        await store.add_members(group, alice.id, [carol.id, dave.id], limit=3, now=at(9))
    conversation = await store.get_conversation(group, alice.id)
    assert conversation is not None
    assert conversation.members == (alice, bob)
    assert conversation.updated_at == at(0)
    assert (await store.add_members(group, alice.id, [carol.id, bob.id, carol.id], limit=3, now=at(1))).users == (
        carol,
    )
    assert (await store.add_members(group, alice.id, [bob.id], limit=3, now=at(1))).users == ()


async def test_adding_is_rejected(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    group = await people.group(alice, bob)
    direct, _ = await people.direct(alice, bob)
    ghost = people.new_id()
    with pytest.raises(NotAMember):
        await store.add_members(group, eve.id, [eve.id], limit=9, now=at(1))
    with pytest.raises(NotAMember):
        await store.add_members(people.new_id(), alice.id, [eve.id], limit=9, now=at(1))
    with pytest.raises(NotAMember):
        await store.add_members(direct.id, eve.id, [eve.id], limit=9, now=at(1))
    with pytest.raises(NotAGroup):
        await store.add_members(direct.id, alice.id, [eve.id], limit=9, now=at(1))
    with pytest.raises(UnknownUsers) as caught:
        await store.add_members(group, alice.id, [eve.id, ghost], limit=2, now=at(1))
    assert list(caught.value.ids) == [ghost]
    assert await store.membership(group, eve.id) is None


async def test_owner_removes_and_members_leave(store: Store, people: People) -> None:
    alice, bob, carol, eve = await people.users("alice", "bob", "carol", "eve")
    group = await people.group(alice, bob, carol)
    with pytest.raises(OwnerOnly):
        await store.remove_member(group, bob.id, carol.id, now=at(1))
    with pytest.raises(OwnerOnly):
        await store.remove_member(group, bob.id, eve.id, now=at(1))
    assert (await store.remove_member(group, alice.id, eve.id, now=at(1))).user is None
    conversation = await store.get_conversation(group, alice.id)
    assert conversation is not None
    assert conversation.updated_at == at(0)
    assert (await store.remove_member(group, alice.id, carol.id, now=at(2))).user == carol
    assert (await store.remove_member(group, bob.id, bob.id, now=at(3))).user == bob
    assert await store.membership(group, bob.id) is None
    assert await store.get_conversation(group, bob.id) is None
    with pytest.raises(NotAMember):
        await store.remove_member(group, bob.id, bob.id, now=at(4))


async def test_removing_is_rejected(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    group = await people.group(alice, bob)
    direct, _ = await people.direct(alice, bob)
    with pytest.raises(NotAMember):
        await store.remove_member(group, eve.id, bob.id, now=at(1))
    with pytest.raises(NotAMember):
        await store.remove_member(people.new_id(), alice.id, alice.id, now=at(1))
    with pytest.raises(NotAGroup):
        await store.remove_member(direct.id, alice.id, bob.id, now=at(1))
    with pytest.raises(NotAGroup):
        await store.remove_member(direct.id, bob.id, bob.id, now=at(1))
    assert await store.membership(group, bob.id) is not None
    assert await store.membership(direct.id, bob.id) is not None


async def test_longest_standing_member_becomes_owner(store: Store, people: People) -> None:
    zoe, carol, bob, alice = await people.users("zoe", "carol", "bob", "alice")
    group = await people.group(zoe, carol, bob)
    await store.remove_member(group, carol.id, carol.id, now=at(1))
    await store.add_members(group, zoe.id, [alice.id, carol.id], limit=9, now=at(2))
    for owner, heir in ((zoe, bob), (bob, alice), (alice, carol)):
        assert (await store.remove_member(group, owner.id, owner.id, now=at(3))).user == owner
        conversation = await store.get_conversation(group, carol.id)
        assert conversation is not None
        assert conversation.owner_id == heir.id
    assert (await store.remove_member(group, carol.id, carol.id, now=at(4))).user == carol
    assert await store.get_conversation(group, carol.id) is None
    assert await store.list_conversations(carol.id, limit=9, offset=0) == ([], 0)
    with pytest.raises(NotAMember):
        await store.add_members(group, carol.id, [carol.id], limit=9, now=at(5))


async def test_leaving_member_does_not_change_the_owner(store: Store, people: People) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    group = await people.group(bob, alice, carol)
    await store.remove_member(group, alice.id, alice.id, now=at(1))
    conversation = await store.get_conversation(group, carol.id)
    assert conversation is not None
    assert conversation.owner_id == bob.id


@pytest.mark.parametrize(
    ("changes", "name", "description"),
    [
        ({"name": "New"}, "New", "old description"),
        ({"description": "New"}, "Team", "New"),
        ({"name": None}, None, "old description"),
        ({"description": None}, "Team", None),
        ({"name": "", "description": "d"}, "", "d"),
        ({}, "Team", "old description"),
    ],
)
async def test_rename_sets_only_the_given_fields(
    store: Store, people: People, changes: dict[str, str | None], name: str | None, description: str | None
) -> None:
    alice, bob = await people.users("alice", "bob")
    made, _ = await store.create_conversation(people.conversation(alice, bob, description="old description"))
    changed = await store.rename(made.id, bob.id, changes, now=at(7))
    assert (changed.name, changed.description, changed.updated_at) == (name, description, at(7))
    assert changed == await store.get_conversation(made.id, alice.id)


async def test_renaming_is_rejected(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    group = await people.group(alice, bob)
    direct, _ = await people.direct(alice, bob)
    with pytest.raises(NotAMember):
        await store.rename(group, eve.id, {"name": "x"}, now=at(1))
    with pytest.raises(NotAMember):
        await store.rename(people.new_id(), alice.id, {"name": "x"}, now=at(1))
    with pytest.raises(NotAGroup):
        await store.rename(direct.id, alice.id, {"name": "x"}, now=at(1))
    assert await store.get_conversation(direct.id, alice.id) == direct


async def test_memberships_are_the_heads_of_a_users_conversations(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    team, other, foreign = await people.group(alice, bob), await people.group(bob, alice), await people.group(bob)
    (message,) = await people.send(team, alice, "one")
    await store.revise(people.revision(message, alice, "uno"))
    assert await store.memberships(alice.id) == {team: Head(1, 2), other: Head(0, 0)}
    assert await store.memberships(alice.id, [team, foreign, people.new_id()]) == {team: Head(1, 2)}
    assert await store.memberships(alice.id, []) == {}
    assert await store.memberships(people.new_id()) == {}


async def test_members_are_ordered_and_versioned(store: Store, people: People) -> None:
    carol, alice, bob = await people.users("carol", "alice", "bob")
    team = await people.group(carol, bob)
    assert await store.members(team) == Members((carol.id, bob.id), 0)
    await store.add_members(team, carol.id, [alice.id], limit=9, now=at(1))
    assert await store.members(team) == Members((carol.id, bob.id, alice.id), 1)
    await store.remove_member(team, carol.id, carol.id, now=at(2))
    assert await store.members(team) == Members((bob.id, alice.id), 2)
    for user in (alice, bob):
        await store.remove_member(team, user.id, user.id, now=at(3))
    assert await store.members(team) == Members((), 4)
    assert await store.members(people.new_id()) == Members((), 0)


async def test_every_change_of_members_has_its_own_version(store: Store, people: People) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    team = await people.group(alice)

    async def versions() -> set[int | None]:
        conversation = await store.get_conversation(team, alice.id)
        assert conversation is not None
        memberships = await store.memberships(alice.id)
        heads = (await store.head(team), conversation.head, memberships[team])
        return {*(head.members_version for head in heads), await store.membership(team, alice.id)}

    assert await versions() == {0}
    assert await store.add_members(team, alice.id, [bob.id, carol.id], limit=9, now=at(1)) == Added((bob, carol), 1)
    assert await store.add_members(team, alice.id, [bob.id], limit=9, now=at(2)) == Added((), 1)
    assert await versions() == {1}
    assert await store.remove_member(team, alice.id, bob.id, now=at(3)) == Removed(bob, 2)
    assert await store.remove_member(team, alice.id, bob.id, now=at(4)) == Removed(None, 2)
    with pytest.raises(TooManyMembers):
        await store.add_members(team, alice.id, [bob.id], limit=1, now=at(5))
    await people.send(team, alice, "one")
    await store.rename(team, alice.id, {"name": "Crew"}, now=at(6))
    assert await versions() == {2}


# --- large groups ---


async def large_group(people: People, size: int) -> tuple[UUID, list[User]]:
    members = await people.users(*(f"u{number}" for number in range(size)))
    return await people.group(*members), members


async def test_conversations_include_first_members_and_count(store: Store, people: People) -> None:
    size = SHOWN_MEMBERS + 5
    group, members = await large_group(people, size)
    last = members[-1]
    small = await people.group(last, *members[:2])
    pair, _ = await people.direct(last, members[0])
    listed, _ = await store.list_conversations(last.id, limit=9, offset=0)
    assert {each.id: (each.members, each.member_count) for each in listed} == {
        group: (tuple(members[:LISTED_MEMBERS]), size),
        small: ((last, *members[:2]), 3),
        pair.id: ((last, members[0]), 2),
    }
    shown = await store.get_conversation(group, last.id)
    assert shown is not None
    assert (shown.members, shown.member_count) == (tuple(members[:SHOWN_MEMBERS]), size)
    renamed = await store.rename(group, last.id, {"name": "New"}, now=at(1))
    assert (renamed.members, renamed.member_count) == (shown.members, size)


async def test_member_count_follows_every_change(store: Store, people: People) -> None:
    alice, bob, carol, dave = await people.users("alice", "bob", "carol", "dave")
    group = await people.group(alice, bob)

    async def counts() -> set[int]:
        shown = await store.get_conversation(group, bob.id)
        listed, _ = await store.list_conversations(bob.id, limit=9, offset=0)
        page = await store.page_members(group, bob.id, limit=9)
        assert shown is not None
        return {shown.member_count, len(shown.members), listed[0].member_count, page.total, len(page.members)}

    assert await counts() == {2}
    await store.add_members(group, bob.id, [carol.id, alice.id, dave.id], limit=4, now=at(1))
    assert await counts() == {4}
    with pytest.raises(TooManyMembers):
        await store.add_members(group, bob.id, [(await people.user("eve")).id], limit=4, now=at(1))
    assert await counts() == {4}
    await store.add_members(group, bob.id, [carol.id], limit=3, now=at(1))
    assert await counts() == {4}, "nobody came, so no limit was broken"
    await store.remove_member(group, alice.id, carol.id, now=at(2))
    await store.remove_member(group, alice.id, carol.id, now=at(2))
    assert await counts() == {3}
    await store.remove_member(group, alice.id, alice.id, now=at(3))
    assert await counts() == {2}
    again, _ = await people.direct(bob, dave)
    assert ((await people.direct(dave, bob))[0].member_count, again.member_count) == (2, 2)


async def test_members_are_paged_in_joining_order(store: Store, people: People) -> None:
    group, members = await large_group(people, 7)
    await people.send(group, members[0], "a", "b")
    await store.mark_read([ReadMark(group, members[4].id, 2)])
    pages, after = [], 0
    while True:
        page = await store.page_members(group, members[6].id, limit=3, after=after)
        pages.append([(member.user, member.read_seq) for member in page.members])
        assert page.total == 7
        if page.next_after is None:
            break
        after = page.next_after
    seqs = [0, 0, 0, 0, 2, 0, 0]
    expected = list(zip(members, seqs, strict=True))
    assert pages == [expected[:3], expected[3:6], expected[6:]]
    exact = await store.page_members(group, members[0].id, limit=7)
    assert (len(exact.members), exact.next_after) == (7, None)
    assert (await store.page_members(group, members[0].id, limit=3, after=10**15)).members == ()


async def test_paging_survives_changes_of_members(store: Store, people: People) -> None:
    group, members = await large_group(people, 6)
    owner = members[0]
    first = await store.page_members(group, owner.id, limit=3)
    assert first.next_after is not None
    # Positions survive the removal of the last shown member; a readded member comes at the end.
    for leaver in (members[2], members[3]):
        await store.remove_member(group, owner.id, leaver.id, now=at(1))
    await store.add_members(group, owner.id, [members[3].id], limit=9, now=at(2))
    rest = await store.page_members(group, owner.id, limit=3, after=first.next_after)
    assert [member.user for member in rest.members] == [members[4], members[5], members[3]]
    assert (rest.total, rest.next_after) == (5, None)


async def test_only_members_see_members(store: Store, people: People) -> None:
    alice, eve = await people.users("alice", "eve")
    group = await people.group(alice)
    for conversation_id, user in ((group, eve), (people.new_id(), alice)):
        for after in (0, 10**15):
            with pytest.raises(NotAMember):
                await store.page_members(conversation_id, user.id, limit=5, after=after)
