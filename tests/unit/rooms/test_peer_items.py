"""The items that processes send each other: what goes in comes out, and what is unknown is ignored."""

from datetime import UTC, datetime

import msgspec
import pytest

from pulse_trio.model import Change, Member, Message, MyMembership, Properties
from pulse_trio.rooms.peer_items import (
    CreatedItem,
    Item,
    MembersItem,
    MessagesItem,
    PropertiesItem,
    ReadItem,
    RevItem,
    TypingItem,
    changes_of,
    created_item,
    decode_item,
    encode_item,
    head_before,
    items_of,
)
from pulse_trio.rooms.sentences import Act
from pulse_trio.store.base import Head
from tests.support.commands import new_id

GROUP, ALICE, BOB = new_id(), new_id(), new_id()
AT = datetime(2026, 2, 4, 10, 30, 0, 123_456, tzinfo=UTC)
BEFORE = Head(7, 11, message_rev=9, members_rev=11, properties_rev=3)


def message(rev: int, *, is_deleted: bool = False, client_id: str | None = "c1") -> Message:
    content = "" if is_deleted else 'é "x" \n'
    return Message(new_id(), GROUP, ALICE, "alice", content, False, is_deleted, AT, AT, rev, rev, client_id)


def member(rev: int, *, is_member: bool = True, user_rev: int = 4) -> Member:
    return Member(GROUP, rev, BOB, "bob", is_member, ALICE, 2, user_rev)


def through(item: Item) -> Item:
    """Returns an item as another process gets it: out of a batch, not decoded."""
    (raw,) = msgspec.json.decode(b"[" + encode_item(item) + b"]", type=list[msgspec.Raw])
    found = decode_item(raw)
    assert found is not None
    return found


def changes_through(changes: list[Change], act: Act | None) -> list[tuple[list[Change], Act | None]]:
    return [
        changes_of(item)
        for item in map(through, items_of(changes, BEFORE, act))
        if isinstance(item, MessagesItem | MembersItem | PropertiesItem)
    ]


def test_messages_come_out_as_they_went_in() -> None:
    messages: list[Change] = [message(12), message(13, client_id=None), message(14, is_deleted=True)]
    assert changes_through(messages, None) == [(messages, None)]


def test_members_come_out_with_their_act_and_the_head_before() -> None:
    members: list[Change] = [member(12), member(13, is_member=False, user_rev=0)]
    act = Act("alice", is_renaming=False)
    assert changes_through(members, act) == [(members, act)]
    (item,) = items_of(members, BEFORE, act)
    assert isinstance(item, MembersItem)
    assert head_before(item) == BEFORE


@pytest.mark.parametrize("act", [None, Act(None, is_renaming=False), Act("alice", is_renaming=True)])
def test_properties_come_out_with_their_act(act: Act | None) -> None:
    properties: list[Change] = [Properties(GROUP, 12, None, "a group", ALICE, None)]
    assert changes_through(properties, act) == [(properties, act)]


def test_changes_of_several_kinds_are_several_items() -> None:
    changes: list[Change] = [message(12), member(13), Properties(GROUP, 14, "x", None, BOB, BOB)]
    found = [change for part, _ in changes_through(changes, Act(None, is_renaming=False)) for change in part]
    assert found == changes


@pytest.mark.parametrize(
    "item",
    [
        RevItem(GROUP, 2**40),
        CreatedItem(GROUP, []),
        ReadItem(GROUP, [(ALICE, 3, 9), (BOB, 1, 0)]),
        TypingItem(GROUP, ALICE, "alice"),
    ],
)
def test_other_items_come_out_as_they_went_in(item: Item) -> None:
    assert through(item) == item


def test_a_creation_names_the_revs_that_are_known() -> None:
    item = created_item(GROUP, [ALICE, BOB], [MyMembership(GROUP, BOB, 5, True, 0)])
    assert through(item) == CreatedItem(GROUP, [(ALICE, 0), (BOB, 5)])


@pytest.mark.parametrize("data", [b'["z",1]', b'["r"]', b'["r","x",1]', b"{}", b"", b"\xff", b"[1]", b"null"])
def test_what_is_unknown_or_malformed_is_ignored(data: bytes) -> None:
    assert decode_item(data) is None


def test_fields_of_a_later_version_are_ignored() -> None:
    item = RevItem(GROUP, 3)
    assert decode_item(encode_item(item)[:-1] + b',"later"]') == item
