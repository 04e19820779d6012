"""The bytes of answers over HTTP that are under way, bounded for each address and in all.

An answer is kept whole until the network has taken it. Clients that ask for large ones and do not read them would fill
the memory, each with a few megabytes for as long as a write may take.
"""

import math
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Final

import trio

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.settings import Settings

SMALL_BYTES: Final = 16_384  # an answer up to this size is never refused: the network takes it at once
SHARE: Final = 0.25  # of what is free in all: as much as one address may have
RETRY: Final = 1.0  # seconds until some may be written
AT_ONCE: Final = 4  # large answers of one address that are looked up at a time: less than half of the usual pool
WAITING: Final = 124  # those that wait for that; one page of each member of a large office
LONGEST_WAIT: Final = 10.0  # seconds


class Answers:
    """Counts the bytes of all answers that are being made or written."""

    def __init__(self, settings: Settings) -> None:
        self._most_of_address = settings.answer_bytes_per_address or math.inf
        self._most = settings.answer_bytes or math.inf
        self._of_address: dict[str, int] = {}  # those with any
        self._lines: dict[str, _Line] = {}  # by address: those that look up large answers
        self.size = 0  # of all addresses

    @contextmanager
    def answer(self, address: str) -> Iterator["Answer"]:
        """Begins the answer to a request: the block makes and writes it, then its bytes are free again."""
        answer = Answer(self, address)
        token = _current.set(answer)
        try:
            yield answer
        finally:
            _current.reset(token)
            self.change(address, -answer.size)

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Waits until an address may look up one more large answer, for which the block has the time it needs.

        So the requests of one address do not take all connections to the database from others.

        Raises:
            PulseError: too many wait already, or none came to its end in time.
        """
        line = self._lines.setdefault(address, _Line())
        if line.size >= AT_ONCE + WAITING:
            raise _refused(_BUSY)
        line.size += 1
        try:
            with trio.move_on_after(LONGEST_WAIT) as scope:
                await line.places.acquire()
            if scope.cancelled_caught:
                raise _refused(_BUSY)
            try:
                yield
            finally:
                line.places.release()
        finally:
            line.size -= 1
            if not line.size:
                del self._lines[address]

    def problem(self, answer: "Answer", size: int) -> str | None:
        """The reason why an answer must not have so many bytes; None if it may.

        One answer alone may be larger than the bound, or it could never be given. And the less is free in all, the
        less an address may have: so a few addresses do not take everything, and one that has nothing finds room.
        """
        others = self.size - answer.size
        others_of_address = self._of_address.get(answer.address, 0) - answer.size
        bound = min(self._most_of_address, (self._most - others) * SHARE)
        if others_of_address and others_of_address + size > bound:
            return "Your address has too many answers under way; read them, and try again in a moment"
        if others and others + size > self._most:
            return "The server has too many answers under way; try again in a moment"
        return None

    def change(self, address: str, by: int) -> None:
        """Counts more bytes of an address, or fewer."""
        self.size += by
        of_address = self._of_address.get(address, 0) + by
        if of_address:
            self._of_address[address] = of_address
        else:
            self._of_address.pop(address, None)


class _Line:
    """The requests of one address that look up large answers, or wait to: first come, first served."""

    __slots__ = ("places", "size")

    def __init__(self) -> None:
        self.places = trio.Semaphore(AT_ONCE)
        self.size = 0


class Answer:
    """The answer to one request: first the bytes that are reserved for it, then those that it has."""

    __slots__ = ("_answers", "address", "size")

    def __init__(self, answers: Answers, address: str) -> None:
        self._answers = answers
        self.address = address
        self.size = 0

    def turn(self) -> AbstractAsyncContextManager[None]:
        """The turn of this request to look up a large answer; see `Answers.turn`."""
        return self._answers.turn(self.address)

    def reserve(self, size: int) -> None:
        """Counts so many bytes before anything is done for the answer. Raises PulseError when there is no room."""
        problem = self._answers.problem(self, size)
        if problem is not None:
            raise _refused(problem)
        self._set(size)

    def settle(self, size: int, *, may_refuse: bool) -> None:
        """Counts the bytes that the answer has, instead of those that were reserved.

        Raises:
            PulseError: there is no room for them, and the answer may be refused; nothing is counted then.
        """
        problem = self._answers.problem(self, size) if may_refuse and size > SMALL_BYTES else None
        self._set(size if problem is None else 0)
        if problem is not None:
            raise _refused(problem)

    def _set(self, size: int) -> None:
        self._answers.change(self.address, size - self.size)
        self.size = size


def current_answer() -> Answer:
    """The answer to the request that this task handles."""
    return _current.get()


_current: Final[ContextVar[Answer]] = ContextVar("answer")


_BUSY: Final = "Your address asks for too many large answers at a time; try again in a moment"


def _refused(problem: str) -> PulseError:
    return PulseError(ErrorCode.UNAVAILABLE, problem, retry_after=RETRY)
