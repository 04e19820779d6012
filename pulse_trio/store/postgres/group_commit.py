"""Group commit: concurrent commands of several rooms share one transaction.

While one statement commits, requests queue up, and the next statement takes all of them: there are no timers. A lane is
a task that runs one statement at a time, and hands out what the database answers. A request is either a handover, for
which no task waits, or that of a task in `apply`; while no statement is running such a task runs its own, which saves
two task switches.

Only one lane is woken at a time, and it takes what has come until it runs: all of what was sent in one turn of the
event loop is in one statement.

One room may make a shared statement fail: by a text that PostgreSQL rejects, or a row that another transaction has
locked. Then each room's commands are carried out separately, and a room that fails alone stays isolated until a
statement of its own succeeds, so that it delays no other room.
"""

from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import Any, Final, Generic, TypeAlias, TypeVar
from uuid import UUID

import trio

from pulse_trio.model import Command, text_chars
from pulse_trio.store.base import Answer, Handover, Outcome, StoreError, StoreRefused, StoreUnavailable

C = TypeVar("C", bound=Command)
Outcomes = list[Outcome]
Apply: TypeAlias = Callable[[Sequence[C]], Awaitable[Outcomes]]

LANES: Final = 2  # one fills its next statement while the other commits; with more, statements get smaller
MAX_STATEMENT_COMMANDS: Final = 1_000  # a larger statement gains nothing
MAX_STATEMENT_CHARS: Final = 262_144  # of texts, beyond which nothing is added: one of 12 MB kept all waiting for 0.4 s
MAX_ISOLATED: Final = 1_024  # rooms; a forgotten one only makes a shared statement fail once more
MAX_QUEUED: Final = 1_024  # requests that wait for a lane; further writers wait to queue theirs
# Seconds between two looks at the deadlines of handovers, or less if one is nearer. An earlier deadline of a handover
# that comes in between is kept as late.
DEADLINE_INTERVAL: Final = 1.0


class StoreBusy(StoreUnavailable):
    """Another transaction has kept a row locked for too long."""


def max_running(lanes: int) -> int:
    """Returns the number of concurrent statements, without those of isolated rooms.

    With as many connections of their own they never wait for other work on the database.
    """
    return lanes + 1  # one by a writer that found none running


class _Waiting(Generic[C]):
    """The request of a task that waits in `apply`; a `Handover`."""

    __slots__ = ("answer", "commands", "conversation_id", "deadline", "done")

    def __init__(self, commands: Sequence[C]) -> None:
        self.conversation_id = commands[0].conversation_id
        self.commands = commands
        self.deadline = inf  # the task has its own
        self.done = trio.Event()
        self.answer: Answer = None

    def take(self) -> Sequence[C]:
        return self.commands

    def on_answer(self, answer: Answer) -> None:
        self.answer = answer
        self.done.set()


_Requests: TypeAlias = list[tuple[Handover[C], Sequence[C]]]
"""The requests of a statement, each with its commands."""


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
        self._queue: trio.MemorySendChannel[Handover[C]] | None = None
        self._unanswered: dict[Handover[C], None] = {}  # those in the queue, and those in a statement
        self._idle_lanes = trio.lowlevel.ParkingLot()
        self._looking = 0  # lanes that are awake and will look into the queue before they wait
        self._statements: dict[trio.CancelScope, _Requests[C]] = {}  # of the lanes; each lane has a scope
        self._has_handovers = trio.Event()
        self._running = 0  # statements

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs the lanes until cancelled; then pending requests fail with StoreUnavailable."""
        send, receive = trio.open_memory_channel[Handover[C]](MAX_QUEUED)
        try:
            async with trio.open_nursery() as nursery:
                for number in range(self._lanes):
                    nursery.start_soon(self._lane, receive, name=f"lane {number}")
                nursery.start_soon(self._keep_deadlines, name="deadlines of handovers")
                self._queue = send
                task_status.started()
        finally:
            self._queue = None
            receive.close()
            for request in list(self._unanswered):
                self._answer(request, StoreUnavailable("the store is closing"))

    async def apply(self, commands: Sequence[C]) -> Outcomes:
        """Carries out commands of one conversation, like `Store.apply`.

        Cancelled: they may be carried out or not.
        """
        if not commands:
            return await self._apply_isolated(commands)
        conversation_id = commands[0].conversation_id
        if self._queue is not None and conversation_id not in self._isolated:
            try:
                if not self._running:
                    return await self._apply_counted(commands)
                rows = await self._apply_by_lane(self._queue, commands)
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

    def apply_soon(self, handover: Handover[C]) -> bool:
        """Queues a handover for a lane; see `Store.apply_soon`. Isolated rooms must use `apply`."""
        if self._queue is None or handover.conversation_id in self._isolated:
            return False
        try:
            self._queue.send_nowait(handover)
        except trio.WouldBlock:
            return False
        self._unanswered[handover] = None
        self._has_handovers.set()
        self._wake_lane()
        return True

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
        self, queue: trio.MemorySendChannel[Handover[C]], commands: Sequence[C]
    ) -> Outcomes | None:
        """Waits until a lane has carried out the commands; returns None if the caller must do it separately."""
        request = _Waiting(commands)
        self._unanswered[request] = None
        try:
            try:
                queue.send_nowait(request)
            except trio.WouldBlock:
                await queue.send(request)
            self._wake_lane()
            await request.done.wait()
        except trio.BrokenResourceError:
            raise StoreUnavailable("the store is closing") from None
        finally:
            if request in self._unanswered:  # this task gives up; if no lane has taken it yet, nothing is stored
                del self._unanswered[request]
                self._cancel_abandoned()
        if isinstance(request.answer, StoreError):
            raise type(request.answer)(*request.answer.args) from request.answer
        return request.answer

    def _wake_lane(self) -> None:
        """Wakes a lane, unless one is awake that will look into the queue."""
        if self._idle_lanes and not self._looking:
            self._looking += 1
            self._idle_lanes.unpark()

    async def _lane(self, queue: trio.MemoryReceiveChannel[Handover[C]]) -> None:
        postponed: Handover[C] | None = None
        has_answered = False
        self._looking += 1
        while True:
            with trio.CancelScope() as scope:  # cancelled when nobody waits for its statement any more
                while not scope.cancel_called:
                    try:
                        first = queue.receive_nowait() if postponed is None else postponed
                    except trio.WouldBlock:
                        self._looking -= 1
                        await self._idle_lanes.park()
                        has_answered = False
                        continue
                    if has_answered:
                        # Clients are read that have sent meanwhile: this statement has their messages, too.
                        await trio.lowlevel.checkpoint()
                    requests, postponed = self._fill_statement(first, queue)
                    try:
                        if requests:
                            has_answered = True
                            await self._apply_all(requests, scope, is_full=postponed is not None)
                    finally:
                        del first, requests  # their rooms must not stay in memory while this waits for others

    def _fill_statement(
        self, first: Handover[C], queue: trio.MemoryReceiveChannel[Handover[C]]
    ) -> tuple[_Requests[C], Handover[C] | None]:
        """Takes requests, each with its commands, for one statement; and one that must wait for the next, if any.

        A second request of a conversation must wait: it may resend a command of the first one, and a batch must not
        have a message twice.
        """
        requests: _Requests[C] = []
        conversations: set[UUID] = set()
        size = chars = 0
        request = first
        while (
            size < MAX_STATEMENT_COMMANDS
            and chars < MAX_STATEMENT_CHARS
            and conversations.isdisjoint(its := _conversations(request))
        ):
            commands = request.take() if request in self._unanswered else ()
            if commands:
                requests.append((request, commands))
                conversations.update(its)
                size += len(commands)
                chars += sum(map(text_chars, commands))
            else:
                self._unanswered.pop(request, None)
            try:
                request = queue.receive_nowait()
            except trio.WouldBlock:
                return requests, None
        return requests, request

    async def _apply_all(self, requests: _Requests[C], scope: trio.CancelScope, *, is_full: bool) -> None:
        """Carries out requests in one statement, and answers them. `is_full`: others are left in the queue."""
        self._looking -= 1
        if is_full:
            self._wake_lane()
        outcome: Outcomes | StoreError = StoreUnavailable("the store failed")
        self._statements[scope] = requests
        try:
            outcome = await self._apply_counted([command for _, commands in requests for command in commands])
        except StoreError as error:
            outcome = error
        finally:
            del self._statements[scope]
            self._looking += 1  # before the answers: those who send more then wake no other lane
            self._answer_all(requests, outcome)

    def _answer_all(self, requests: _Requests[C], outcome: Outcomes | StoreError) -> None:
        answer: Answer = None
        if isinstance(outcome, StoreRefused | StoreBusy):
            for request, _ in requests:
                self._isolate(request.conversation_id)  # `apply` is next for them, and ends it if it succeeds
            answer = None if len(requests) > 1 else outcome
        elif isinstance(outcome, StoreError):
            answer = outcome
        start = 0
        for request, commands in requests:
            if isinstance(outcome, list):
                answer = outcome[start : start + len(commands)]
                start += len(commands)
            self._answer(request, answer)

    def _answer(self, request: Handover[C], answer: Answer) -> None:
        """Answers a request, unless it has been answered."""
        if request in self._unanswered:
            del self._unanswered[request]
            request.on_answer(answer)

    async def _keep_deadlines(self) -> None:
        """Answers handovers at their deadline, whatever their statement waits for."""
        while True:
            await self._has_handovers.wait()
            self._has_handovers = trio.Event()
            while self._unanswered:
                now = trio.current_time()
                self._answer_expired(now)
                earliest = min((request.deadline for request in self._unanswered), default=inf)
                await trio.sleep_until(min(earliest, now + DEADLINE_INTERVAL))

    def _answer_expired(self, now: float) -> None:
        expired = [request for request in self._unanswered if request.deadline <= now]
        for request in expired:
            self._answer(request, StoreUnavailable("the store does not answer in time"))
        self._cancel_abandoned()

    def _cancel_abandoned(self) -> None:
        """Cancels the statements of lanes that nobody waits for any more, so that they do not hold up others."""
        for scope, requests in self._statements.items():
            if not any(request in self._unanswered for request, _ in requests):
                scope.cancel()


def _conversations(request: Handover[Any]) -> set[UUID]:
    if isinstance(request, _Waiting):
        return {command.conversation_id for command in request.commands}
    return {request.conversation_id}
