"""Group commit: concurrent commands of several rooms share one transaction.

While one statement commits, requests queue up, and the next statement takes all of them: there are no timers. A lane is
a task that runs one statement at a time. A writer waits only for its own commands; while no statement is running it
runs its own, which saves two task switches.

One room may make a shared statement fail: by a text that PostgreSQL rejects, or a row that another transaction has
locked. Then each room's commands are carried out separately, and a room that fails alone stays isolated until a
statement of its own succeeds, so that it delays no other room.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar
from uuid import UUID

import trio

from pulse_trio.model import Command
from pulse_trio.store.base import Outcome, StoreError, StoreRefused, StoreUnavailable

C = TypeVar("C", bound=Command)
Outcomes = list[Outcome]
Apply: TypeAlias = Callable[[Sequence[C]], Awaitable[Outcomes]]

LANES: Final = 2  # one fills its next statement while the other commits; with more, statements get smaller
MAX_STATEMENT_COMMANDS: Final = 1_000  # a larger statement gains nothing
MAX_ISOLATED: Final = 1_024  # rooms; a forgotten one only makes a shared statement fail once more
MAX_QUEUED: Final = 1_024  # requests that wait for a lane; further writers wait to queue theirs


class StoreBusy(StoreUnavailable):
    """Another transaction has kept a row locked for too long."""


def max_running(lanes: int) -> int:
    """Returns the number of concurrent statements, without those of isolated rooms.

    With as many connections of their own they never wait for other work on the database.
    """
    return lanes + 1  # one by a writer that found none running


class _Request(Generic[C]):
    """Commands of one writer, and the outcome of carrying them out."""

    __slots__ = ("commands", "done", "outcome")

    def __init__(self, commands: Sequence[C]) -> None:
        self.commands = commands
        self.done = trio.Event()
        self.outcome: Outcomes | StoreError | None = None  # None once done: carry them out separately


class GroupCommit(Generic[C]):
    """Carries out commands through lanes while `run` runs, and directly otherwise.

    Args:
        apply: carries out commands of any conversations in one transaction; raises as `Store.apply` does. At most
            `max_running(lanes)` calls run at a time.
        apply_isolated: does the same for an isolated room. Many calls may wait for locked rows, so it must not use the
            connections of `apply`.
        lanes: tasks that run statements.
    """

    def __init__(self, apply: Apply[C], apply_isolated: Apply[C], *, lanes: int = LANES) -> None:
        self._apply = apply
        self._apply_isolated = apply_isolated
        self._lanes = lanes
        self._isolated: dict[UUID, None] = {}  # conversations whose last separate statement failed
        self._requests: trio.MemorySendChannel[_Request[C]] | None = None
        self._running = 0  # statements

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs the lanes until cancelled; then pending requests fail with StoreUnavailable."""
        send, receive = trio.open_memory_channel[_Request[C]](MAX_QUEUED)
        try:
            async with trio.open_nursery() as nursery:
                for number in range(self._lanes):
                    nursery.start_soon(self._lane, receive, name=f"lane {number}")
                self._requests = send
                task_status.started()
        finally:
            self._requests = None
            with receive:
                _reject_all(receive)

    async def apply(self, commands: Sequence[C]) -> Outcomes:
        """Carries out commands of one conversation, like `Store.apply`.

        Cancelled: they may be carried out or not.
        """
        if not commands:
            return await self._apply_isolated(commands)
        conversation_id = commands[0].conversation_id
        if self._requests is not None and conversation_id not in self._isolated:
            try:
                if not self._running:
                    return await self._apply_counted(commands)
                rows = await self._apply_by_lane(self._requests, commands)
            except (StoreRefused, StoreBusy):
                self._isolate(conversation_id)
                raise
            if rows is not None:
                return rows
        try:
            rows = await self._apply_isolated(commands)
        except StoreError:
            self._isolate(conversation_id)
            raise
        self._isolated.pop(conversation_id, None)
        return rows

    def _isolate(self, conversation_id: UUID) -> None:
        self._isolated[conversation_id] = None
        if len(self._isolated) > MAX_ISOLATED:
            del self._isolated[next(iter(self._isolated))]

    async def _apply_counted(self, commands: Sequence[C]) -> Outcomes:
        self._running += 1
        try:
            return await self._apply(commands)
        finally:
            self._running -= 1

    async def _apply_by_lane(
        self, requests: trio.MemorySendChannel[_Request[C]], commands: Sequence[C]
    ) -> Outcomes | None:
        """Waits until a lane has carried out the commands; returns None if the caller must do it separately."""
        request = _Request(commands)
        try:
            try:
                requests.send_nowait(request)
            except trio.WouldBlock:
                await requests.send(request)
            await request.done.wait()
        except trio.BrokenResourceError:
            raise StoreUnavailable("the store is closing") from None
        except trio.Cancelled:
            request.commands = ()  # if no lane has taken it yet, nothing is stored
            raise
        if isinstance(request.outcome, StoreError):
            raise type(request.outcome)(*request.outcome.args) from request.outcome
        return request.outcome

    async def _lane(self, queue: trio.MemoryReceiveChannel[_Request[C]]) -> None:
        postponed: _Request[C] | None = None
        try:
            while True:
                first = await queue.receive() if postponed is None else postponed
                requests, postponed = self._fill_statement(first, queue)
                await self._apply_all(requests)
        finally:
            if postponed is not None:
                _reject(postponed)

    def _fill_statement(
        self, first: _Request[C], queue: trio.MemoryReceiveChannel[_Request[C]]
    ) -> tuple[list[_Request[C]], _Request[C] | None]:
        """Takes requests for one statement, and one that must wait for the next statement, if any.

        A second request of a conversation must wait: it may resend a command of the first one, and a batch must not
        have a message twice.
        """
        requests, size = [first], len(first.commands)  # a cancelled request has no commands
        conversations = {command.conversation_id for command in first.commands}
        while size < MAX_STATEMENT_COMMANDS:
            try:
                request = queue.receive_nowait()
            except trio.WouldBlock:
                break
            its = {command.conversation_id for command in request.commands}
            if its & conversations:
                return requests, request
            conversations |= its
            size += len(request.commands)
            requests.append(request)
        return requests, None

    async def _apply_all(self, requests: list[_Request[C]]) -> None:
        sizes = [len(request.commands) for request in requests]  # before the await: a request cancelled later counts
        outcome: Outcomes | StoreError | None = StoreUnavailable("the store failed")
        try:
            commands = [command for request in requests for command in request.commands]
            outcome = await self._apply_counted(commands) if commands else []
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


def _reject_all(queue: trio.MemoryReceiveChannel[_Request[Any]]) -> None:
    while True:
        try:
            request = queue.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel):
            return
        _reject(request)


def _reject(request: _Request[Any]) -> None:
    request.outcome = StoreUnavailable("the store is closing")
    request.done.set()
