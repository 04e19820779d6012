"""Gathering: questions that several tasks ask at the same moment share one statement.

While a statement runs, questions queue up, and the next one takes them: there are no timers, and a question alone is
asked at once, in the task of the one who asks. (`group_commit` does the same for commands, which have an order.)
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import trio

from pulse_trio.store.base import StoreError, StoreRefused, StoreUnavailable

Q = TypeVar("Q")
A = TypeVar("A")

LANES: Final = 2  # one statement is answered while the next one fills
MAX_STATEMENT: Final = 16  # questions; their tasks go on in one turn of the loop, which must not take long
MAX_QUEUED: Final = 1_024  # questions that wait for a lane; further tasks wait to queue theirs


class _Question(Generic[Q, A]):
    """A question with its answer; `done` is set when there is one, or an error in its place."""

    __slots__ = ("answer", "asked", "done", "error")

    def __init__(self, asked: Q) -> None:
        self.asked: Q | None = asked  # None: nobody waits for the answer any more
        self.done = trio.Event()
        self.answer: A | None = None
        self.error: StoreError | None = None


class Gathering(Generic[Q, A]):
    """Asks questions through lanes while `run` runs, and one by one otherwise.

    Args:
        answer_all: answers questions, in their order, by one statement; at most `LANES + 1` calls run at a time.
    """

    def __init__(self, answer_all: Callable[[Sequence[Q]], Awaitable[Sequence[A | None]]]) -> None:
        self._answer_all = answer_all
        self._queue: trio.MemorySendChannel[_Question[Q, A]] | None = None
        self._running = 0  # statements

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs the lanes until cancelled; then pending questions fail with StoreUnavailable."""
        send, receive = trio.open_memory_channel[_Question[Q, A]](MAX_QUEUED)
        try:
            async with trio.open_nursery() as nursery:
                for number in range(LANES):
                    nursery.start_soon(self._lane, receive, name=f"lane {number} of look-ups")
                self._queue = send
                task_status.started()
        finally:
            self._queue = None
            with receive:
                for question in _waiting(receive):
                    question.error = StoreUnavailable("the store is closing")
                    question.done.set()

    async def ask(self, asked: Q) -> A | None:
        """Returns the answer to a question.

        Raises:
            StoreError: as `answer_all` does.
        Cancelled: the question is dropped.
        """
        if self._queue is None or not self._running:
            (answer,) = await self._answer([asked])
            return answer
        question: _Question[Q, A] = _Question(asked)
        try:
            try:
                self._queue.send_nowait(question)
            except trio.WouldBlock:
                await self._queue.send(question)
            await question.done.wait()
        except trio.BrokenResourceError:
            raise StoreUnavailable("the store is closing") from None
        finally:
            question.asked = None
        if question.error is not None:
            raise type(question.error)(*question.error.args) from question.error
        return question.answer

    async def _answer(self, asked: Sequence[Q]) -> Sequence[A | None]:
        self._running += 1
        try:
            return await self._answer_all(asked)
        finally:
            self._running -= 1

    async def _lane(self, queue: trio.MemoryReceiveChannel[_Question[Q, A]]) -> None:
        while True:
            questions = [await queue.receive()]
            while len(questions) < MAX_STATEMENT and (more := _next(queue)) is not None:
                questions.append(more)
            await self._answer_questions([question for question in questions if question.asked is not None])

    async def _answer_questions(self, questions: Sequence[_Question[Q, A]]) -> None:
        asked = [question.asked for question in questions if question.asked is not None]
        error: StoreError | None = StoreUnavailable("the store failed")
        answers: Sequence[A | None] = ()
        try:
            answers = await self._answer(asked) if asked else ()
            error = None
        except StoreRefused as refusal:
            if len(questions) > 1:  # one of them, by a value that PostgreSQL rejects: it must not harm the others
                for question in questions:
                    await self._answer_questions([question])
                return
            error = refusal
        except StoreError as failure:
            error = failure
        finally:
            for question, answer in zip(questions, answers or [None] * len(questions), strict=True):
                if not question.done.is_set():
                    question.answer, question.error = answer, error
                    question.done.set()


def _next(queue: trio.MemoryReceiveChannel[_Question[Q, A]]) -> _Question[Q, A] | None:
    try:
        return queue.receive_nowait()
    except (trio.WouldBlock, trio.EndOfChannel):
        return None


def _waiting(queue: trio.MemoryReceiveChannel[_Question[Q, A]]) -> list[_Question[Q, A]]:
    found = []
    while (question := _next(queue)) is not None:
        found.append(question)
    return found
