"""The index of conversations, against a plain one."""

import gc
import random
from uuid import UUID

from pulse_trio.rooms.conversation_index import ConversationIndex, pieces_of
from pulse_trio.store.base import Head
from tests.support.commands import new_id


def head(rev: int) -> Head:
    return Head(rev, rev, message_rev=rev, members_rev=rev // 2, properties_rev=1)


def test_it_agrees_with_a_plain_index() -> None:
    rand = random.Random(3)
    users, conversations = [new_id() for _ in range(6)], [new_id() for _ in range(8)]
    index = ConversationIndex()
    plain: dict[UUID, set[UUID]] = {}  # user → conversations
    heads: dict[UUID, Head] = {}
    for step in range(4_000):
        user, conversation = rand.choice(users), rand.choice(conversations)
        what = rand.choice(("here", "add", "add", "add", "discard", "head", "gone"))
        if what == "here":
            index.add_user(user)
            plain.setdefault(user, set())
        elif what == "add" and user in plain:
            if not any(conversation in each for each in plain.values()):
                heads[conversation] = head(step)
            index.add(conversation, user, head(step))
            plain[user].add(conversation)
        elif what == "discard":
            index.discard(conversation, user)
            plain.get(user, set()).discard(conversation)
        elif what == "head" and any(conversation in each for each in plain.values()):
            index.set_head(conversation, head(step))
            heads[conversation] = head(step)
        elif what == "gone" and rand.random() < 0.3:
            index.remove_user(user)
            plain.pop(user, None)
        here = {each for mine in plain.values() for each in mine}
        assert {each for piece in index.pieces(3) for each in piece} == here
        assert len(index) == len(here)
        assert set(index.user_ids) == set(plain)
        for each in conversations:
            members = {key for key, mine in plain.items() if each in mine}
            assert set(index.users_of(each)) == members
            assert len(index.users_of(each)) == len(members)
            assert index.head_of(each) == (heads[each] if members else None)
            assert (each in index) == bool(members)
            assert all(index.has(each, key) == (key in members) for key in users)
        for key in users:
            assert set(index.conversations_of(key)) == plain.get(key, set())


def test_the_rev_of_a_user_stops_before_one_that_is_missing() -> None:
    """Else a later change would hide one that the bus has lost."""
    index, user = ConversationIndex(), new_id()
    assert index.rev_of(user) is None
    index.set_rev(user, 3)  # not here
    index.add_user(user)
    index.note_rev(user, 0)
    assert index.rev_of(user) == -1, "their list is not known yet"
    index.set_rev(user, 5)
    index.set_rev(user, 2)
    assert index.rev_of(user) == 5
    index.note_rev(user, 6)
    index.note_rev(user, 8)
    assert index.rev_of(user) == 6
    index.set_rev(user, 8)
    assert index.rev_of(user) == 8
    index.remove_user(user)
    index.add_user(user)
    assert index.rev_of(user) == -1, "what a former session knew says nothing about the list of a new one"


def test_an_id_that_lies_across_two_others_is_not_taken_for_one() -> None:
    """Ids lie one after the other in one piece of memory: only whole ones count."""
    index, user = ConversationIndex(), new_id()
    index.add_user(user)
    ids = [UUID(bytes=bytes([0] * 8 + [1] * 8)), UUID(bytes=bytes([2] * 8 + [0] * 8))]
    across = UUID(bytes=bytes([1] * 8 + [2] * 8))
    for each in (*ids, across):
        index.add(each, user, head(1))
    index.discard(across, user)
    assert index.conversations_of(user) == ids
    assert not index.has(across, user)


def test_its_entries_cost_the_garbage_collector_nothing() -> None:
    """With UUID keys a full collection stopped the loop for a second at a million entries."""
    index, user = ConversationIndex(), new_id()
    index.add_user(user)
    for _ in range(100):
        index.add(new_id(), user, head(1))
    gc.collect()
    entries = index._entries
    assert not any(gc.is_tracked(each) for pair in entries.items() for each in pair)


def test_pieces_have_all_ids_once() -> None:
    ids = [new_id() for _ in range(7)]
    pieces = list(pieces_of(ids, 3))
    assert [len(piece) for piece in pieces] == [3, 3, 1]
    assert [each for piece in pieces for each in piece] == ids
    assert list(pieces_of([], 3)) == []
