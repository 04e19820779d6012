"""A store that fails on command of the seed: refuses, delays, hangs, commits and loses the answer, breaks."""

import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import trio

from pulse_trio.store.base import (
    Added,
    Head,
    Members,
    Message,
    NewMessage,
    ReadMark,
    ReadState,
    Removed,
    Revision,
    StoreUnavailable,
    User,
)
from pulse_trio.store.memory import MemoryStore
from tests.simulation.history import History

STATEMENT_TIMEOUT = 5.0  # seconds after which PostgreSQL would give up a statement
LATE = (0.05, 0.5, 3.5)  # seconds that an answer may be late at most: below PULSE_STORE_TIMEOUT
WRITES_ARE_LATE = 4  # times less often than other answers: a late one delays its whole conversation
BREAKS = 0.15  # of the fault rate: how often a bug of ours ends a room's writer, and the room


class FaultyStore:
    """One process's store on the data, which outlives it. The history records its commits.

    Args:
        data: the rows.
        history: records commits.
        rand: decides the faults.
        breaks: decides where a bug of ours strikes, not of the database.
        late: decides which answers come late; None for none.
        rate: how often something goes wrong, 0 to 1; the world sets it to 0 for the calm.
        late_rate: how often an answer comes late; the world sets it to 0 for the calm.
    """

    def __init__(
        self,
        data: MemoryStore,
        history: History,
        rand: random.Random,
        breaks: random.Random,
        late: random.Random | None,
        rate: float,
        late_rate: float,
    ) -> None:
        self.epoch = data.epoch
        self.rate = rate
        self.late_rate = late_rate
        self._late = late
        self._data = data
        self._history = history
        self._random = rand
        self._breaks = breaks
        self._died = trio.Event()

    def die(self) -> None:
        """Kills the process: operations in progress are not committed."""
        self._died.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    async def append(self, batch: Sequence[NewMessage]) -> list[Message | None]:
        after = await self._before("append")
        self._break("before")
        rows = await self._data.append(batch)
        self._note((row for row in rows if row is not None), {new.id for new in batch})
        self._break("after")
        await self._answer_late("append", self.late_rate / WRITES_ARE_LATE)
        await self._after(after, "append")
        return rows

    async def revise(self, revision: Revision) -> Message:
        after = await self._before("revise")
        self._break("before")
        row = await self._data.revise(revision)
        self._note([row], {row.id})
        self._break("after")
        await self._answer_late("revise", self.late_rate / WRITES_ARE_LATE)
        await self._after(after, "revise")
        return row

    async def changes(self, conversation_id: UUID, *, after_rev: int, limit: int) -> list[Message]:
        await self._before("changes", writes=False)
        # Sometimes a small page, so that a resume takes several.
        limit = min(limit, self._random.choice((1, 3, 256)))
        page = await self._data.changes(conversation_id, after_rev=after_rev, limit=limit)
        await self._answer_late("changes")
        return page

    async def head(self, conversation_id: UUID) -> Head:
        await self._before("head", writes=False)
        head = await self._data.head(conversation_id)
        await self._answer_late("head")
        return head

    async def memberships(self, user_id: UUID, among: Sequence[UUID] | None = None) -> dict[UUID, Head]:
        if self._late is not None:
            await self._before("memberships", writes=False, rand=self._late)
            await self._wait(self._late.uniform(0, self._late.choice((0, 0, 0.5))))  # there may be many
        found = await self._data.memberships(user_id, among)
        await self._answer_late("memberships")
        return found

    async def members(self, conversation_id: UUID) -> Members:
        if self._late is not None:
            await self._before("members", writes=False, rand=self._late)
        found = await self._data.members(conversation_id)
        await self._answer_late("members")
        return found

    async def membership(self, conversation_id: UUID, user_id: UUID) -> int | None:
        await self._before("membership", writes=False)
        found = await self._data.membership(conversation_id, user_id)
        if self._random.random() < self.rate:  # the answer is delayed: a removal may come in between
            await self._wait(self._random.uniform(0, 1))
        await self._answer_late("membership")
        return found

    async def mark_read(self, marks: Sequence[ReadMark]) -> list[ReadState | None]:
        after = await self._before("mark_read")
        standings = await self._data.mark_read(marks)
        for mark, standing in zip(marks, standings, strict=True):
            if standing is not None:
                about = {"conversation": str(mark.conversation_id), "user": str(mark.user_id)}
                self._history.add("position", **about, seq=standing.read_seq)
        await self._after(after, "mark_read")
        return standings

    async def mark_seen(self, moments: Mapping[UUID, datetime]) -> None:
        after = await self._before("mark_seen")
        await self._data.mark_seen(moments)
        await self._after(after, "mark_seen")

    async def acquaintances(self, user_id: UUID, among: Sequence[UUID]) -> dict[UUID, datetime | None]:
        await self._before("acquaintances", writes=False)
        return await self._data.acquaintances(user_id, among)

    async def find_subject(self, subject: str, user_id: UUID | None) -> User | None:
        await self._before("find_subject", writes=False)
        return await self._data.find_subject(subject, user_id)

    async def add_members(
        self, conversation_id: UUID, actor_id: UUID, user_ids: Sequence[UUID], *, limit: int, now: datetime
    ) -> Added:
        after = await self._before("add_members")
        added = await self._data.add_members(conversation_id, actor_id, user_ids, limit=limit, now=now)
        for user in added.users:
            self._history.add("member_in", conversation=str(conversation_id), user=str(user.id))
        await self._answer_late("add_members")
        await self._after(after, "add_members")
        return added

    async def remove_member(self, conversation_id: UUID, actor_id: UUID, user_id: UUID, *, now: datetime) -> Removed:
        after = await self._before("remove_member")
        removed = await self._data.remove_member(conversation_id, actor_id, user_id, now=now)
        if removed.user is not None:
            self._history.add("member_out", conversation=str(conversation_id), user=str(user_id))
        await self._answer_late("remove_member")
        await self._after(after, "remove_member")
        return removed

    # --- the faults ---

    async def _before(self, what: str, *, writes: bool = True, rand: random.Random | None = None) -> str:
        """Draws the fault of an operation; raises one before the commit, returns one after it."""
        rand = self._random if rand is None else rand
        await self._wait(rand.uniform(0, 0.02))
        if rand.random() >= self.rate:
            return ""
        fault = rand.choice(("refuse", "delay", "hang", *(("lose", "lose", "stick") if writes else ())))
        self._history.count(f"fault: {what} {fault}")
        if fault == "refuse":
            raise StoreUnavailable("a planned refusal")
        if fault == "delay":
            await self._wait(rand.uniform(0.05, 2.0))
        if fault == "hang":
            await self._wait(STATEMENT_TIMEOUT)
            raise StoreUnavailable("a planned hang")
        return fault

    async def _after(self, fault: str, what: str) -> None:
        if fault == "lose":
            self._history.add("answer_lost", what=what)
            raise StoreUnavailable("the answer to a commit was lost")
        if fault == "stick":
            self._history.add("answer_stuck", what=what)
            await self._wait(STATEMENT_TIMEOUT)
            raise StoreUnavailable("the answer to a commit never came")

    async def _answer_late(self, what: str, rate: float | None = None) -> None:
        """Delays an answer, so that the answer of a later statement may overtake it."""
        rate = self.late_rate if rate is None else rate
        if self._late is not None and self._late.random() < rate:
            self._history.count(f"late: {what}")
            await self._wait(self._late.uniform(0, self._late.choice(LATE)))

    def _break(self, when: str) -> None:
        """Sometimes raises an error that no database raises, before the commit or after it."""
        if self._breaks.random() < self.rate * BREAKS:
            self._history.add("broken", when=f"{when} the commit")
            raise RuntimeError("a planned fault")

    async def _wait(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._died.wait()
        if self._died.is_set():
            raise StoreUnavailable("this process has been killed")

    def _note(self, rows: Iterable[Message], own_ids: set[UUID]) -> None:
        for row in sorted(rows, key=lambda row: row.rev):
            key = str(row.conversation_id)
            if (key, row.rev) in self._noted():
                what = "a retry after an unknown commit" if row.id in own_ids else "a resend that was stored already"
                self._history.count(what)
                continue
            self._noted().add((key, row.rev))
            self._history.add("commit", **row_of(row))

    def _noted(self) -> set[tuple[str, int]]:
        noted: set[tuple[str, int]] = self._data.__dict__.setdefault("noted_commits", set())
        return noted


def row_of(row: Message) -> dict[str, Any]:
    """Returns a row as the checker sees it."""
    return {
        "conversation": str(row.conversation_id),
        "rev": row.rev,
        "seq": row.seq,
        "id": str(row.id),
        "sender": str(row.sender_id),
        "client_id": row.client_id,
        "content": row.content,
        "edited": row.is_edited,
        "deleted": row.is_deleted,
    }
