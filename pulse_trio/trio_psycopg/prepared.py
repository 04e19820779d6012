"""Prepared statements through libpq's binary interface, without a cursor and without adapting values.

For the few statements that run thousands of times a second. Values and columns are bytes; `binary` makes and reads
them. No other module calls libpq to run a statement.

    statement = Statement("SELECT content FROM messages WHERE id = $1", UUID)
    rows = await connection.fetch_prepared(statement, [id.bytes])
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import errors, generators
from psycopg.abc import PQGen
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

Row: TypeAlias = tuple[Any, ...]  # of bytes and None
Results: TypeAlias = PQGen[list[PGresult]]
Wait: TypeAlias = Callable[[Results], Coroutine[Any, Any, list[PGresult]]]

# A server that does not know a prepared statement's name, or the row type of its result, any more. It says so before it
# runs anything.
_STALE: Final = (errors.InvalidSqlStatementName, errors.FeatureNotSupported)

# A pooler may lend us the session of a program that has ended, with the statements that it prepared.
_PREFIX: Final = f"_trio_{secrets.token_hex(4)}_"
_numbers = itertools.count()


class Statement:
    """A statement to prepare on each connection that runs it. Make one for each text, and keep it.

    Args:
        text: one SQL statement, with parameters $1, $2, …
        types: the parameters' types, as oids.
    """

    __slots__ = ("formats", "text", "types")

    def __init__(self, text: str, *types: int) -> None:
        self.text: Final = text.encode()
        self.types: Final = types
        self.formats: Final = (Format.BINARY,) * len(types)


class Prepared:
    """The statements that are prepared on one connection, whose `client_encoding` is UTF8."""

    __slots__ = ("_names", "_pgconn")

    def __init__(self, pgconn: PGconn) -> None:
        self._pgconn = pgconn
        self._names: dict[Statement, bytes] = {}

    async def fetch(
        self, statement: Statement, values: Sequence[bytes | None], wait: Wait, *, prepare: bool
    ) -> list[Row]:
        """Runs a statement, preparing it if it is not; returns its rows. The caller holds the connection's lock.

        A name that the server has forgotten (DISCARD ALL; DEALLOCATE ALL, which psycopg sends after some rollbacks) is
        prepared again, unless that error has ended a transaction.

        Args:
            statement: the statement.
            values: its parameters in binary format.
            wait: drives a generator of psycopg on this connection.
            prepare: False to send the text each time.

        Raises:
            psycopg.Error: as a cursor would.

        Cancelled: as `wait` leaves it. If the statement was not yet prepared, it is not run.
        """
        if not prepare:
            return _rows(await wait(self._send_text(statement, values)))
        name = self._names.get(statement)
        if name is not None:
            try:
                return _rows(await wait(self._run(name, statement, values)))
            except _STALE:
                self._names.pop(statement, None)
                if self._pgconn.transaction_status != TransactionStatus.IDLE:
                    raise
        name = f"{_PREFIX}{next(_numbers)}".encode()
        _rows(await wait(self._prepare(name, statement)))
        self._names[statement] = name
        return _rows(await wait(self._run(name, statement, values)))

    # Generators, because `wait` may find a cancellation before anything is sent.

    def _run(self, name: bytes, statement: Statement, values: Sequence[bytes | None]) -> Results:
        self._pgconn.send_query_prepared(name, values, statement.formats, Format.BINARY)
        results: list[PGresult] = yield from generators.execute(self._pgconn)
        return results

    def _prepare(self, name: bytes, statement: Statement) -> Results:
        self._pgconn.send_prepare(name, statement.text, statement.types)
        results: list[PGresult] = yield from generators.execute(self._pgconn)
        return results

    def _send_text(self, statement: Statement, values: Sequence[bytes | None]) -> Results:
        self._pgconn.send_query_params(statement.text, values, statement.types, statement.formats, Format.BINARY)
        results: list[PGresult] = yield from generators.execute(self._pgconn)
        return results


def _rows(results: Sequence[PGresult]) -> list[Row]:
    """Returns the rows of a statement's only result.

    In autocommit the rows are sent before the commit (PostgreSQL's documentation, 55.2.3: it happens at Sync). An error
    of the commit is a second result, and then nothing of the first one counts.

    Raises:
        psycopg.Error: the error that the server reports.
    """
    if not results:
        raise psycopg.InternalError("got no result from the statement")
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise errors.error_from_result(result)
    result = results[0]
    if result.status == ExecStatus.TUPLES_OK:
        columns = range(result.nfields)
        get = result.get_value
        return [tuple([get(row, column) for column in columns]) for row in range(result.ntuples)]
    if result.status in (ExecStatus.COMMAND_OK, ExecStatus.EMPTY_QUERY):
        return []
    raise psycopg.ProgrammingError(f"a prepared statement cannot do this: {ExecStatus(result.status).name}")
