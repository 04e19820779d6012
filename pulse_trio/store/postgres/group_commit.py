"""Group commit: concurrent posts of several rooms share one transaction.

While one statement commits, requests queue up, and the next statement takes all of them: there are no timers. A lane is
a task that runs one statement at a time. A writer waits only for its own messages; while no statement is running it
runs its own, which saves two task switches.

One room may make a shared statement fail: by a message that PostgreSQL rejects, or a row that another transaction has
locked. Then each room's messages are appended separately, and a room that fails alone stays isolated until an append
succeeds, so that it delays no other room.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import UUID

import trio

from pulse_trio.model import Post
from pulse_trio.store.base import Outcome, StoreError, StoreRefused, StoreUnavailable

Outcomes = list[Outcome]
Append = Callable[[Sequence[Post]], Awaitable[Outcomes]]

LANES: Final = 2  # one fills its next statement while the other commits; with more, statements get smaller
# Concurrent statements, without those of isolated rooms. With as many connections of their own they never wait for
# other work on the database.
MAX_APPENDS: Final = LANES + 1  # one by a writer that found none running
MAX_STATEMENT_MESSAGES: Final = 1_000  # a larger statement gains nothing
MAX_ISOLATED: Final = 1_024  # rooms; a forgotten one only makes a shared statement fail once more
MAX_QUEUED: Final = 1_024  # requests that wait for a lane; further writers wait to queue theirs


class StoreBusy(StoreUnavailable):
    """Another transaction has kept a row locked for too long."""


class _Request:
    """Messages of one writer, and the outcome of storing them."""

    __slots__ = ("done", "messages", "outcome")

    def __init__(self, messages: Sequence[Post]) -> None:
        self.messages = messages
        self.done = trio.Event()
        self.outcome: Outcomes | StoreError | None = None  # None once done: append them separately


class GroupCommit:
    """Appends through lanes while `run` runs, and directly otherwise.

    Args:
        append: appends messages of any conversations in one transaction; raises as `Store.apply` does. At most
            `MAX_APPENDS` calls run at a time.
        append_isolated: does the same for an isolated room. Many calls may wait for locked rows, so it must not use the
            connections of `append`.
    """

    def __init__(self, append: Append, append_isolated: Append) -> None:
        self._append = append
        self._append_isolated = append_isolated
        self._isolated: dict[UUID, None] = {}  # conversations whose last separate append failed
        self._requests: trio.MemorySendChannel[_Request] | None = None
        self._running = 0  # statements

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs the lanes until cancelled; then pending requests fail with StoreUnavailable."""
        send, receive = trio.open_memory_channel[_Request](MAX_QUEUED)
        try:
            async with trio.open_nursery() as nursery:
                for number in range(LANES):
                    nursery.start_soon(self._lane, receive, name=f"append lane {number}")
                self._requests = send
                task_status.started()
        finally:
            self._requests = None
            with receive:
                _reject_all(receive)

    async def append(self, messages: Sequence[Post]) -> Outcomes:
        """Stores messages of one conversation, like `Store.apply`.

        Cancelled: they may be stored or not.
        """
        if not messages:
            return await self._append_isolated(messages)
        conversation_id = messages[0].conversation_id
        if self._requests is not None and conversation_id not in self._isolated:
            try:
                if not self._running:
                    return await self._append_counted(messages)
                rows = await self._append_by_lane(self._requests, messages)
            except (StoreRefused, StoreBusy):
                self._isolate(conversation_id)
                raise
            if rows is not None:
                return rows
        try:
            rows = await self._append_isolated(messages)
        except StoreError:
            self._isolate(conversation_id)
            raise
        self._isolated.pop(conversation_id, None)
        return rows

    def _isolate(self, conversation_id: UUID) -> None:
        self._isolated[conversation_id] = None
        if len(self._isolated) > MAX_ISOLATED:
            del self._isolated[next(iter(self._isolated))]

    async def _append_counted(self, messages: Sequence[Post]) -> Outcomes:
        self._running += 1
        try:
            return await self._append(messages)
        finally:
            self._running -= 1

    async def _append_by_lane(
        self, requests: trio.MemorySendChannel[_Request], messages: Sequence[Post]
    ) -> Outcomes | None:
        """Waits until a lane has appended the messages; returns None if the caller must append them separately."""
        request = _Request(messages)
        try:
            try:
                requests.send_nowait(request)
            except trio.WouldBlock:
                await requests.send(request)
            await request.done.wait()
        except trio.BrokenResourceError:
            raise StoreUnavailable("the store is closing") from None
        except trio.Cancelled:
            request.messages = ()  # if no lane has taken it yet, nothing is stored
            raise
        if isinstance(request.outcome, StoreError):
            raise type(request.outcome)(*request.outcome.args) from request.outcome
        return request.outcome

    async def _lane(self, queue: trio.MemoryReceiveChannel[_Request]) -> None:
        postponed: _Request | None = None
        try:
            while True:
                first = await queue.receive() if postponed is None else postponed
                requests, postponed = self._fill_statement(first, queue)
                await self._append_all(requests)
        finally:
            if postponed is not None:
                _reject(postponed)

    def _fill_statement(
        self, first: _Request, queue: trio.MemoryReceiveChannel[_Request]
    ) -> tuple[list[_Request], _Request | None]:
        """Takes requests for one statement, and one that must wait for the next statement, if any.

        A second request of a conversation must wait: it may resend a message of the first one, and a batch must not
        have a message twice.
        """
        requests, size = [first], len(first.messages)  # a cancelled request has no messages
        conversations = {message.conversation_id for message in first.messages}
        while size < MAX_STATEMENT_MESSAGES:
            try:
                request = queue.receive_nowait()
            except trio.WouldBlock:
                break
            its = {message.conversation_id for message in request.messages}
            if its & conversations:
                return requests, request
            conversations |= its
            size += len(request.messages)
            requests.append(request)
        return requests, None

    async def _append_all(self, requests: list[_Request]) -> None:
        sizes = [len(request.messages) for request in requests]  # before the await: a request cancelled later counts
        outcome: Outcomes | StoreError | None = StoreUnavailable("the store failed")
        try:
            messages = [message for request in requests for message in request.messages]
            outcome = await self._append_counted(messages) if messages else []
        except (StoreRefused, StoreBusy) as error:
            outcome = None if len(requests) > 1 else error
        except StoreError as error:
            outcome = error
        finally:
            start = 0
            for request, size in zip(requests, sizes, strict=True):
                request.outcome = outcome[start : start + size] if isinstance(outcome, list) else outcome
                start += size
                request.done.set()


def _reject_all(queue: trio.MemoryReceiveChannel[_Request]) -> None:
    while True:
        try:
            request = queue.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return
        _reject(request)


def _reject(request: _Request) -> None:
    request.outcome = StoreUnavailable("the store is closing")
    request.done.set()
