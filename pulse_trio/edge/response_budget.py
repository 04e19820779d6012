"""The budget of pending response bytes over HTTP: bounded for each address and in total.

A response is kept whole until the network has taken it. Clients that request large ones and do not read them could fill
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

SMALL_BYTES: Final = 16_384  # a response up to this size is never rejected: the network takes it at once
ADDRESS_SHARE: Final = 0.25  # of the free bytes: as much as one address may have
NETWORK_SHARE: Final = 0.5  # of the free bytes: as much as an IPv6 network of many addresses may have
RETRY_SECONDS: Final = 1.0  # until some responses may have been written
MAX_TURNS: Final = 4  # large responses of one address that are looked up at a time: less than half of the usual pool
MAX_WAITING: Final = 124  # requests of one address that wait for a turn: a page for each member of a large office
MAX_WAIT: Final = 10.0  # seconds for a turn


class ResponseBudget:
    """Counts the bytes of all responses that are being made or written."""

    def __init__(self, settings: Settings) -> None:
        self._max_per_address = settings.answer_bytes_per_address or math.inf
        self._max_bytes = settings.answer_bytes or math.inf
        self._networks = settings.networks
        self._of_address: dict[str, int] = {}  # addresses and networks with any
        self._lines: dict[str, _Line] = {}  # by address: requests for large responses
        self.size = 0  # bytes of all addresses

    @contextmanager
    def answer(self, address: str) -> Iterator["Answer"]:
        """Begins the response to a request: the block makes and writes it, then its bytes are free again."""
        answer = Answer(self, address)
        token = _current.set(answer)
        try:
            yield answer
        finally:
            _current.reset(token)
            self.change(address, -answer.size)

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Waits until an address may look up one more large response, which the block does.

        So the requests of one address do not take all connections to the database.

        Raises:
            PulseError: too many requests wait already, or none ended in time.
        """
        line = self._lines.setdefault(address, _Line())
        if line.size >= MAX_TURNS + MAX_WAITING:
            raise _rejected(_BUSY)
        line.size += 1
        try:
            with trio.move_on_after(MAX_WAIT) as scope:
                await line.places.acquire()
            if scope.cancelled_caught:
                raise _rejected(_BUSY)
            try:
                yield
            finally:
                line.places.release()
        finally:
            line.size -= 1
            if not line.size:
                del self._lines[address]

    def problem(self, answer: "Answer", size: int) -> str | None:
        """Returns the reason why a response must not have so many bytes; None if it may.

        A single response may be larger than the bound, or it could never be sent. The less is free in total, the less
        an address may have: so a few addresses cannot take everything, and one without any bytes finds room.
        """
        others = self.size - answer.size
        for key, factor in self._networks.of(answer.address):
            others_of_network = self._of_address.get(key, 0) - answer.size
            share = ADDRESS_SHARE if factor == 1 else NETWORK_SHARE
            bound = min(self._max_per_address * factor, (self._max_bytes - others) * share)
            if others_of_network and others_of_network + size > bound:
                return "Your address has too many pending responses; read them and retry in a moment"
        if others and others + size > self._max_bytes:
            return "The server has too many pending responses; retry in a moment"
        return None

    def change(self, address: str, by: int) -> None:
        """Adds bytes of an address, or removes them."""
        self.size += by
        for key, _ in self._networks.of(address):
            of_network = self._of_address.get(key, 0) + by
            if of_network:
                self._of_address[key] = of_network
            else:
                self._of_address.pop(key, None)


class _Line:
    """The requests of one address that look up large responses, or wait to: first come, first served."""

    __slots__ = ("places", "size")

    def __init__(self) -> None:
        self.places = trio.Semaphore(MAX_TURNS)
        self.size = 0


class Answer:
    """The response to one request, as the budget counts it: first its reserved bytes, then its actual ones."""

    __slots__ = ("_budget", "address", "size")

    def __init__(self, budget: ResponseBudget, address: str) -> None:
        self._budget = budget
        self.address = address
        self.size = 0

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Waits for this request's turn to look up a large response; see `ResponseBudget.turn`."""
        return self._budget.turn(self.address)

    def reserve(self, size: int) -> None:
        """Counts so many bytes before the response is made. Raises PulseError when there is no room."""
        problem = self._budget.problem(self, size)
        if problem is not None:
            raise _rejected(problem)
        self._set(size)

    def settle(self, size: int, *, may_refuse: bool) -> None:
        """Counts the bytes that the response has, in place of the reserved ones.

        Raises:
            PulseError: there is no room for them, and the response may be rejected; nothing is counted then.
        """
        problem = self._budget.problem(self, size) if may_refuse and size > SMALL_BYTES else None
        self._set(size if problem is None else 0)
        if problem is not None:
            raise _rejected(problem)

    def _set(self, size: int) -> None:
        self._budget.change(self.address, size - self.size)
        self.size = size


def current_answer() -> Answer:
    """Returns the response to the request that this task handles."""
    return _current.get()


_current: Final[ContextVar[Answer]] = ContextVar("answer")


_BUSY: Final = "Your address requests too many large responses at a time; retry in a moment"


def _rejected(problem: str) -> PulseError:
    return PulseError(ErrorCode.UNAVAILABLE, problem, retry_after=RETRY_SECONDS)
