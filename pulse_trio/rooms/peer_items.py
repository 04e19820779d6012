"""The items that processes of one service send each other over the bus, and their JSON.

Every item is a JSON array that begins with its tag. An item of an unknown tag is ignored, so that a newer version may
send more; fields may be added at the end, with defaults. An item is a hint: what it says is in the store, too, or is
ephemeral.
"""

from collections.abc import Sequence
from dataclasses import astuple
from datetime import datetime
from typing import Final, TypeAlias
from uuid import UUID

import msgspec

from pulse_trio.model import Change, Member, Message, MyMembership, Properties
from pulse_trio.rooms.sentences import Act
from pulse_trio.store.base import Head


class _Item(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    pass


class _MessageRow(_Item, frozen=True):
    id: UUID
    sender_id: UUID
    sender_username: str
    content: str
    is_edited: bool
    is_deleted: bool
    created_at: datetime
    updated_at: datetime
    seq: int
    rev: int
    client_id: str | None = None


class _MemberRow(_Item, frozen=True):
    rev: int
    user_id: UUID
    username: str
    is_member: bool
    actor_id: UUID | None
    member_count: int
    user_rev: int = 0


class _PropertiesRow(_Item, frozen=True):
    rev: int
    name: str | None
    description: str | None
    owner_id: UUID
    actor_id: UUID | None


class MessagesItem(_Item, tag="m", frozen=True):
    """Messages of a conversation that were stored or changed, in the order of rev."""

    conversation_id: UUID
    rows: list[_MessageRow]


class MembersItem(_Item, tag="u", frozen=True):
    """Changes of the members of a conversation, in the order of rev.

    Attributes:
        before: the head before them: last_seq, last_rev and the revs of messages, members and properties.
        actor_username: the name of the user who asked for them.
    """

    conversation_id: UUID
    rows: list[_MemberRow]
    before: tuple[int, int, int, int, int]
    actor_username: str | None = None


class PropertiesItem(_Item, tag="p", frozen=True):
    """New properties of a conversation.

    Attributes:
        is_act: it is known what they are of; else the next two are defaults.
        is_renaming: somebody asked for them; else they follow from another change, such as the owner's leaving.
        actor_username: the name of the user who asked for them.
    """

    conversation_id: UUID
    row: _PropertiesRow
    is_act: bool = False
    is_renaming: bool = False
    actor_username: str | None = None


class RevItem(_Item, tag="r", frozen=True):
    """A conversation has come to a rev; the changes are in the store: they are too large for an item."""

    conversation_id: UUID
    rev: int


class CreatedItem(_Item, tag="n", frozen=True):
    """A conversation was created.

    Attributes:
        members: its members, each with the rev of the creation in the user's own sequence; 0 if it is not known. Empty
            if there are too many for an item: they are in the store.
    """

    conversation_id: UUID
    members: list[tuple[UUID, int]]


class ReadItem(_Item, tag="d", frozen=True):
    """Read positions that have moved: user, seq, and the rev in the user's own sequence."""

    conversation_id: UUID
    positions: list[tuple[UUID, int, int]]


class TypingItem(_Item, tag="t", frozen=True):
    """A user is typing."""

    conversation_id: UUID
    user_id: UUID
    username: str


class DeltaItem(_Item, tag="+", frozen=True):
    """A change of one of a process's sets; see `peer_sets`.

    Attributes:
        scope: the name of the set.
        added: elements with their names.
        removed: elements.
        digest: size and digest of the set after this.
        stamp: rises with everything that the process says of its sets: an item with a lower one is out of date.
    """

    scope: str
    added: list[tuple[UUID, str]]
    removed: list[UUID]
    digest: str
    stamp: int


class WholeItem(_Item, tag="w", frozen=True):
    """A part of one of a process's sets.

    Attributes:
        scope: the name of the set.
        part: the number of this part, from 0.
        parts: how many there are.
        elements: its elements, with their names.
        digest: size and digest of the whole set.
        stamp: as in `DeltaItem`; that of all parts is the same.
        is_quiet: it is no news for clients: a room has opened, or ended, for nobody's coming or going.
        known: the processes whose set the publisher has; others that have anything in theirs publish it, too. None: it
            does not ask for any.
    """

    scope: str
    part: int
    parts: int
    elements: list[tuple[UUID, str]]
    digest: str
    stamp: int
    is_quiet: bool = False
    known: list[UUID] | None = None


class AskItem(_Item, tag="?", frozen=True):
    """A process asks for sets of others.

    Attributes:
        scopes: the names of the sets.
        publisher: the process that is asked; None: all.
    """

    scopes: list[str]
    publisher: UUID | None = None


class DigestItem(_Item, tag="=", frozen=True):
    """Sizes and digests of sets of a process, said from time to time."""

    digests: list[tuple[str, str]]


class ConfirmItem(_Item, tag="c", frozen=True):
    """A process asks all others to confirm that a removed user gets nothing of a conversation any more.

    Attributes:
        request: the answers repeat it.
        conversation_id: the conversation.
        user_id: the user.
        rev: that of the removal.
    """

    request: UUID
    conversation_id: UUID
    user_id: UUID
    rev: int


class ConfirmedItem(_Item, tag="k", frozen=True):
    """The answer to a `ConfirmItem`."""

    request: UUID


SetItem: TypeAlias = DeltaItem | WholeItem | AskItem | DigestItem

Item: TypeAlias = (
    MessagesItem
    | MembersItem
    | PropertiesItem
    | RevItem
    | CreatedItem
    | ReadItem
    | TypingItem
    | SetItem
    | ConfirmItem
    | ConfirmedItem
)

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder[Item](Item)


def encode_item(item: Item) -> bytes:
    """Returns an item as JSON."""
    return _encoder.encode(item)


def decode_item(data: bytes | msgspec.Raw) -> Item | None:
    """Returns an item; None if it is of a kind that this version does not know, or malformed."""
    try:
        item: Item = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return item


def items_of(changes: Sequence[Change], before: Head, act: Act | None) -> list[Item]:
    """Returns the items for committed changes of one conversation, in the order of rev.

    Args:
        changes: the changes; those of one kind that follow each other share an item.
        before: the head before them; only members need it.
        act: what they are of, if it is known.
    """
    items: list[Item] = []
    conversation_id = changes[0].conversation_id
    messages = [_message_row(change) for change in changes if isinstance(change, Message)]
    if messages:
        items.append(MessagesItem(conversation_id, messages))
    members = [_member_row(change) for change in changes if isinstance(change, Member)]
    if members:
        name = None if act is None else act.actor_username
        items.append(MembersItem(conversation_id, members, _head_row(before), name))
    for change in changes:
        if isinstance(change, Properties):
            row = _PropertiesRow(change.rev, change.name, change.description, change.owner_id, change.actor_id)
            if act is None:
                items.append(PropertiesItem(conversation_id, row))
            else:
                item = PropertiesItem(conversation_id, row, True, act.is_renaming, act.actor_username)
                items.append(item)
    return items


def changes_of(item: MessagesItem | MembersItem | PropertiesItem) -> tuple[list[Change], Act | None]:
    """Returns the changes of an item, and what they are of."""
    conversation_id = item.conversation_id
    if isinstance(item, MessagesItem):
        return [_message(conversation_id, row) for row in item.rows], None
    if isinstance(item, MembersItem):
        members: list[Change] = [Member(conversation_id, *msgspec.structs.astuple(row)) for row in item.rows]
        return members, Act(item.actor_username, is_renaming=False)
    act = Act(item.actor_username, is_renaming=item.is_renaming) if item.is_act else None
    return [Properties(conversation_id, *msgspec.structs.astuple(item.row))], act


def head_before(item: MembersItem) -> Head:
    """Returns the head of the conversation before the changes of an item."""
    return Head(*item.before)


def created_item(conversation_id: UUID, members: Sequence[UUID], memberships: Sequence[MyMembership]) -> CreatedItem:
    """Returns the item for a creation; `memberships` are those whose revs are known."""
    revs = {membership.user_id: membership.user_rev for membership in memberships}
    return CreatedItem(conversation_id, [(user_id, revs.get(user_id, 0)) for user_id in members])


def _head_row(head: Head) -> tuple[int, int, int, int, int]:
    last_seq, last_rev, message_rev, members_rev, properties_rev = astuple(head)
    return last_seq, last_rev, message_rev, members_rev, properties_rev


def _message_row(message: Message) -> _MessageRow:
    return _MessageRow(
        message.id,
        message.sender_id,
        message.sender_username,
        message.content,
        message.is_edited,
        message.is_deleted,
        message.created_at,
        message.updated_at,
        message.seq,
        message.rev,
        message.client_id,
    )


def _message(conversation_id: UUID, row: _MessageRow) -> Message:
    return Message(
        row.id,
        conversation_id,
        row.sender_id,
        row.sender_username,
        row.content,
        row.is_edited,
        row.is_deleted,
        row.created_at,
        row.updated_at,
        row.seq,
        row.rev,
        row.client_id,
    )


def _member_row(member: Member) -> _MemberRow:
    return _MemberRow(
        member.rev,
        member.user_id,
        member.username,
        member.is_member,
        member.actor_id,
        member.member_count,
        member.user_rev,
    )
