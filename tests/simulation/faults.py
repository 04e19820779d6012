"""A store that fails on command of the seed: refuses, delays, hangs, commits and loses the answer, breaks.

It takes some batches of new messages as handovers, as the seed says: all, none, or some.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import trio

from pulse_trio.model import (
    Change,
    Command,
    Delete,
    Edit,
    Member,
    Message,
    MyMembership,
    Post,
    Properties,
    User,
)
from pulse_trio.store.base import (
    Admission,
    Answer,
    ConversationPage,
    Handover,
    Head,
    MemberPage,
    Members,
    Memberships,
    Outcome,
    Page,
    ReadMark,
    ReadState,
    Refusal,
    StoreUnavailable,
)
from pulse_trio.store.memory import MemoryStore
from tests.simulation.history import History

STATEMENT_TIMEOUT = 5.0  # seconds after which PostgreSQL would give up a statement
AFTERWARDS = 3.5  # seconds in which a transaction whose connection was lost commits: below PULSE_STORE_TIMEOUT
LATE = (0.05, 0.5, 3.5)  # seconds that an answer may be late at most: below PULSE_STORE_TIMEOUT
WRITES_ARE_LATE = 4  # times less often than other answers: a late one delays its whole conversation
BREAKS = 0.15  # of the fault rate: how often a bug of ours ends a room's writer, and the room
WRITE_FAULTS = ("lose", "lose", "stick", "abandon")
ALONE = (
    0.3  # of the fault rate: how often a handover must be carried out by `apply`, as after a shared statement failed
)
OUTLASTS = 0.3  # of the fault rate: how often the transaction of a handover outlasts its deadline, and is committed


class _Broken(list[Outcome]):
    """An answer at which a fault of ours strikes in the writer's callback."""

    def __init__(self, outcomes: list[Outcome], history: History) -> None:
        super().__init__(outcomes)
        self._history = history

    def __iter__(self) -> Iterator[Outcome]:
        self._history.add("broken", when="in the answer")
        raise RuntimeError("a planned fault")


class Host(Protocol):
    """The process that uses the store.

    Attributes:
        store_outage: it cannot reach the database: empty, `refuse` or `hang`.
    """

    store_outage: str

    async def wait_running(self) -> None:
        """Waits while the process stands still."""


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
        soon: decides about handovers; None to take none.
        soon_rate: how often it takes a handover, 0 to 1.
        host: its process, if that may stand still or lose the database.

    Attributes:
        nursery: runs transactions whose connection was lost; must be set before the first operation.
    """

    nursery: trio.Nursery

    def __init__(
        self,
        data: MemoryStore,
        history: History,
        rand: random.Random,
        breaks: random.Random,
        late: random.Random | None,
        rate: float,
        late_rate: float,
        soon: random.Random | None = None,
        soon_rate: float = 0.0,
        host: Host | None = None,
    ) -> None:
        self.epoch = data.epoch
        self.rate = rate
        self.late_rate = late_rate
        self._late = late
        self._soon = soon
        self._soon_rate = soon_rate
        self._host = host
        self._data = data
        self._history = history
        self._random = rand
        self._breaks = breaks
        self._died = trio.Event()
        self.applying = 0  # commands that are not answered, or may be committed later

    def die(self) -> None:
        """Kills the process: operations in progress are not committed."""
        self._died.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    async def apply(self, commands: Sequence[Command]) -> list[Outcome]:
        self.applying += 1
        try:
            return await self._apply(commands)
        finally:
            self.applying -= 1

    async def _apply(self, commands: Sequence[Command]) -> list[Outcome]:
        what = type(commands[0]).__name__
        after = await self._before(what)
        # A room that fails with a change of members is not made good: nobody tells those who were added.
        is_message = isinstance(commands[0], Post | Edit | Delete)
        self._break("before", is_message)
        if after == "abandon":
            self.nursery.start_soon(self._commit_later, commands)
            raise StoreUnavailable("the connection was lost before the commit")
        outcomes = await self._commit(commands)
        self._break("after", is_message)
        await self._answer_late(what, self.late_rate / WRITES_ARE_LATE)
        await self._after(after, what)
        return outcomes

    def apply_soon(self, handover: Handover[Post]) -> bool:
        if self._soon is None or self._soon.random() >= self._soon_rate:
            return False
        self.applying += 1
        self.nursery.start_soon(self._apply_handover, handover, self._soon)
        return True

    async def _apply_handover(self, handover: Handover[Post], rand: random.Random) -> None:
        answer: Answer = StoreUnavailable("the store does not answer in time")
        try:
            with trio.move_on_at(handover.deadline):
                try:
                    after = "" if rand.random() < 0.5 else await self._before("Post")  # it waits for a lane
                    if not (commands := handover.take()):
                        return
                    self._history.count("a handover")
                    answer = await self._answer(commands, handover.deadline, after or await self._before("Post"), rand)
                except StoreUnavailable as error:
                    answer = error
        finally:
            self.applying -= 1
        handover.on_answer(answer)

    async def _answer(self, commands: Sequence[Post], deadline: float, after: str, rand: random.Random) -> Answer:
        if rand.random() < self.rate * ALONE:
            self._history.count("a handover to carry out alone")
            return None
        if rand.random() < self.rate * OUTLASTS:
            self._history.count("a handover that outlasted its deadline")
            with trio.CancelScope(shield=True):
                await self._wait(deadline - trio.current_time())
            after = "abandon"
        if after == "abandon":
            self.nursery.start_soon(self._commit_later, commands)
            raise StoreUnavailable("the connection was lost before the commit")
        outcomes = await self._commit(commands)
        if self._breaks.random() < self.rate * BREAKS:
            return _Broken(outcomes, self._history)
        await self._answer_late("Post", self.late_rate / WRITES_ARE_LATE)
        await self._after(after, "Post")
        return outcomes

    async def changes(self, conversation_id: UUID, *, after_rev: int, kinds: int, limit: int) -> list[Change]:
        await self._before("changes", writes=False)
        page = await self._data.changes(conversation_id, after_rev=after_rev, kinds=kinds, limit=limit)
        await self._answer_late("changes")
        return page

    async def user_changes(self, user_id: UUID, *, after_rev: int, limit: int) -> list[MyMembership]:
        await self._before("user_changes", writes=False)
        page = await self._data.user_changes(user_id, after_rev=after_rev, limit=limit)
        await self._answer_late("user_changes")
        return page

    async def head(self, conversation_id: UUID) -> Head:
        await self._before("head", writes=False)
        head = await self._data.head(conversation_id)
        await self._answer_late("head")
        return head

    async def memberships(
        self,
        user_id: UUID,
        among: Sequence[UUID] | None = None,
        *,
        limit: int | None = None,
        after: UUID | None = None,
    ) -> Memberships:
        if self._late is not None:
            await self._before("memberships", writes=False, rand=self._late)
            await self._wait(self._late.uniform(0, self._late.choice((0, 0, 0.5))))  # there may be many
        found = await self._data.memberships(user_id, among, limit=limit, after=after)
        await self._answer_late("memberships")
        return found

    async def heads(self, conversation_ids: Sequence[UUID]) -> dict[UUID, Head]:
        await self._before("heads", writes=False)
        found = await self._data.heads(conversation_ids)
        await self._answer_late("heads")
        return found

    async def user_revs(self, user_ids: Sequence[UUID]) -> dict[UUID, int]:
        await self._before("user_revs", writes=False)
        found = await self._data.user_revs(user_ids)
        await self._answer_late("user_revs")
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

    async def admission(self, conversation_id: UUID, subject: str, user_id: UUID | None) -> Admission | None:
        user = await self.find_subject(subject, user_id)
        return None if user is None else Admission(user, await self.membership(conversation_id, user.id))

    async def list_conversations(self, user_id: UUID, **page: Any) -> ConversationPage:
        await self._before("list_conversations", writes=False)
        found = await self._data.list_conversations(user_id, **page)
        await self._answer_late("list_conversations")
        return found

    async def page_members(self, conversation_id: UUID, user_id: UUID, **page: Any) -> MemberPage:
        await self._before("page_members", writes=False)
        found = await self._data.page_members(conversation_id, user_id, **page)
        await self._answer_late("page_members")
        return found

    async def page_messages(self, conversation_id: UUID, user_id: UUID, **page: Any) -> Page:
        await self._before("page_messages", writes=False)
        found = await self._data.page_messages(conversation_id, user_id, **page)
        await self._answer_late("page_messages")
        return found

    async def mark_read(self, marks: Sequence[ReadMark]) -> list[ReadState | None]:
        after = await self._before("mark_read")
        states = await self._data.mark_read(marks)
        found = [(mark, state) for mark, state in zip(marks, states, strict=True) if state is not None]
        # Positions of one user in two conversations are recorded as they were stored, whichever mark came first.
        for mark, state in sorted(found, key=lambda item: item[1].user_rev):
            about = {"conversation": str(mark.conversation_id), "user": str(mark.user_id)}
            self._history.add("position", **about, seq=state.read_seq, user_rev=state.user_rev)
        await self._reach()
        await self._after("lose" if after == "abandon" else after, "mark_read")
        return states

    async def mark_seen(self, moments: Mapping[UUID, datetime]) -> None:
        after = await self._before("mark_seen")
        await self._data.mark_seen(moments)
        await self._after(after, "mark_seen")

    async def take_lease(self, lease_id: UUID) -> None:
        await self._before("take_lease")
        await self._data.take_lease(lease_id)

    async def renew_lease(self, lease_id: UUID) -> dict[UUID, int] | None:
        after = await self._before("renew_lease")
        found = await self._data.renew_lease(lease_id)
        await self._after("lose" if after == "abandon" else after, "renew_lease")
        return found

    async def leases(self) -> list[UUID]:
        await self._before("leases", writes=False)
        return await self._data.leases()

    async def fence_leases(self, lease_ids: Sequence[UUID]) -> None:
        after = await self._before("fence_leases")
        await self._data.fence_leases(lease_ids)
        await self._after("lose" if after == "abandon" else after, "fence_leases")

    async def end_leases(self, lease_ids: Sequence[UUID]) -> None:
        await self._before("end_leases")
        await self._data.end_leases(lease_ids)

    async def acquaintances(self, user_id: UUID, among: Sequence[UUID]) -> dict[UUID, datetime | None]:
        await self._before("acquaintances", writes=False)
        return await self._data.acquaintances(user_id, among)

    async def find_subject(self, subject: str, user_id: UUID | None) -> User | None:
        await self._before("find_subject", writes=False)
        return await self._data.find_subject(subject, user_id)

    # --- commits ---

    async def _commit(self, commands: Sequence[Command]) -> list[Outcome]:
        outcomes = await self._data.apply(commands)
        news = [
            (change, command)
            for command, outcome in zip(commands, outcomes, strict=True)
            if not isinstance(outcome, Refusal)
            for change in outcome
        ]
        for change, command in sorted(news, key=lambda item: item[0].rev):
            self._note(change, command)
        return outcomes

    async def _commit_later(self, commands: Sequence[Command]) -> None:
        """Commits a transaction whose connection was lost, as the database does when a lock is free at last."""
        self.applying += 1
        try:
            await self._wait(self._random.uniform(0, AFTERWARDS))
            self._history.count("a commit after its connection was lost")
            await self._commit(commands)
        except StoreUnavailable:
            pass
        finally:
            self.applying -= 1

    # --- the faults ---

    async def _before(self, what: str, *, writes: bool = True, rand: random.Random | None = None) -> str:
        """Draws the fault of an operation; raises one before the commit, returns one after it."""
        rand = self._random if rand is None else rand
        await self._reach()
        await self._wait(rand.uniform(0, 0.02))
        if rand.random() >= self.rate:
            return ""
        fault = rand.choice(("refuse", "delay", "hang", *(WRITE_FAULTS if writes else ())))
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
        await self._reach()
        rate = self.late_rate if rate is None else rate
        if self._late is not None and self._late.random() < rate:
            self._history.count(f"late: {what}")
            await self._wait(self._late.uniform(0, self._late.choice(LATE)))

    async def _reach(self) -> None:
        """Waits while the process stands still, and fails while it cannot reach the database."""
        if self._host is None:
            return
        await self._host.wait_running()
        if self._host.store_outage == "hang":
            await self._wait(STATEMENT_TIMEOUT)
        if self._host.store_outage:
            raise StoreUnavailable("a planned partition")

    def _break(self, when: str, is_message: bool) -> None:
        """Sometimes raises an error that no database raises, before the commit of a message or after it."""
        if is_message and self._breaks.random() < self.rate * BREAKS:
            self._history.add("broken", when=f"{when} the commit")
            raise RuntimeError("a planned fault")

    async def _wait(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._died.wait()
        if self._died.is_set():
            raise StoreUnavailable("this process has been killed")

    def _note(self, change: Change, command: Command) -> None:
        key = str(change.conversation_id), change.rev
        if not change.rev:  # a group that was given the properties that it has
            return
        if key in self._noted():
            is_retry = not isinstance(change, Message) or change.id == command.id
            self._history.count("a retry after an unknown commit" if is_retry else "a resend that was stored already")
            return
        self._noted().add(key)
        if isinstance(change, Message):
            self._history.add("commit", **row_of(change))
        elif isinstance(change, Member):
            place = self._data._conversations[change.conversation_id]
            member = place.members.get(change.user_id) or place.former[change.user_id]
            self._history.add(
                "member_in" if change.is_member else "member_out",
                conversation=key[0],
                rev=change.rev,
                user=str(change.user_id),
                actor=str(change.actor_id),
                user_rev=member.user_rev,
                read_seq=member.read_seq,
            )
        else:
            self._history.add("properties", **properties_of(change))

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


def properties_of(properties: Properties) -> dict[str, Any]:
    """Returns the properties of a conversation as the checker sees them."""
    return {
        "conversation": str(properties.conversation_id),
        "rev": properties.rev,
        "name": properties.name,
        "description": properties.description,
        "owner": str(properties.owner_id),
        "actor": str(properties.actor_id),
    }
