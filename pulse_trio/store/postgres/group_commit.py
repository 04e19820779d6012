"""Group commit: what the writers of different rooms hand over at the same moment shares one transaction.

While one statement commits, what comes gathers, and the next statement takes all of it: no timers. A lane is
a task that does one statement at a time. A writer waits for its own messages only; where no statement is under way it
does its own, and spares the way to a lane and back.

What goes wrong for all may be one room's fault: a message that PostgreSQL refuses, or a conversation whose row
somebody else has locked. Then each room's messages are appended alone, and a room that fails alone stays alone
until it succeeds, so that it holds up nobody.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import UUID

import trio

from pulse_trio.store.base import Message, NewMessage, StoreError, StoreRefused, StoreUnavailable

Rows = list[Message | None]
Append = Callable[[Sequence[NewMessage]], Awaitable[Rows]]

LANES: Final = 2  # one gathers while the other commits; more would make the batches smaller
# Statements under way at most, but for those of rooms that are set apart: with so many connections of their own they
# wait for nothing else that the service asks of the database.
APPENDS: Final = LANES + 1  # a writer does its own when none is under way
STATEMENT_MESSAGES: Final = 1_000  # most messages of one statement; beyond it a batch gains nothing
APART_MOST: Final = 1_024  # rooms that failed alone and are remembered; one more costs a statement for all again
WAITING: Final = 1_024  # rooms whose messages wait for a lane; the writers of more wait to hand theirs over


class StoreBusy(StoreUnavailable):
    """A row was locked by somebody else for too long."""


class _Parcel:
    """The messages that one writer hands over, and what becomes of them."""

    __slots__ = ("done", "messages", "outcome")

    def __init__(self, messages: Sequence[NewMessage]) -> None:
        self.messages = messages
        self.done = trio.Event()
        self.outcome: Rows | StoreError | None = None  # None, when done: append them alone


class GroupCommit:
    """Appends through lanes while `run` runs, and directly when it does not.

    Args:
        append: appends messages of any conversations in one transaction; raises as `Store.append` does. At most
            `APPENDS` calls are under way.
        append_apart: does the same for a room that is set apart. Any number of them may wait for locked rows, so it
            must not use the connections of `append`.
    """

    def __init__(self, append: Append, append_apart: Append) -> None:
        self._append = append
        self._append_apart = append_apart
        self._alone: dict[UUID, None] = {}  # conversations whose last append failed, and failed alone
        self._parcels: trio.MemorySendChannel[_Parcel] | None = None
        self._under_way = 0  # statements

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The lanes, until cancelled."""
        parcels, source = trio.open_memory_channel[_Parcel](WAITING)
        try:
            async with trio.open_nursery() as nursery:
                for number in range(LANES):
                    nursery.start_soon(self._lane, source, name=f"append lane {number}")
                self._parcels = parcels
                task_status.started()
        finally:
            self._parcels = None
            with source:
                _refuse_the_rest(source)

    async def append(self, messages: Sequence[NewMessage]) -> Rows:
        """As `Store.append`, for messages of one conversation.

        Cancelled: they may be stored or not.
        """
        if not messages:
            return await self._append_apart(messages)
        conversation_id = messages[0].conversation_id
        if self._parcels is not None and conversation_id not in self._alone:
            try:
                if not self._under_way:
                    return await self._append_counted(messages)
                rows = await self._hand_over(self._parcels, messages)
            except (StoreRefused, StoreBusy):
                self._set_apart(conversation_id)
                raise
            if rows is not None:
                return rows
        try:
            rows = await self._append_apart(messages)
        except StoreError:
            self._set_apart(conversation_id)
            raise
        self._alone.pop(conversation_id, None)
        return rows

    def _set_apart(self, conversation_id: UUID) -> None:
        self._alone[conversation_id] = None
        if len(self._alone) > APART_MOST:
            del self._alone[next(iter(self._alone))]

    async def _append_counted(self, messages: Sequence[NewMessage]) -> Rows:
        self._under_way += 1
        try:
            return await self._append(messages)
        finally:
            self._under_way -= 1

    async def _hand_over(self, parcels: trio.MemorySendChannel[_Parcel], messages: Sequence[NewMessage]) -> Rows | None:
        """Lets a lane append messages; None: they are to be appended alone."""
        parcel = _Parcel(messages)
        try:
            try:
                parcels.send_nowait(parcel)
            except trio.WouldBlock:
                await parcels.send(parcel)
            await parcel.done.wait()
        except trio.BrokenResourceError:
            raise StoreUnavailable("the store is closing") from None
        except trio.Cancelled:
            parcel.messages = ()  # if no lane has it yet, it is not stored
            raise
        if isinstance(parcel.outcome, StoreError):
            raise type(parcel.outcome)(*parcel.outcome.args) from parcel.outcome
        return parcel.outcome

    async def _lane(self, source: trio.MemoryReceiveChannel[_Parcel]) -> None:
        held: _Parcel | None = None
        try:
            while True:
                first = await source.receive() if held is None else held
                parcels, held = self._gather(first, source)
                await self._append_all(parcels)
        finally:
            if held is not None:
                _refuse(held)

    def _gather(
        self, first: _Parcel, source: trio.MemoryReceiveChannel[_Parcel]
    ) -> tuple[list[_Parcel], _Parcel | None]:
        """Parcels for one statement, and the one that must wait for the next.

        That is one of a conversation that is in it already: it may resend what that one sends.
        """
        parcels, size = [first], len(first.messages)  # one that was given up has none any more
        conversations = {message.conversation_id for message in first.messages}
        while size < STATEMENT_MESSAGES:
            try:
                parcel = source.receive_nowait()
            except trio.WouldBlock:
                break
            its = {message.conversation_id for message in parcel.messages}
            if its & conversations:
                return parcels, parcel
            conversations |= its
            size += len(parcel.messages)
            parcels.append(parcel)
        return parcels, None

    async def _append_all(self, parcels: list[_Parcel]) -> None:
        sizes = [len(parcel.messages) for parcel in parcels]  # now: one that is given up later is in all the same
        outcome: Rows | StoreError | None = StoreUnavailable("the store failed")
        try:
            messages = [message for parcel in parcels for message in parcel.messages]
            outcome = await self._append_counted(messages) if messages else []
        except (StoreRefused, StoreBusy) as error:
            outcome = None if len(parcels) > 1 else error
        except StoreError as error:
            outcome = error
        finally:
            place = 0
            for parcel, size in zip(parcels, sizes, strict=True):
                parcel.outcome = outcome[place : place + size] if isinstance(outcome, list) else outcome
                place += size
                parcel.done.set()


def _refuse_the_rest(source: trio.MemoryReceiveChannel[_Parcel]) -> None:
    while True:
        try:
            parcel = source.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return
        _refuse(parcel)


def _refuse(parcel: _Parcel) -> None:
    parcel.outcome = StoreUnavailable("the store is closing")
    parcel.done.set()
