"""Reading what is committed: for members that catch up, and for a room that missed something."""

import random
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import trio

from pulse_trio.protocol import Encoded, encode
from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.connection import JOINED_BYTES
from pulse_trio.rooms.frames import change_frame
from pulse_trio.rooms.member import Member
from pulse_trio.store.base import Message, Store, StoreUnavailable

PAGE: Final = 256  # changes read at a time: with the longest messages about the size of an outbox


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed in conversations, as the store has it.

    Args:
        store: where it is.
        timeout: seconds that one read may take.
        rand: where the jitter of retries comes from.
    """

    store: Store
    timeout: float
    rand: random.Random

    async def read(self, conversation_id: UUID, after_rev: int) -> list[Message]:
        """The next page of changes; asks again until the store answers, for the changes are committed."""
        backoff = Backoff(self.rand)
        while True:
            try:
                with trio.fail_after(self.timeout):
                    return await self.store.changes(conversation_id, after_rev=after_rev, limit=PAGE)
            except (StoreUnavailable, trio.TooSlowError):
                await backoff.wait()

    async def catch_up(self, member: Member) -> None:
        """Sends a member the next page of what it missed, and makes it live when that was the last.

        What is released meanwhile it reads from the store, too: nothing is held in memory for it, and between
        the last page and its going live there is no await, so that it misses nothing and gets nothing twice.
        While it reads page by page, its connection sends what other conversations have for it in between.
        """
        page = await self.read(member.conversation_id, member.cursor)
        frames: list[Encoded] = []
        size = 0
        for message in page:
            frame = encode(change_frame(message))
            if frames and size + len(frame.wire) > JOINED_BYTES:
                await member.connection.send_now(frames, member)
                frames, size = [], 0
            if member.is_removed:
                return
            frames.append(frame)
            size += len(frame.wire)
            member.cursor = message.rev
        if frames:
            await member.connection.send_now(frames, member)
        if page and member.cursor < member.target:
            member.connection.catch_up_later(member)
        else:
            member.is_live = True
