"""The index of a process: which of its users are in which conversations, and what they have been sent of each.

It is exact, and it is kept only where other processes change conversations, too: a process that hears of a change must
know at once whether anybody here is to get it.

A process may hold a million entries. They are packed into `bytes`, which the garbage collector does not visit: with
UUID keys each full collection would stop the loop for a second.
"""

import struct
from collections.abc import Iterator
from typing import Final
from uuid import UUID

from pulse_trio.store.base import Head

_HEAD: Final = struct.Struct("<5q")
_USER: Final = struct.Struct("<I")
_ID_BYTES: Final = 16
MAX_AHEAD: Final = 64  # revs of one user that are known while one before them is not; a comparison finds others


class ConversationIndex:
    """Conversation → the users with sessions here who are members, and the head up to which they have its changes."""

    __slots__ = ("_ahead", "_conversations", "_entries", "_free", "_ids", "_numbers", "_revs")

    def __init__(self) -> None:
        self._entries: dict[bytes, bytes] = {}  # conversation → packed head, and the numbers of the users
        self._numbers: dict[UUID, int] = {}  # user → a small number of this process
        self._ids: list[UUID | None] = []  # number → user
        self._free: list[int] = []
        self._conversations: list[bytearray] = []  # number → the ids of the user's conversations, one after the other
        self._revs: list[int] = []  # number → the rev of the user's own sequence up to which all is known; -1: none yet
        self._ahead: dict[int, set[int]] = {}  # number → revs beyond it that are known

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, conversation_id: UUID) -> bool:
        return conversation_id.bytes in self._entries

    @property
    def user_ids(self) -> list[UUID]:
        """The users."""
        return list(self._numbers)

    def pieces(self, size: int) -> Iterator[list[UUID]]:
        """Yields the conversations of this moment, `size` at a time: to make a million UUIDs takes two seconds."""
        keys = list(self._entries)
        for at in range(0, len(keys), size):
            yield [UUID(bytes=key) for key in keys[at : at + size]]

    def conversations_of(self, user_id: UUID) -> list[UUID]:
        """Returns the conversations of a user; none for one who is not here."""
        number = self._numbers.get(user_id)
        return [] if number is None else [UUID(bytes=key) for key in self._keys_of(number)]

    def has(self, conversation_id: UUID, user_id: UUID) -> bool:
        """Returns whether a user is here, and in a conversation."""
        number, entry = self._numbers.get(user_id), self._entries.get(conversation_id.bytes)
        return number is not None and entry is not None and _place(entry, number) is not None

    def head_of(self, conversation_id: UUID) -> Head | None:
        """Returns the head up to which the users have a conversation's changes; None if it is not here."""
        entry = self._entries.get(conversation_id.bytes)
        return None if entry is None else Head(*_HEAD.unpack_from(entry))

    def users_of(self, conversation_id: UUID) -> list[UUID]:
        """Returns the users who are here and in a conversation."""
        entry = self._entries.get(conversation_id.bytes)
        if entry is None:
            return []
        users = (self._ids[number] for (number,) in _USER.iter_unpack(entry[_HEAD.size :]))
        return [user_id for user_id in users if user_id is not None]

    def set_head(self, conversation_id: UUID, head: Head) -> None:
        """Records up to where the users have a conversation's changes, if it is here."""
        key = conversation_id.bytes
        entry = self._entries.get(key)
        if entry is not None:
            self._entries[key] = _pack(head) + entry[_HEAD.size :]

    def rev_of(self, user_id: UUID) -> int | None:
        """Returns the rev of a user's own sequence up to which every change is known here.

        -1 before `set_rev`, None for one who is not here.
        """
        number = self._numbers.get(user_id)
        return None if number is None else self._revs[number]

    def note_rev(self, user_id: UUID, user_rev: int) -> None:
        """Records that the change of a rev of a user's own sequence is known, if the user is here.

        One before it may be missing: that of an addition that was not heard.
        """
        number = self._numbers.get(user_id)
        if number is None or user_rev <= self._revs[number]:
            return
        ahead = self._ahead.setdefault(number, set())
        if len(ahead) < MAX_AHEAD:
            ahead.add(user_rev)
        self._advance(number)

    def set_rev(self, user_id: UUID, user_rev: int) -> None:
        """Records that every change of a user's own sequence up to a rev is known, if the user is here."""
        number = self._numbers.get(user_id)
        if number is not None:
            self._revs[number] = max(self._revs[number], user_rev)
            self._advance(number)

    def _advance(self, number: int) -> None:
        """Moves the rev of a user past those that follow it."""
        ahead = self._ahead.get(number)
        if ahead is None or self._revs[number] < 0:
            return
        rev = self._revs[number]
        while rev + 1 in ahead:
            rev += 1
        self._revs[number] = rev
        ahead = {each for each in ahead if each > rev}
        if ahead:
            self._ahead[number] = ahead
        else:
            del self._ahead[number]

    def add_user(self, user_id: UUID) -> None:
        """Adds a user who has a session here, with no conversations yet; nothing happens if they are here."""
        if user_id in self._numbers:
            return
        number = self._free.pop() if self._free else len(self._ids)
        if number == len(self._ids):
            self._ids.append(None)
            self._conversations.append(bytearray())
            self._revs.append(0)
        self._ids[number], self._revs[number] = user_id, -1
        self._numbers[user_id] = number

    def add(self, conversation_id: UUID, user_id: UUID, head: Head) -> None:
        """Adds a user of this process to a conversation.

        Args:
            conversation_id: the conversation.
            user_id: the user, who is here.
            head: up to where the user has its changes. The head of other users who are here stays: it may be earlier.
        """
        key, number = conversation_id.bytes, self._numbers[user_id]
        entry = self._entries.get(key)
        if entry is None:
            entry = _pack(head)
        elif _place(entry, number) is not None:
            return
        self._entries[key] = entry + _USER.pack(number)
        self._conversations[number] += key

    def discard(self, conversation_id: UUID, user_id: UUID) -> None:
        """Removes a user from a conversation, if they are here and in it."""
        number, key = self._numbers.get(user_id), conversation_id.bytes
        if number is not None and self._drop(key, number):
            ids = self._conversations[number]
            at = ids.find(key)
            while at % _ID_BYTES:
                at = ids.find(key, at + 1)
            del ids[at : at + _ID_BYTES]

    def remove_user(self, user_id: UUID) -> None:
        """Removes a user whose last session has ended, if they are here."""
        number = self._numbers.pop(user_id, None)
        if number is None:
            return
        for key in self._keys_of(number):
            self._drop(key, number)
        self._ids[number], self._conversations[number] = None, bytearray()
        self._ahead.pop(number, None)
        self._free.append(number)

    def _keys_of(self, number: int) -> list[bytes]:
        ids = self._conversations[number]
        return [bytes(ids[at : at + _ID_BYTES]) for at in range(0, len(ids), _ID_BYTES)]

    def _drop(self, key: bytes, number: int) -> bool:
        """Removes a user from an entry; returns False if it is not in it."""
        entry = self._entries.get(key)
        at = None if entry is None else _place(entry, number)
        if entry is None or at is None:
            return False
        rest = entry[:at] + entry[at + _USER.size :]
        if len(rest) > _HEAD.size:
            self._entries[key] = rest
        else:
            del self._entries[key]
        return True


def _place(entry: bytes, number: int) -> int | None:
    """Returns where the number of a user is in an entry; None if it is not."""
    packed = _USER.pack(number)
    at = entry.find(packed, _HEAD.size)
    while at >= 0 and (at - _HEAD.size) % _USER.size:
        at = entry.find(packed, at + 1)
    return None if at < 0 else at


def _pack(head: Head) -> bytes:
    return _HEAD.pack(head.last_seq, head.last_rev, head.message_rev, head.members_rev, head.properties_rev)


def pieces_of(ids: list[UUID], size: int) -> Iterator[list[UUID]]:
    """Splits ids into pieces of at most `size`."""
    return (ids[at : at + size] for at in range(0, len(ids), size))
