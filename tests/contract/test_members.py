"""Members of conversations, on every store."""

from uuid import UUID

import pytest

from pulse_trio.model import Command, Member, Properties
from pulse_trio.store.base import (
    LISTED_MEMBERS,
    SHOWN_MEMBERS,
    Head,
    Members,
    NoSuchMember,
    NotAGroup,
    NotAMember,
    OwnerOnly,
    ReadMark,
    Store,
    TooManyMembers,
    UnknownUsers,
    User,
)
from tests.contract.people import People
from tests.support.commands import add, at, carry_out, leave, new_id, remove, set_properties


async def test_added_members_come_last_in_the_given_order(store: Store, people: People) -> None:
    alice, bob, carol, dave = await people.users("alice", "bob", "carol", "dave")
    group = await people.group(alice, dave)
    await people.send(group, alice, "one")
    await people.group(bob)
    outcome = await carry_out(store, add(group, dave, carol, alice, bob, at=at(1)))
    assert outcome == (
        Member(group, 2, carol.id, "carol", is_member=True, actor_id=dave.id, member_count=4, user_rev=1),
        Member(group, 3, bob.id, "bob", is_member=True, actor_id=dave.id, member_count=4, user_rev=2),
    )
    assert await store.head(group) == Head(1, 3, message_rev=1, members_rev=3)
    assert await carry_out(store, add(group, bob, carol, bob, at=at(50))) == ()
    seen = await people.seen(group, bob)
    assert seen.members == (alice, dave, carol, bob)
    assert (seen.updated_at, seen.head.last_rev) == (at(1), 3)


async def test_readded_member_comes_last(store: Store, people: People) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    group = await people.group(alice, bob, carol)
    assert await carry_out(store, leave(group, bob)) == (
        Member(group, 1, bob.id, "bob", is_member=False, actor_id=bob.id, member_count=2, user_rev=2),
    )
    assert await carry_out(store, add(group, carol, bob, limit=3)) == (
        Member(group, 2, bob.id, "bob", is_member=True, actor_id=carol.id, member_count=3, user_rev=3),
    )
    assert (await people.seen(group, bob)).members == (alice, carol, bob)


async def test_members_are_limited(store: Store, people: People) -> None:
    alice, bob, carol, dave = await people.users("alice", "bob", "carol", "dave")
    group = await people.group(alice, bob)
    with pytest.raises(TooManyMembers):
        await carry_out(store, add(group, alice, carol, dave, limit=3, at=at(9)))
    seen = await people.seen(group, alice)
    assert (seen.members, seen.updated_at, seen.head) == ((alice, bob), at(0), Head(0, 0))
    assert (await store.memberships(carol.id)).user_rev == 0
    (added,) = await carry_out(store, add(group, alice, carol, bob, limit=3))
    assert isinstance(added, Member)
    assert added.user_id == carol.id
    assert await carry_out(store, add(group, alice, bob, limit=2)) == (), "nobody came, so no limit was broken"


async def test_adding_is_refused(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    group = await people.group(alice, bob)
    direct = (await people.direct(alice, bob)).conversation.id
    ghosts = [new_id(), new_id()]
    for command, refusal in (
        (add(group, eve, eve), NotAMember),
        (add(new_id(), alice, eve), NotAMember),
        (add(direct, eve, eve), NotAMember),
        (add(direct, alice, eve), NotAGroup),
    ):
        with pytest.raises(refusal):
            await carry_out(store, command)
    with pytest.raises(UnknownUsers) as caught:
        await carry_out(store, add(group, alice, ghosts[1], eve, ghosts[0], limit=2))
    assert list(caught.value.ids) == ghosts[::-1]
    assert await store.membership(group, eve.id) is None
    assert await people.log(group) == await people.log(direct) == []
    assert await people.own_log(eve) == []


async def test_owner_removes_and_members_leave(store: Store, people: People) -> None:
    alice, bob, carol, eve = await people.users("alice", "bob", "carol", "eve")
    group = await people.group(alice, bob, carol)
    for nobody in (carol, eve):
        with pytest.raises(OwnerOnly):
            await carry_out(store, remove(group, bob, nobody))
    for stranger in (eve.id, new_id()):
        with pytest.raises(NoSuchMember):
            await carry_out(store, remove(group, alice, stranger))
    seen = await people.seen(group, alice)
    assert (seen.updated_at, seen.head) == (at(0), Head(0, 0))
    assert await carry_out(store, remove(group, alice, carol, at=at(2))) == (
        Member(group, 1, carol.id, "carol", is_member=False, actor_id=alice.id, member_count=2, user_rev=2),
    )
    assert await carry_out(store, remove(group, bob, bob, at=at(3))) == (
        Member(group, 2, bob.id, "bob", is_member=False, actor_id=bob.id, member_count=1, user_rev=2),
    )
    assert (await people.seen(group, alice)).updated_at == at(3)
    assert await store.membership(group, bob.id) is None
    assert await store.get_conversation(group, bob.id) is None
    for again in (remove(group, bob, bob), leave(group, bob)):
        with pytest.raises(NotAMember):
            await carry_out(store, again)


async def test_removing_is_refused(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    group = await people.group(alice, bob)
    direct = (await people.direct(alice, bob)).conversation.id
    for command, refusal in (
        (remove(group, eve, bob), NotAMember),
        (remove(group, eve, eve), NotAMember),
        (leave(group, eve), NotAMember),
        (remove(new_id(), alice, alice), NotAMember),
        (leave(new_id(), alice), NotAMember),
        (leave(direct, eve), NotAMember),
        (remove(direct, alice, bob), NotAGroup),
        (remove(direct, bob, bob), NotAGroup),
        (leave(direct, bob), NotAGroup),
    ):
        with pytest.raises(refusal):
            await carry_out(store, command)
    assert await store.membership(group, bob.id) is not None
    assert await store.membership(direct, bob.id) is not None


async def test_longest_standing_member_becomes_owner(store: Store, people: People) -> None:
    zoe, carol, bob, alice = await people.users("zoe", "carol", "bob", "alice")
    group = await people.group(zoe, carol, bob)
    await carry_out(store, leave(group, carol))
    await carry_out(store, add(group, zoe, alice, carol))
    rev = 3
    for owner, heir in ((zoe, bob), (bob, alice), (alice, carol)):
        departure = leave(group, owner) if owner == bob else remove(group, owner, owner)
        gone, inherited = await carry_out(store, departure)
        assert isinstance(gone, Member)
        assert (gone.user_id, gone.rev, gone.is_member) == (owner.id, rev + 1, False)
        expected = Properties(group, rev + 2, "Team", None, owner_id=heir.id, actor_id=owner.id)
        assert inherited == expected
        assert (await people.log(group))[-1] == expected
        rev += 2
        seen = await people.seen(group, carol)
        assert seen.owner_id == heir.id
        assert seen.head == Head(0, rev, members_rev=rev - 1, properties_rev=rev)
    (gone,) = await carry_out(store, leave(group, carol))
    assert gone.rev == rev + 1, "nobody inherits an empty group, so its properties do not change"
    assert await store.head(group) == Head(0, rev + 1, members_rev=rev + 1, properties_rev=rev)
    assert await store.get_conversation(group, carol.id) is None
    assert await people.listed(carol) == []
    with pytest.raises(NotAMember):
        await carry_out(store, add(group, carol, carol))


async def test_leaving_member_does_not_change_the_owner(store: Store, people: People) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    group = await people.group(bob, alice, carol)
    assert len(await carry_out(store, leave(group, alice))) == 1
    assert (await people.seen(group, carol)).owner_id == bob.id


# --- repeats ---


async def test_repeated_addition_adds_nobody(store: Store, people: People) -> None:
    alice, bob, carol, dave = await people.users("alice", "bob", "carol", "dave")
    group = await people.group(alice, bob)
    command = add(group, bob, carol, bob, dave, limit=4)
    first = await carry_out(store, command)

    async def repeated() -> tuple[list[tuple[UUID, int, bool]], int]:
        """Repeats the addition; returns its members as they now are, and the last rev."""
        before = await store.head(group), [await people.own_log(user) for user in (bob, carol, dave)]
        members = await carry_out(store, command)
        assert (await store.head(group), [await people.own_log(user) for user in (bob, carol, dave)]) == before
        found = []
        for member in members:
            assert isinstance(member, Member)
            found.append((member.user_id, member.rev, member.is_member))
        return found, before[0].last_rev

    assert [(member.kind, member.rev) for member in first] == [(Member.kind, 1), (Member.kind, 2)]
    assert await repeated() == ([(carol.id, 1, True), (dave.id, 2, True)], 2)
    await carry_out(store, remove(group, alice, carol))
    assert await repeated() == ([(dave.id, 2, True), (carol.id, 3, False)], 3)
    await carry_out(store, leave(group, bob))  # the actor
    assert await repeated() == ([(dave.id, 2, True), (carol.id, 3, False)], 4)
    await carry_out(store, add(group, alice, bob, carol))
    assert await repeated() == ([(dave.id, 2, True), (carol.id, 6, True)], 6)


async def test_repeated_removal_removes_nobody(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    command = remove(group, alice, bob)
    (gone,) = await carry_out(store, command)
    assert isinstance(gone, Member)
    for _ in range(2):
        (again,) = await carry_out(store, command)
        assert isinstance(again, Member)
        assert (again.user_id, again.rev, again.is_member) == (bob.id, 1, False)
    await carry_out(store, add(group, alice, bob))
    (back,) = await carry_out(store, command)
    assert isinstance(back, Member)
    assert (back.user_id, back.rev, back.is_member, back.actor_id) == (bob.id, 2, True, alice.id)
    await carry_out(store, leave(group, alice))  # the actor
    assert await carry_out(store, command) == tuple(await people.log(group, after_rev=1))[:1]
    assert await store.members(group) == Members((bob.id,), 3)
    assert (await store.head(group)).last_rev == 4


@pytest.mark.parametrize("is_removal", [False, True])
async def test_repeated_leave_is_recognized(store: Store, people: People, is_removal: bool) -> None:
    """The leaver is no member any more, which must not look like a refusal."""
    alice, bob, carol = await people.users("alice", "bob", "carol")
    group = await people.group(alice, bob, carol)
    command: Command = remove(group, alice, alice) if is_removal else leave(group, alice)
    await carry_out(store, command)
    now = await people.log(group)
    assert [change.rev for change in now] == [1, 2]
    assert list(await carry_out(store, command)) == now
    (renamed,) = await carry_out(store, set_properties(group, bob, name="Crew"))
    assert await carry_out(store, command) == (now[0], renamed)
    await carry_out(store, add(group, carol, alice))
    assert set(await carry_out(store, command)) == set(await people.log(group))
    assert await store.members(group) == Members((bob.id, carol.id, alice.id), 4)
    # The same act with another id is another one.
    await carry_out(store, leave(group, alice))
    assert await store.members(group) == Members((bob.id, carol.id), 5)


async def test_members_are_ordered_as_of_a_rev(store: Store, people: People) -> None:
    carol, alice, bob = await people.users("carol", "alice", "bob")
    team = await people.group(carol, bob)
    await people.send(team, bob, "one", "two")
    assert await store.members(team) == Members((carol.id, bob.id), 0)
    await carry_out(store, add(team, carol, alice))
    assert await store.members(team) == Members((carol.id, bob.id, alice.id), 3)
    await carry_out(store, leave(team, carol))
    assert await store.members(team) == Members((bob.id, alice.id), 4)
    for user in (bob, alice):
        await carry_out(store, leave(team, user))
    assert await store.members(team) == Members((), 8), "the owner left twice, and once to nobody"
    assert await store.members(new_id()) == Members((), 0)


async def test_every_answer_about_members_has_the_same_rev(store: Store, people: People) -> None:
    alice, bob, carol = await people.users("alice", "bob", "carol")
    team = await people.group(alice)

    async def revs() -> set[int | None]:
        heads = [await store.head(team), (await people.seen(team, alice)).head]
        heads.append((await store.memberships(alice.id)).heads[team])
        heads.append((await store.memberships(alice.id, [team])).heads[team])
        heads += [conversation.head for conversation in await people.listed(alice)]
        answers = await store.membership(team, alice.id), (await store.members(team)).rev
        return {*(head.members_rev for head in heads), *answers}

    assert await revs() == {0}
    await carry_out(store, add(team, alice, bob, carol))
    assert await revs() == {2}
    assert await carry_out(store, add(team, alice, bob)) == ()
    assert await revs() == {2}
    await carry_out(store, remove(team, alice, bob))
    assert await revs() == {3}
    with pytest.raises(NoSuchMember):
        await carry_out(store, remove(team, alice, bob))
    with pytest.raises(TooManyMembers):
        await carry_out(store, add(team, alice, bob, limit=1))
    await people.send(team, alice, "one")
    await carry_out(store, set_properties(team, alice, name="Crew"))
    assert await revs() == {3}


# --- large groups ---


async def large_group(people: People, size: int) -> tuple[UUID, list[User]]:
    members = await people.users(*(f"u{number}" for number in range(size)))
    return await people.group(*members), members


async def test_conversations_include_first_members_and_count(store: Store, people: People) -> None:
    size = SHOWN_MEMBERS + 5
    group, members = await large_group(people, size)
    last = members[-1]
    small = await people.group(last, *members[:2])
    pair = (await people.direct(last, members[0])).conversation
    assert {each.id: (each.members, each.member_count) for each in await people.listed(last)} == {
        group: (tuple(members[:LISTED_MEMBERS]), size),
        small: ((last, *members[:2]), 3),
        pair.id: ((last, members[0]), 2),
    }
    shown = await people.seen(group, last)
    assert (shown.members, shown.member_count) == (tuple(members[:SHOWN_MEMBERS]), size)


async def test_many_members_are_added_and_logged_in_order(store: Store, people: People) -> None:
    size = 300
    alice, *others = await people.users("alice", *(f"u{number}" for number in range(size)))
    group = await people.group(alice)
    shuffled = sorted(others, key=lambda user: user.username)
    added = await carry_out(store, add(group, alice, *shuffled))
    assert [member.user_id for member in added if isinstance(member, Member)] == [user.id for user in shuffled]
    assert [member.rev for member in added] == list(range(1, size + 1))
    assert (await store.members(group)).ids == (alice.id, *(user.id for user in shuffled))
    assert [change.rev for change in await people.log(group)] == list(range(1, size + 1))


async def test_member_count_follows_every_change(store: Store, people: People) -> None:
    alice, bob, carol, dave, eve = await people.users("alice", "bob", "carol", "dave", "eve")
    group = await people.group(alice, bob)

    async def counts() -> set[int]:
        shown = await people.seen(group, bob)
        (listed,) = await people.listed(bob)
        page = await store.page_members(group, bob.id, limit=9)
        logged = {change.member_count for change in await people.log(group) if isinstance(change, Member)}
        return {shown.member_count, len(shown.members), listed.member_count, page.total, len(page.members), *logged}

    assert await counts() == {2}
    await carry_out(store, add(group, bob, carol, alice, dave, limit=4))
    assert await counts() == {4}
    with pytest.raises(TooManyMembers):
        await carry_out(store, add(group, bob, eve, limit=4))
    assert await counts() == {4}
    await carry_out(store, add(group, bob, carol, limit=3))
    assert await counts() == {4}, "nobody came, so no limit was broken"
    removal = remove(group, alice, carol)
    for _ in range(2):
        await carry_out(store, removal)
        assert await counts() == {3}
    await carry_out(store, leave(group, alice))
    assert await counts() == {2}


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
        await carry_out(store, remove(group, owner, leaver))
    await carry_out(store, add(group, owner, members[3]))
    rest = await store.page_members(group, owner.id, limit=3, after=first.next_after)
    assert [member.user for member in rest.members] == [members[4], members[5], members[3]]
    assert (rest.total, rest.next_after) == (5, None)


async def test_only_members_see_members(store: Store, people: People) -> None:
    alice, eve = await people.users("alice", "eve")
    group = await people.group(alice)
    for conversation_id, user in ((group, eve), (new_id(), alice)):
        for after in (0, 10**15):
            with pytest.raises(NotAMember):
                await store.page_members(conversation_id, user.id, limit=5, after=after)


async def test_memberships_are_paged_in_the_order_of_ids(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    groups = sorted([await people.group(alice, bob) for _ in range(5)])
    await people.group(bob)
    found: list[UUID] = []
    after = None
    while page := (await store.memberships(alice.id, limit=2, after=after)).heads:
        found += page
        after = max(page)
    assert found == groups
    rest = await store.memberships(bob.id, limit=10, after=max(groups))
    assert len(rest.heads) <= 1
    assert rest.user_rev == 6


async def test_heads_and_user_revs_of_many(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    first, second = await people.group(alice, bob), await people.group(alice)
    await people.send(first, alice, "one")
    assert await store.heads([first, second, new_id()]) == {
        first: await store.head(first),
        second: await store.head(second),
    }
    assert await store.user_revs([alice.id, bob.id, new_id()]) == {alice.id: 2, bob.id: 1}
    assert await store.heads([]) == {}
