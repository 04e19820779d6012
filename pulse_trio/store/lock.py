"""One process a database: rooms live in one process, and two would split conversations without a word."""

from typing import Final

import psycopg
import structlog
import trio

from pulse_trio.errors import LaunchError
from pulse_trio.store.schema import SERVICE_LOCK
from pulse_trio.trio_psycopg import TrioConnection

RETRY: Final = 0.5  # seconds between attempts to get the lock back from a database that is away

_TAKEN: Final = (
    "another pulse-trio process is using this database: rooms live in one process, so stop that one first "
    "(and keep workers = 0)"
)

log = structlog.get_logger(__name__)


class ServiceLock:
    """An advisory lock on a connection of its own; PostgreSQL gives it up when this process dies.

    Taken before the event loop runs, so that a second process is refused before it serves anything.

    Raises:
        LaunchError: another process has it.
        psycopg.Error: the database cannot be reached.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connection: psycopg.Connection | TrioConnection = psycopg.connect(conninfo, autocommit=True)
        try:
            row = self._connection.execute("SELECT pg_try_advisory_lock(%s)", (SERVICE_LOCK,)).fetchone()
            if row is None or not row[0]:
                raise LaunchError(_TAKEN)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives the lock up."""
        self._connection.pgconn.finish()

    async def watch(self) -> None:
        """Takes the lock again when its connection breaks; runs until cancelled.

        Raises:
            LaunchError: another process took it meanwhile.
        """
        while True:
            await self._wait_lost()
            log.warning("the database closed the service lock's connection")
            await self._take_again()

    async def _wait_lost(self) -> None:
        pgconn = self._connection.pgconn
        while True:
            try:
                await trio.lowlevel.wait_readable(pgconn.socket)
                pgconn.consume_input()  # a notice is no reason; the end of the connection raises
            except (psycopg.Error, OSError):
                pgconn.finish()
                return

    async def _take_again(self) -> None:
        while True:
            try:
                # Held from here on, so that `close` ends it whatever happens next.
                self._connection = connection = await TrioConnection.connect(self._conninfo, autocommit=True)
                cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", (SERVICE_LOCK,))
                row = await cursor.fetchone()
            except (psycopg.Error, OSError):
                self.close()
                await trio.sleep(RETRY)
                continue
            if row is None or not row[0]:
                raise LaunchError(_TAKEN)
            return
