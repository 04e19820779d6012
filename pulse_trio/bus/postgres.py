"""PostgreSQL as the engine: LISTEN and NOTIFY on the service's own database, over one connection.

That connection does nothing else, so NOTIFY is never inside a transaction that writes: there it would hold a lock over
all commits of the server until its own is done. Our own notifications come with the answer to the statement that sent
them, and so wake this process no second time.

libpq is driven here without psycopg's generators, because statements and notifications share the connection: one task
reads, another sends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg
import trio
from psycopg.pq import DiagnosticField, ExecStatus, Format
from psycopg.pq.abc import PGconn

from pulse_trio.database.sessions import as_lists, with_keepalives
from pulse_trio.trio_psycopg import SET_SETTINGS, TrioConnection

from .transport import CHECKPOINT_EVERY, Link, Transport, TransportError

MAX_PAYLOAD_BYTES: Final = 7_999  # a longer one ends the whole statement: "payload string too long"
MAX_PAYLOADS: Final = 16  # in one statement

# Notifications stay in one database; several schemas of it may each serve another service. By the schema's oid, because
# a channel has at most 63 bytes, and so may the schema's name.
_CHANNEL: Final = """
    SELECT 'pulse_trio.bus.' || oid FROM pg_namespace WHERE nspname = current_schema()
"""
_STATEMENTS: Final = tuple(
    ("SELECT " + ", ".join(f"pg_notify($1, ${number})" for number in range(2, count + 2))).encode()
    for count in range(1, MAX_PAYLOADS + 1)
)


class PostgresTransport(Transport):
    """Links to the service's PostgreSQL.

    Args:
        conninfo: libpq connection string. It must lead to a server, or to a pooler in session mode: LISTEN does not
            work where each transaction has another session.
    """

    name = "postgres"
    max_payload_bytes = MAX_PAYLOAD_BYTES
    max_payloads = MAX_PAYLOADS

    def __init__(self, conninfo: str) -> None:
        self._sessions = with_keepalives(conninfo)

    async def connect(self) -> Link:
        try:
            connection = await TrioConnection.connect(self._sessions.conninfo, autocommit=True)
            try:
                await connection.execute(SET_SETTINGS, as_lists(self._sessions.settings), prepare=False)
                row = await (await connection.execute(_CHANNEL, prepare=False)).fetchone()
                if row is None:
                    raise TransportError("the database has no schema for this session")
                channel: str = row[0]
                await connection.execute(f'LISTEN "{channel}"'.encode(), prepare=False)
            except BaseException:
                connection.abort()
                raise
        except (psycopg.Error, OSError) as error:
            raise TransportError(_reason(error)) from error
        return _PostgresLink(connection, channel.encode())


class _PostgresLink(Link):
    def __init__(self, connection: TrioConnection[Any], channel: bytes) -> None:
        self._connection = connection
        self._pgconn: PGconn = connection.pgconn
        self._socket = self._pgconn.socket
        self._channel = channel
        self._is_answered = trio.Event()
        self._is_waiting = False

    async def send(self, payloads: Sequence[bytes]) -> None:
        values = [self._channel, *payloads]
        formats = [Format.TEXT] * len(values)
        self._is_answered = trio.Event()
        self._is_waiting = True
        try:
            self._pgconn.send_query_params(_STATEMENTS[len(payloads) - 1], values, None, formats)
            while self._pgconn.flush():
                await trio.lowlevel.wait_writable(self._socket)
        except (psycopg.Error, OSError, trio.ClosedResourceError) as error:
            raise TransportError(_reason(error)) from error
        await self._is_answered.wait()

    async def receive(self, on_payload: Callable[[bytes], None]) -> None:
        pgconn = self._pgconn
        handed_over = 0
        try:
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                pgconn.consume_input()
                while notification := pgconn.notifies():
                    on_payload(notification.extra)
                    handed_over += 1
                    if handed_over % CHECKPOINT_EVERY == 0:
                        await trio.lowlevel.checkpoint()
                while self._is_waiting and not pgconn.is_busy():
                    result = pgconn.get_result()
                    if result is None:
                        self._is_waiting = False
                        self._is_answered.set()
                    elif result.status != ExecStatus.TUPLES_OK:
                        state = result.error_field(DiagnosticField.SQLSTATE) or b"unknown"
                        raise TransportError(f"NOTIFY was refused: SQLSTATE {state.decode()}")
        except (psycopg.Error, OSError, trio.ClosedResourceError) as error:
            raise TransportError(_reason(error)) from error

    def close(self) -> None:
        self._connection.abort()


def _reason(error: Exception) -> str:
    """Returns an error's first line. Messages of libpq name hosts and users, and no password."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
