"""The frames that carry changes, for connections with different features."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from msgspec import UNSET

from pulse_trio.clock import rfc3339
from pulse_trio.model import FEATURED, Change, Member, Message, Properties
from pulse_trio.protocol import (
    ConversationFrame,
    Encoded,
    MemberEntry,
    MemberFrame,
    MessageDeletedFrame,
    MessageFrame,
    MessageUpdatedFrame,
    encode,
)


def message_frame(message: Message, prev_rev: int | None) -> MessageFrame | MessageUpdatedFrame | MessageDeletedFrame:
    """Returns the frame for a message's latest change; without `prev_rev` if that is None."""
    fields: dict[str, Any] = {
        "sender_id": message.sender_id,
        "sender_username": message.sender_username,
        "message_id": message.id,
        "timestamp": rfc3339(message.created_at),
        "conversation_id": message.conversation_id,
        "seq": message.seq,
        "rev": message.rev,
        "client_id": UNSET if message.client_id is None else message.client_id,
        "prev_rev": UNSET if prev_rev is None else prev_rev,
    }
    if message.is_deleted:
        return MessageDeletedFrame(**fields, updated_at=rfc3339(message.updated_at))
    fields["content"] = message.content
    fields["is_edited"] = message.is_edited
    if message.is_edited:
        return MessageUpdatedFrame(**fields, updated_at=rfc3339(message.updated_at))
    return MessageFrame(**fields)


def member_frame(members: Sequence[Member], prev_rev: int) -> MemberFrame:
    """Returns one frame for several changes of members, in the order of rev."""
    last = members[-1]
    return MemberFrame(
        conversation_id=last.conversation_id,
        rev=last.rev,
        prev_rev=prev_rev,
        member_count=last.member_count,
        members=[MemberEntry(m.user_id, m.username, m.is_member, m.rev, m.actor_id) for m in members],
    )


def properties_frame(properties: Properties, prev_rev: int) -> ConversationFrame:
    """Returns the frame for the properties of a conversation."""
    return ConversationFrame(
        conversation_id=properties.conversation_id,
        rev=properties.rev,
        prev_rev=prev_rev,
        name=properties.name,
        description=properties.description,
        owner_id=properties.owner_id,
        actor_id=properties.actor_id,
    )


def encode_run(run: Sequence[Change], mask: int, prev_rev: int) -> list[tuple[int, Encoded]]:
    """Encodes changes of one kind; as `encode_changes`, but fast: it runs for each message."""
    if isinstance(run[-1], Member):
        return [(run[-1].rev, encode(member_frame([each for each in run if isinstance(each, Member)], prev_rev)))]
    is_featured = mask & FEATURED
    frames = []
    for change in run:
        if isinstance(change, Message):
            frame = encode(message_frame(change, prev_rev if is_featured else None))
        else:
            assert isinstance(change, Properties)
            frame = encode(properties_frame(change, prev_rev))
        frames.append((change.rev, frame))
        prev_rev = change.rev
    return frames


def encode_changes(changes: Sequence[Change], mask: int, prev_rev: int) -> list[tuple[int, Encoded]]:
    """Encodes changes for connections with the features of `mask`; changes of other kinds are left out.

    Args:
        changes: in the order of rev. Members that follow each other share a frame.
        mask: from `Features.mask`.
        prev_rev: the rev of the change of these kinds before the first one.

    Returns:
        The frames, each with the rev of its last change.
    """
    frames: list[tuple[int, Encoded]] = []
    for _, run in groupby((change for change in changes if change.kind & mask), key=kind_of):
        frames += encode_run(list(run), mask, prev_rev)
        prev_rev = frames[-1][0]
    return frames


def kind_of(change: Change) -> int:
    """Returns the kind of a change, by which runs of changes are grouped."""
    return change.kind
