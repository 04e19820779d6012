"""Messages: order, idempotence, changes and history, on every store."""

from dataclasses import replace

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pulse_trio.store.base import (
    Head,
    Message,
    NoSuchMessage,
    NotAMember,
    NotYourMessage,
    Store,
    StoreRefused,
)
from tests.contract.conftest import LIMIT, StoreKind
from tests.contract.people import People, at, seqs

STORABLE = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=60)


async def test_stored_message_has_the_given_values(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "Bob")
    group = await people.group(alice, bob)
    new = people.message(group, bob, "héllo", client_id="c" * 64, created_at=at(3))
    (stored,) = await store.append([new])
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
    conversation = await store.get_conversation(group, alice.id)
    assert conversation is not None
    assert conversation.last_message == stored
    assert conversation.updated_at == at(3)


async def test_each_conversation_numbers_its_own_messages(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    first, second = await people.group(alice, bob), await people.group(bob, alice)
    batch = [people.message(group, alice, f"m{n}") for n, group in enumerate([second, first, first, second, first])]
    stored = await store.append(batch)
    assert seqs(stored) == [1, 1, 2, 2, 3]
    assert [message and message.id for message in stored] == [new.id for new in batch]
    assert seqs(await people.send(first, bob, "a", "b")) == [4, 5]
    for group, total in ((first, 5), (second, 2)):
        assert await store.head(group) == Head(total, total)
        changed = await store.changes(group, after_rev=0, limit=99)
        assert [(m.seq, m.rev) for m in changed] == [(n, n) for n in range(1, total + 1)]
    assert [m.content for m in await store.changes(first, after_rev=0, limit=9)] == ["m1", "m2", "m4", "a", "b"]


async def test_order_follows_the_batch_not_ids_or_times(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    batch = [people.message(group, alice, str(n), created_at=at(-n)) for n in range(20)]
    batch.reverse()
    assert seqs(await store.append(batch)) == list(range(1, 21))


async def test_empty_batch(store: Store) -> None:
    assert await store.append([]) == []


async def test_repeated_batch_changes_nothing(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    first, second = await people.group(alice, bob), await people.group(bob, alice)
    batch = [
        people.message(first, alice, client_id="1"),
        people.message(second, alice, client_id="1"),
        people.message(first, bob),
    ]
    stored = await store.append(batch)
    before = await store.get_conversation(first, alice.id)
    assert await store.append(batch) == stored
    assert await store.append(batch[::-1]) == stored[::-1]
    assert await store.get_conversation(first, alice.id) == before
    assert await store.head(first) == Head(2, 2)
    assert await store.head(second) == Head(1, 1)


async def test_partly_repeated_batch_adds_new_messages_without_a_gap(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    old = [people.message(group, alice, f"old {n}") for n in range(3)]
    stored = await store.append(old)
    new = [people.message(group, alice, f"new {n}") for n in range(3)]
    mixed = await store.append([new[0], old[2], new[1], old[0], new[2]])
    assert seqs(mixed) == [4, 3, 5, 1, 6]
    assert (mixed[1], mixed[3]) == (stored[2], stored[0])
    assert await store.head(group) == Head(6, 6)


async def test_repeated_message_returns_its_current_state(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    new = people.message(group, alice, "first", client_id="c")
    (stored,) = await store.append([new])
    assert stored is not None
    changed = await store.revise(people.revision(stored, alice, "changed"))
    assert await store.append([new]) == [changed]
    assert await store.append([replace(new, id=people.new_id())]) == [changed]


async def test_reused_client_id_returns_the_first_message(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    (first,) = await store.append([people.message(group, alice, "first", client_id="c")])
    again = people.message(group, alice, "other content", client_id="c", created_at=at(9))
    assert await store.append([people.message(group, alice, "before"), again, people.message(group, alice)]) == [
        *await store.changes(group, after_rev=1, limit=1),
        first,
        *await store.changes(group, after_rev=2, limit=1),
    ]
    assert await store.head(group) == Head(3, 3)


async def test_client_id_is_scoped_to_sender_and_conversation(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    first, second = await people.group(alice, bob), await people.group(bob, alice)
    batch = [
        people.message(first, alice, client_id="c"),
        people.message(first, bob, client_id="c"),
        people.message(second, alice, client_id="c"),
        people.message(first, alice, client_id="C"),
        people.message(first, alice),
        people.message(first, alice),
    ]
    assert seqs(await store.append(batch)) == [1, 2, 1, 3, 4, 5]


async def test_messages_of_non_members_are_not_stored(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    group, other = await people.group(alice, bob), await people.group(eve)
    batch = [
        people.message(group, eve),
        people.message(group, alice),
        people.message(people.new_id(), alice),
        people.message(other, alice),
        people.message(other, eve),
        people.message(group, bob),
    ]
    stored = await store.append(batch)
    assert seqs(stored) == [None, 1, None, None, 1, 2]
    assert await store.append(batch[:1]) == [None]
    assert await store.head(group) == Head(2, 2)


async def test_repeat_after_leaving_returns_the_stored_message(store: Store, people: People) -> None:
    """The answer to the first attempt may be lost; the message is stored, so it must not look rejected."""
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    new = people.message(group, bob, client_id="c")
    stored = await store.append([new])
    await store.remove_member(group, bob.id, bob.id, now=at(1))
    assert await store.append([new, people.message(group, bob)]) == [*stored, None]


@pytest.mark.parametrize("content", ["a\x00b", "a\ud800b"])
async def test_unstorable_text_rejects_its_whole_batch(store: Store, people: People, content: str) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    with pytest.raises(StoreRefused):
        await store.append([people.message(group, alice), people.message(group, alice, content)])
    assert await store.head(group) == Head(0, 0)
    assert seqs(await people.send(group, alice, "fine")) == [1]


@pytest.mark.parametrize("client_id", ["", "c" * 65])
async def test_client_id_of_a_wrong_length_is_rejected(store: Store, people: People, client_id: str) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    with pytest.raises(StoreRefused):
        await store.append([people.message(group, alice), people.message(group, alice, client_id=client_id)])
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
                batch = [people.message(group, alice, content) for content in contents]
                batch[0] = replace(batch[0], client_id=client_id)
                stored = await store.append(batch)
                assert [message and message.content.encode() for message in stored] == [c.encode() for c in contents]
                found = await store.changes(group, after_rev=0, limit=99)
                assert [message.content.encode() for message in found] == [c.encode() for c in contents]
                assert found[0].client_id == client_id

    trio.run(main)


async def test_long_and_odd_texts_are_returned_unchanged(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    contents = ["", " ", "NULL", "{}", '{"a","b"}', "\\", "\\N", "%s", "'; --", "\r\n\t\x01\x7f", "\U0001f600" * 50_000]
    assert [message.content for message in await people.send(group, alice, *contents)] == contents


# --- changes ---


async def test_edit_takes_the_next_rev_and_keeps_the_seq(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    first, second = await people.send(group, bob, "one", "two")
    edited = await store.revise(people.revision(first, bob, "one, edited", made_at=at(5)))
    assert edited == replace(first, content="one, edited", is_edited=True, updated_at=at(5), rev=3)
    assert await store.head(group) == Head(2, 3)
    assert (await store.page_messages(group, alice.id, limit=9)).messages == (second, edited)
    assert await store.changes(group, after_rev=0, limit=9) == [second, edited]
    (third,) = await people.send(group, alice, "three")
    assert (third.seq, third.rev) == (3, 4)


async def test_deletion_leaves_a_tombstone(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    mine, bobs = await people.send(group, bob, "mine", "bob's")
    gone = await store.revise(people.revision(mine, bob, None, made_at=at(2)))
    assert gone == replace(mine, content="", is_deleted=True, updated_at=at(2), rev=3)
    by_owner = await store.revise(people.revision(bobs, alice, None, made_at=at(3)))
    assert (by_owner.is_deleted, by_owner.content, by_owner.rev) == (True, "", 4)
    page = await store.page_messages(group, bob.id, limit=9)
    assert page.messages == (by_owner, gone)
    assert page.total == 2
    assert seqs(await people.send(group, bob, "next")) == [3]


async def test_edited_then_deleted_message_stays_edited(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    (message,) = await people.send(group, alice, "one")
    await store.revise(people.revision(message, alice, "two", made_at=at(9)))
    gone = await store.revise(people.revision(message, alice, None, made_at=at(1)))
    assert (gone.is_edited, gone.is_deleted, gone.updated_at) == (True, True, at(9))


async def test_repeated_revision_changes_nothing(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    (message,) = await people.send(group, alice, "one")
    for content in ("two", None):
        revision = people.revision(message, alice, content)
        changed = await store.revise(revision)
        head = await store.head(group)
        assert await store.revise(revision) == changed
        assert await store.head(group) == head


async def test_revision_is_rejected(store: Store, people: People) -> None:
    alice, bob, eve = await people.users("alice", "bob", "eve")
    group, other = await people.group(alice, bob), await people.group(alice, bob)
    alices, bobs = [(await people.send(group, sender, "hello"))[0] for sender in (alice, bob)]
    with pytest.raises(NotAMember):
        await store.revise(people.revision(bobs, eve, "x"))
    with pytest.raises(NotAMember):
        await store.revise(replace(people.revision(bobs, bob, "x"), conversation_id=people.new_id()))
    with pytest.raises(NoSuchMessage):
        await store.revise(replace(people.revision(bobs, bob, "x"), conversation_id=other))
    with pytest.raises(NoSuchMessage):
        await store.revise(replace(people.revision(bobs, bob, "x"), message_id=people.new_id()))
    with pytest.raises(NotYourMessage):
        await store.revise(people.revision(bobs, alice, "the owner may delete only"))
    for content in ("x", None):
        with pytest.raises(NotYourMessage):
            await store.revise(people.revision(alices, bob, content))
    assert await store.head(group) == Head(2, 2)
    await store.revise(people.revision(bobs, bob, None))
    for content in ("x", None):
        with pytest.raises(NoSuchMessage):
            await store.revise(people.revision(bobs, bob, content))
    await store.remove_member(group, bob.id, bob.id, now=at(1))
    with pytest.raises(NotAMember):
        await store.revise(people.revision(bobs, bob, "x"))
    assert await store.head(group) == Head(2, 3, 1)


@pytest.mark.parametrize("content", ["a\x00b", "a\ud800b"])
async def test_revision_to_unstorable_text_is_rejected(store: Store, people: People, content: str) -> None:
    (alice,) = await people.users("alice")
    group = await people.group(alice)
    (message,) = await people.send(group, alice, "one")
    with pytest.raises(StoreRefused):
        await store.revise(people.revision(message, alice, content))
    assert await store.changes(group, after_rev=0, limit=9) == [message]


async def test_changes_after_a_rev_come_in_rev_order(store: Store, people: People) -> None:
    (alice,) = await people.users("alice")
    group, other = await people.group(alice), await people.group(alice)
    messages = await people.send(group, alice, *map(str, range(6)))
    await people.send(other, alice, "elsewhere")
    edited = await store.revise(people.revision(messages[1], alice, "edited"))
    everything = [messages[0], *messages[2:], edited]
    assert await store.changes(group, after_rev=0, limit=99) == everything
    assert await store.changes(group, after_rev=0, limit=2) == everything[:2]
    assert await store.changes(group, after_rev=1, limit=2) == everything[1:3]
    assert await store.changes(group, after_rev=6, limit=99) == [edited]
    assert await store.changes(group, after_rev=7, limit=99) == []
    assert await store.changes(group, after_rev=10**6, limit=99) == []
    assert await store.changes(people.new_id(), after_rev=0, limit=99) == []


async def test_head_of_an_unknown_conversation(store: Store, people: People) -> None:
    with pytest.raises(NotAMember):
        await store.head(people.new_id())


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
    stored = [(await store.append([people.message(group, alice), people.message(other, bob)]))[0] for _ in range(10)]
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


async def _page(store: Store, group: object, user: object, **bounds: int) -> list[Message]:
    return list((await store.page_messages(group, user.id, **bounds)).messages)  # type: ignore[arg-type,attr-defined]


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
        await store.page_messages(people.new_id(), alice.id, limit=5)
    await store.remove_member(group, bob.id, bob.id, now=at(1))
    with pytest.raises(NotAMember):
        await store.page_messages(group, bob.id, limit=5)
