"""The other workers of this machine, which a worker asks for their metrics over private Unix sockets.

The supervisor makes the sockets, one for each slot, in a folder that only its account can enter, and a worker inherits
that of its slot. So a socket outlives its worker: connections wait there for the successor.
"""

import json
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio

ANSWER_SECONDS: Final = 1.0  # for a worker to answer; Prometheus waits for ten
MAX_ASKED_BYTES: Final = 1_024  # of a question: an Accept header
MAX_ANSWER_BYTES: Final = 16 * 2**20
RECEIVE_BYTES: Final = 65_536

Family = tuple[str, str, str]
"""A family of metrics: its name, the lines that describe it, and those of its series."""

log = structlog.get_logger(__name__)


class Siblings:
    """All workers of this machine.

    Args:
        folder: the folder of their sockets.
        slot: that of this worker.
        count: the number of slots; they are numbered from 0.
        listener: the socket of this worker's slot, which listens.
    """

    def __init__(self, folder: Path, slot: int, count: int, listener: socket.socket) -> None:
        self._folder = folder
        self.slot = slot
        self.count = count
        self._listener = listener

    @staticmethod
    def path(folder: Path, slot: int) -> Path:
        """Returns the path of a slot's socket."""
        return folder / f"{slot}.sock"

    async def serve(
        self,
        families: Callable[[str], Awaitable[list[Family]]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answers the other workers.

        Args:
            families: returns this worker's metrics for an `Accept` header.
            task_status: started when it accepts connections.

        Cancelled: closes the socket; the others that ask then are answered by the successor.
        """
        self._listener.setblocking(False)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listener))
        task_status.started()
        await trio.serve_listeners(partial(self._answer, families), [listener])

    async def _answer(self, families: Callable[[str], Awaitable[list[Family]]], stream: trio.SocketStream) -> None:
        async with stream:
            try:
                with trio.fail_after(ANSWER_SECONDS):
                    asked = await _receive(stream, MAX_ASKED_BYTES)
                    found = await families(asked.decode("ascii", "replace"))
                    await stream.send_all(json.dumps(found).encode())
            except (trio.TooSlowError, trio.BrokenResourceError):
                log.debug("metrics not sent to another worker")

    async def ask(self, accept: str) -> dict[int, list[Family] | None]:
        """Asks all other workers at once.

        Args:
            accept: the `Accept` header of the request that is answered.

        Returns:
            The metrics of each, by slot; None for a worker that did not answer in `ANSWER_SECONDS`.
        """
        found: dict[int, list[Family] | None] = {}

        async def ask_one(slot: int) -> None:
            found[slot] = await self._ask_one(slot, accept)

        async with trio.open_nursery() as nursery:
            for slot in range(self.count):
                if slot != self.slot:
                    nursery.start_soon(ask_one, slot, name="metrics of a worker")
        return found

    async def _ask_one(self, slot: int, accept: str) -> list[Family] | None:
        with trio.move_on_after(ANSWER_SECONDS):
            try:
                async with await trio.open_unix_socket(str(self.path(self._folder, slot))) as stream:
                    await stream.send_all(accept.encode("ascii", "replace")[:MAX_ASKED_BYTES])
                    await stream.send_eof()
                    answer = await _receive(stream, MAX_ANSWER_BYTES)
                return [(name, head, body) for name, head, body in json.loads(answer)]
            except (OSError, trio.BrokenResourceError, ValueError):  # it has just ended, or has no service now
                return None
        return None


async def _receive(stream: trio.SocketStream, most: int) -> bytes:
    """Returns all that the other end sends, up to `most` bytes."""
    parts = bytearray()
    while len(parts) < most and (part := await stream.receive_some(RECEIVE_BYTES)):
        parts += part
    return bytes(parts)
