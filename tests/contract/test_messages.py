"""Messages: order, repeats, edits and history, on every store."""

from dataclasses import replace
from uuid import UUID

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pulse_trio.store.base import (
    MAX_REVISIONS_OF_MESSAGE,
    Head,
    Message,
    NoSuchMessage,
    NotAMember,
    NotYourMessage,
    StaleRev,
    Store,
    StoreRefused,
    User,
)
from pulse_trio.store.page_size import message_bytes
from tests.contract.conftest import LIMIT, StoreKind
from tests.contract.people import People, messages, seqs
from tests.support.commands import (
    at,
    carry_out,
    changed_message,
    delete,
    edit,
    leave,
    new_id,
    post,
)

STORABLE = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=60)


async def test_stored_message_has_the_given_values(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "Bob")
    group = await people.group(alice, bob)
    new = post(group, bob, "héllo", client_id="c" * 64, at=at(3))
    stored = await changed_message(store, new)
    assert stored == Message(
        id=new.id,
        conversation_id=group,
        sender_id=bob.id,
        sender_username="Bob",
        content="héllo",
        is_edited=False,
        is_deleted=False,
        created_at=at(3),
        updated_at=at(3),
        seq=1,
        rev=1,
        client_id="c" * 64,
    )
    page = await store.page_messages(group, alice.id, limit=9)
    assert page.messages == (stored,)
    conversation = await people.seen(group, alice)
    assert conversation.last_message == stored
    assert conversation.updated_at == at(3)


async def test_each_conversation_numbers_its_own_messages(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    first, second = await people.group(alice, bob), await people.group(bob, alice)
    batch = [post(group, alice, f"m{n}") for n, group in enumerate([second, first, first, second, first])]
    stored = await store.apply(batch)
    assert seqs(stored) == [1, 1, 2, 2, 3]
    assert [message.id for message in messages(stored)] == [new.id for new in batch]
    assert [m.seq for m in await people.send(first, bob, "a", "b")] == [4, 5]
    for group, total in ((first, 5), (second, 2)):
        assert await store.head(group) == Head(total, total, message_rev=total)
        changed = (await store.page_messages(group, alice.id, limit=99)).messages
        assert [(m.seq, m.rev) for m in changed] == [(n, n) for n in range(total, 0, -1)]
        assert await people.log(group) == list(reversed(changed))
    history = (await store.page_messages(first, alice.id, limit=99)).messages
    assert [message.content for message in history] == ["b", "a", "m4", "m2", "m1"]


async def test_order_follows_the_batch_not_ids_or_times(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    batch = [post(group, alice, str(n), at=at(-n)) for n in range(20)]
    batch.reverse()
    assert seqs(await store.apply(batch)) == list(range(1, 21))


async def test_empty_batch(store: Store) -> None:
    assert await store.apply([]) == []


async def test_repeated_batch_changes_nothing(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    first, second = await people.group(alice, bob), await people.group(bob, alice)
    batch = [
        post(first, alice, client_id="1"),
        post(second, alice, client_id="1"),
        post(first, bob),
    ]
    stored = await store.apply(batch)
    before = await store.get_conversation(first, alice.id)
    assert await store.apply(batch) == stored
    assert await store.apply(batch[::-1]) == stored[::-1]
    assert await store.get_conversation(first, alice.id) == before
    assert await store.head(first) == Head(2, 2, message_rev=2)
    assert await store.head(second) == Head(1, 1, message_rev=1)


async def test_partly_repeated_batch_adds_new_messages_without_a_gap(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    old = [post(group, alice, f"old {n}") for n in range(3)]
    stored = await store.apply(old)
    new = [post(group, alice, f"new {n}") for n in range(3)]
    mixed = await store.apply([new[0], old[2], new[1], old[0], new[2]])
    assert seqs(mixed) == [4, 3, 5, 1, 6]
    assert (mixed[1], mixed[3]) == (stored[2], stored[0])
    assert await store.head(group) == Head(6, 6, message_rev=6)


async def test_repeated_message_returns_its_current_state(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    new = post(group, alice, "first", client_id="c")
    stored = await changed_message(store, new)
    changed = await changed_message(store, edit(stored, alice, "changed"))
    assert await store.apply([new]) == [(changed,)]
    assert await store.apply([replace(new, id=new_id())]) == [(changed,)]


async def test_reused_client_id_returns_the_first_message(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    first = await changed_message(store, post(group, alice, "first", client_id="c"))
    again = post(group, alice, "other content", client_id="c", at=at(9))
    before, found, after = messages(
        await store.apply([post(group, alice, "before"), again, post(group, alice, "after")])
    )
    assert found == first
    assert [(m.content, m.seq) for m in (before, after)] == [("before", 2), ("after", 3)]
    assert await store.head(group) == Head(3, 3, message_rev=3)


async def test_the_id_takes_precedence_over_the_client_id(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    first = post(group, alice, "first", client_id="1")
    outcomes = await store.apply([first, post(group, alice, "second", client_id="2")])
    assert await store.apply([replace(first, client_id="2")]) == outcomes[:1]
    assert await store.apply([replace(first, id=new_id(), client_id="2")]) == outcomes[1:]


async def test_client_id_is_scoped_to_sender_and_conversation(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    first, second = await people.group(alice, bob), await people.group(bob, alice)
    batch = [
        post(first, alice, client_id="c"),
        post(first, bob, client_id="c"),
        post(second, alice, client_id="c"),
        post(first, alice, client_id="C"),
        post(first, alice),
        post(first, alice),
    ]
    assert seqs(await store.apply(batch)) == [1, 2, 1, 3, 4, 5]


async def test_messages_of_non_members_are_not_stored(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    group, other = await people.group(alice, bob), await people.group(eve)
    batch = [
        post(group, eve),
        post(group, alice),
        post(new_id(), alice),
        post(other, alice),
        post(other, eve),
        post(group, bob),
    ]
    stored = await store.apply(batch)
    assert seqs(stored) == [None, 1, None, None, 1, 2]
    assert [type(outcome) for outcome in stored if seqs([outcome]) == [None]] == [NotAMember] * 3
    assert seqs(await store.apply(batch[:1])) == [None]
    assert await store.head(group) == Head(2, 2, message_rev=2)


async def test_repeat_after_leaving_returns_the_stored_message(store: Store, people: People) -> None:
    """The answer to the first attempt may be lost; the message is stored, so it must not look rejected."""
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    new = post(group, bob, client_id="c")
    stored = await store.apply([new])
    await carry_out(store, leave(group, bob))
    repeated, refused = await store.apply([new, post(group, bob)])
    assert [repeated] == stored
    assert isinstance(refused, NotAMember)


@pytest.mark.parametrize("content", ["a\x00b", "a\ud800b"])
async def test_unstorable_text_rejects_its_whole_batch(store: Store, people: People, content: str) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    with pytest.raises(StoreRefused):
        await store.apply([post(group, alice), post(group, alice, content)])
    assert await store.head(group) == Head(0, 0)
    assert [m.seq for m in await people.send(group, alice, "fine")] == [1]


@pytest.mark.parametrize("client_id", ["", "c" * 65])
async def test_client_id_of_a_wrong_length_is_rejected(store: Store, people: People, client_id: str) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    with pytest.raises(StoreRefused):
        await store.apply([post(group, alice), post(group, alice, client_id=client_id)])
    assert await store.head(group) == Head(0, 0)


@settings(
    max_examples=15,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(contents=st.lists(STORABLE, min_size=1, max_size=30), client_id=STORABLE.filter(bool))
def test_text_is_returned_unchanged(store_kind: StoreKind, contents: list[str], client_id: str) -> None:
    async def main() -> None:
        with trio.fail_after(LIMIT):
            async with store_kind.open() as store:
                people = People(store)
                (alice,) = await people.users("alice")
                group = await people.group(alice)
                batch = [post(group, alice, content) for content in contents]
                batch[0] = replace(batch[0], client_id=client_id)
                stored = await store.apply(batch)
                for found in (messages(stored), messages([(change,) for change in await people.log(group)])):
                    assert [message.content.encode() for message in found] == [c.encode() for c in contents]
                    assert found[0].client_id == client_id

    trio.run(main)


async def test_long_and_odd_texts_are_returned_unchanged(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    contents = ["", " ", "NULL", "{}", '{"a","b"}', "\\", "\\N", "%s", "'; --", "\r\n\t\x01\x7f", "\U0001f600" * 50_000]
    assert [message.content for message in await people.send(group, alice, *contents)] == contents


# --- edits and deletions ---


async def test_edit_takes_the_next_rev_and_keeps_the_seq(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    first, second = await people.send(group, bob, "one", "two")
    edited = await changed_message(store, edit(first, bob, "one, edited", at=at(5)))
    assert edited == replace(first, content="one, edited", is_edited=True, updated_at=at(5), rev=3)
    assert await store.head(group) == Head(2, 3, message_rev=3)
    assert (await store.page_messages(group, alice.id, limit=9)).messages == (second, edited)
    assert await people.log(group) == [second, edited]
    (third,) = await people.send(group, alice, "three")
    assert (third.seq, third.rev) == (3, 4)


async def test_deletion_leaves_a_tombstone(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    mine, bobs = await people.send(group, bob, "mine", "bob's")
    gone = await changed_message(store, delete(mine, bob, at=at(2)))
    assert gone == replace(mine, content="", is_deleted=True, updated_at=at(2), rev=3)
    by_owner = await changed_message(store, delete(bobs, alice, at=at(3)))
    assert (by_owner.is_deleted, by_owner.content, by_owner.rev) == (True, "", 4)
    page = await store.page_messages(group, bob.id, limit=9)
    assert page.messages == (by_owner, gone)
    assert page.total == 2
    assert [m.seq for m in await people.send(group, bob, "next")] == [3]


async def test_edited_then_deleted_message_stays_edited(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    (message,) = await people.send(group, alice, "one")
    await changed_message(store, edit(message, alice, "two", at=at(9)))
    gone = await changed_message(store, delete(message, alice, at=at(1)))
    assert (gone.is_edited, gone.is_deleted, gone.updated_at) == (True, True, at(9))


async def test_repeated_edit_or_deletion_changes_nothing(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    (message,) = await people.send(group, alice, "one")
    for command in (edit(message, alice, "two"), delete(message, alice)):
        changed = await changed_message(store, command)
        before = await store.head(group), await people.seen(group, alice)
        assert await changed_message(store, command) == changed
        assert (await store.head(group), await people.seen(group, alice)) == before


async def test_an_older_edit_repeated_does_not_bring_its_text_back(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    message, other = await people.send(group, alice, "one", "other")
    edits = [edit(message, alice, f"edit {n}", at=at(n)) for n in range(15)]
    latest = [await changed_message(store, command) for command in edits][-1]
    await changed_message(store, edit(other, alice, "another message"))
    for command in edits:
        assert await changed_message(store, command) == latest
    gone = await changed_message(store, delete(message, alice))
    for command in edits:
        assert await changed_message(store, command) == gone
    assert (await store.head(group)).last_rev == gone.rev


async def test_repeated_edit_is_recognized_whatever_rev_it_asked_for(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    (message,) = await people.send(group, alice, "one")
    first = edit(message, alice, "two", if_rev=1)
    await changed_message(store, first)
    latest = await changed_message(store, edit(message, alice, "three", if_rev=2))
    assert await changed_message(store, first) == latest


async def test_repeated_edit_after_leaving_returns_the_message(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    (message,) = await people.send(group, bob, "one")
    command = edit(message, bob, "two")
    changed = await changed_message(store, command)
    await carry_out(store, leave(group, bob))
    assert await changed_message(store, command) == changed
    with pytest.raises(NotAMember):
        await carry_out(store, replace(command, id=new_id()))


async def test_edits_and_deletions_are_refused(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    group, other = await people.group(alice, bob), await people.group(alice, bob)
    alices, bobs = [(await people.send(group, sender, "hello"))[0] for sender in (alice, bob)]
    for make in (lambda message, actor: edit(message, actor, "x"), delete):
        with pytest.raises(NotAMember):
            await carry_out(store, make(bobs, eve))
        with pytest.raises(NotAMember):
            await carry_out(store, replace(make(bobs, bob), conversation_id=new_id()))
        with pytest.raises(NoSuchMessage):
            await carry_out(store, replace(make(bobs, bob), conversation_id=other))
        with pytest.raises(NoSuchMessage):
            await carry_out(store, replace(make(bobs, bob), message_id=new_id()))
        with pytest.raises(NotYourMessage):
            await carry_out(store, make(alices, bob))
    with pytest.raises(NotYourMessage):
        await carry_out(store, edit(bobs, alice, "the owner may delete only"))
    assert await store.head(group) == Head(2, 2, message_rev=2)
    await carry_out(store, delete(bobs, bob))
    for command in (edit(bobs, bob, "x"), delete(bobs, bob), edit(bobs, alice, "x", if_rev=1)):
        with pytest.raises(NoSuchMessage):
            await carry_out(store, command)
    await carry_out(store, leave(group, bob))
    with pytest.raises(NotAMember):
        await carry_out(store, edit(bobs, bob, "x"))
    assert await store.head(group) == Head(2, 4, message_rev=3, members_rev=4)


async def test_edit_of_another_rev_is_refused_with_the_current_message(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    group = await people.group(alice, bob)
    (message,) = await people.send(group, bob, "one")
    current = await changed_message(store, edit(message, bob, "two", if_rev=1))
    for rev in (1, 3, 0):
        with pytest.raises(StaleRev) as caught:
            await carry_out(store, edit(message, bob, "three", if_rev=rev))
        assert caught.value.current == current
    assert await people.log(group) == [current]
    # The rev is judged last: to others it reveals nothing.
    with pytest.raises(NotYourMessage):
        await carry_out(store, edit(message, alice, "x", if_rev=1))
    with pytest.raises(NotAMember):
        await carry_out(store, edit(message, eve, "x", if_rev=1))
    assert (await changed_message(store, edit(message, bob, "three", if_rev=2))).rev == 3


async def test_revisions_of_several_messages_share_a_call(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group, other = await people.group(alice, bob), await people.group(bob, alice)
    first, second = await people.send(group, bob, "one", "two")
    (third,) = await people.send(other, bob, "three")
    batch = [edit(second, bob, "2", at=at(5)), delete(third, bob), edit(first, bob, "1"), delete(second, alice)]
    outcomes = messages(await store.apply(batch))
    assert [(message.id, message.rev, message.content, message.is_deleted) for message in outcomes] == [
        (second.id, 3, "2", False),
        (third.id, 2, "", True),
        (first.id, 4, "1", False),
        (second.id, 5, "", True),
    ]
    assert outcomes[3].updated_at == at(5)
    assert await people.log(group) == [outcomes[2], outcomes[3]]
    assert await people.log(other) == [outcomes[1]]
    assert await store.head(group) == Head(2, 5, message_rev=5)


async def test_revisions_of_one_call_are_judged_one_after_the_other(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    group = await people.group(alice, bob)
    message, alices = await people.send(group, bob, "one"), await people.send(group, alice, "hers")
    (old,) = message
    outcomes = await store.apply(
        [
            edit(old, bob, "two", if_rev=1),
            edit(old, bob, "stale", if_rev=1),
            edit(old, eve, "of a stranger"),
            edit(old, bob, "three", if_rev=3),
            edit(alices[0], bob, "not his"),
            edit(replace(old, id=new_id()), bob, "of no message"),
            delete(old, alice),
            edit(old, bob, "too late"),
            delete(old, bob),
            edit(alices[0], alice, "fine"),
        ]
    )
    two, stale, stranger, three, not_his, unknown, gone, late, again, fine = outcomes
    assert [type(each) for each in (stranger, not_his, unknown, late, again)] == [
        NotAMember,
        NotYourMessage,
        NoSuchMessage,
        NoSuchMessage,
        NoSuchMessage,
    ]
    changed = messages([two, three, gone, fine])
    assert [(each.rev, each.content) for each in changed] == [(3, "two"), (4, "three"), (5, ""), (6, "fine")]
    assert isinstance(stale, StaleRev)
    assert stale.current == changed[0]
    assert await people.log(group) == changed[2:]


async def test_repeated_call_of_revisions_changes_nothing(store: Store, people: People) -> None:
    """Also if another one of the message came between, as of another process."""
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    message, other = await people.send(group, alice, "one", "other")
    batch = [edit(message, alice, f"{n}") for n in range(MAX_REVISIONS_OF_MESSAGE)]
    batch.insert(1, edit(other, alice, "edited"))
    await store.apply(batch)
    between = [await changed_message(store, edit(message, alice, f"between {n}")) for n in range(8)]
    head, log = await store.head(group), await people.log(group)
    repeated = messages(await store.apply(batch))
    assert [each for each in repeated if each.id == message.id] == [between[-1]] * MAX_REVISIONS_OF_MESSAGE
    assert (await store.head(group), await people.log(group)) == (head, log)
    # Partly carried out before: only the new one is carried out now.
    new = edit(message, alice, "new")
    assert messages(await store.apply([batch[2], new]))[1].rev == head.last_rev + 1


async def test_unstorable_text_rejects_its_whole_call_of_revisions(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    sent = await people.send(group, alice, "one", "two")
    with pytest.raises(StoreRefused):
        await store.apply([edit(sent[0], alice, "fine"), edit(sent[0], alice, "a\x00b"), edit(sent[1], alice, "fine")])
    assert await people.log(group) == sent


@pytest.mark.parametrize("content", ["a\x00b", "a\ud800b"])
async def test_edit_to_unstorable_text_is_rejected(store: Store, people: People, content: str) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    (message,) = await people.send(group, alice, "one")
    with pytest.raises(StoreRefused):
        await store.apply([edit(message, alice, content)])
    assert await people.log(group) == [message]


async def test_head_of_an_unknown_conversation(store: Store, people: People) -> None:
    with pytest.raises(NotAMember):
        await store.head(new_id())


# --- history ---


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({}, [10, 9, 8, 7]),
        ({"offset": 3}, [7, 6, 5, 4]),
        ({"offset": 8}, [2, 1]),
        ({"offset": 9}, [1]),
        ({"offset": 10}, []),
        ({"offset": 10**12}, []),
        ({"before_seq": 10}, [9, 8, 7, 6]),
        ({"before_seq": 11}, [10, 9, 8, 7]),
        ({"before_seq": 12}, [10, 9, 8, 7]),
        ({"before_seq": 1000}, [10, 9, 8, 7]),
        ({"before_seq": 2**63}, [10, 9, 8, 7]),
        ({"before_seq": 3}, [2, 1]),
        ({"before_seq": 1}, []),
        ({"before_seq": 0}, []),
        ({"before_seq": -5}, []),
        ({"after_seq": 0}, [4, 3, 2, 1]),
        ({"after_seq": 3}, [7, 6, 5, 4]),
        ({"after_seq": 8}, [10, 9]),
        ({"after_seq": 9}, [10]),
        ({"after_seq": 10}, []),
        ({"after_seq": 11}, []),
        ({"after_seq": 2**63}, []),
        ({"after_seq": -3}, [4, 3, 2, 1]),
        ({"after_seq": 3, "before_seq": 6}, [5, 4]),
        ({"after_seq": 2, "before_seq": 9}, [8, 7, 6, 5]),
        ({"after_seq": 2, "before_seq": 1000}, [10, 9, 8, 7]),
        ({"after_seq": 7, "before_seq": 1000}, [10, 9, 8]),
        ({"after_seq": 5, "before_seq": 6}, []),
        ({"after_seq": 9, "before_seq": 3}, []),
        ({"after_seq": 0, "before_seq": 2}, [1]),
    ],
    ids=str,
)
async def test_page_of_history(store: Store, people: People, bounds: dict[str, int], expected: list[int]) -> None:
    alice, bob = await people.users("alice", "bob")
    group, other = await people.group(alice, bob), await people.group(bob, alice)
    stored = [messages(await store.apply([post(group, alice), post(other, bob)]))[0] for _ in range(10)]
    page = await store.page_messages(group, bob.id, limit=4, **bounds)
    assert list(page.messages) == [stored[seq - 1] for seq in expected]
    assert page.total == 10


async def test_pages_cover_the_whole_history(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    stored = await people.send(group, alice, *map(str, range(11)))
    by_offset = [m for n in range(0, 12, 3) for m in (await _page(store, group, alice, limit=3, offset=n))]
    assert by_offset == stored[::-1]
    backwards: list[Message] = []
    while found := await _page(store, group, alice, limit=4, before_seq=backwards[-1].seq if backwards else 12):
        backwards += found
    assert backwards == stored[::-1]
    forwards: list[Message] = []
    while found := await _page(store, group, alice, limit=4, after_seq=forwards[-1].seq if forwards else 0):
        forwards += found[::-1]
    assert forwards == stored


async def _page(store: Store, group: UUID, user: User, *, limit: int, **bounds: int) -> list[Message]:
    return list((await store.page_messages(group, user.id, limit=limit, **bounds)).messages)


async def test_a_page_ends_before_it_exceeds_its_bytes(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    texts = ["short", "l" * 4_000, "", "\x01" * 700, "界" * 1_400, "m" * 9_000, "end"]
    stored = await people.send(group, alice, *(text or "-" for text in texts))
    for bound in (1, 2_000, 5_000, 10_000):
        backwards: list[Message] = []
        sizes = []
        while True:
            before = {"before_seq": backwards[-1].seq} if backwards else {}
            page = await store.page_messages(group, alice.id, limit=5, max_bytes=bound, **before)
            backwards += page.messages
            sizes.append([message_bytes(message) for message in page.messages])
            if not page.has_more:
                break
        assert backwards == stored[::-1]
        assert all(sum(size) <= bound or len(size) == 1 for size in sizes), sizes
        forwards: list[Message] = []
        has_more = True
        while has_more:
            after = forwards[-1].seq if forwards else 0
            page = await store.page_messages(group, alice.id, limit=5, max_bytes=bound, after_seq=after)
            forwards += page.messages[::-1]
            has_more = page.has_more
        assert forwards == stored


async def test_a_page_says_whether_there_are_more(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    await people.send(group, alice, *map(str, range(6)))
    for bounds, has_more in (
        ({"limit": 5}, True),
        ({"limit": 6}, False),
        ({"limit": 2, "offset": 4}, False),
        ({"limit": 2, "offset": 3}, True),
        ({"limit": 2, "offset": 6}, False),
        ({"limit": 3, "before_seq": 4}, False),
        ({"limit": 2, "before_seq": 4}, True),
        ({"limit": 2, "before_seq": 4, "after_seq": 1}, False),
        ({"limit": 1, "before_seq": 4, "after_seq": 1}, True),
        ({"limit": 3, "after_seq": 3}, False),
        ({"limit": 2, "after_seq": 3}, True),
        ({"limit": 2, "after_seq": 6}, False),
    ):
        page = await store.page_messages(group, alice.id, **bounds)
        assert page.has_more is has_more, bounds


async def test_empty_history(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    for bounds in ({}, {"offset": 3}, {"before_seq": 5}, {"after_seq": 0}, {"before_seq": 9, "after_seq": 0}):
        page = await store.page_messages(group, alice.id, limit=5, **bounds)
        assert (page.messages, page.total) == ((), 0)


async def test_only_members_read_history(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    group = await people.group(alice, bob)
    await people.send(group, alice, "secret")
    with pytest.raises(NotAMember):
        await store.page_messages(group, eve.id, limit=5)
    with pytest.raises(NotAMember):
        await store.page_messages(new_id(), alice.id, limit=5)
    await carry_out(store, leave(group, bob))
    with pytest.raises(NotAMember):
        await store.page_messages(group, bob.id, limit=5)
