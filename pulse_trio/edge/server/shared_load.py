"""The connections of each worker, in memory that the workers of a machine share.

Each worker writes its own cell and reads those of the others. The supervisor gives a new worker a cell that no live
process has, and closes the cell of a worker that has ended.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

CELL_BYTES: Final = 8
CLOSED: Final = -1  # in the cell of a worker that accepts nothing: it does not count as the least loaded
MAX_PATIENCE: Final = 0.002  # seconds that a worker leaves a connection to those with fewer
PATIENCE_STEP: Final = 0.0005  # seconds for each connection that it has more


class LoadTable:
    """The shared cells.

    Args:
        descriptor: of a file of `size` cells, from `open_table`.
        size: the number of cells.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._map = mmap.mmap(descriptor, size * CELL_BYTES)
        self._cells = memoryview(self._map).cast("q")

    def close_cell(self, cell: int) -> None:
        """Marks a cell as that of no worker."""
        self._cells[cell] = CLOSED

    def set(self, cell: int, connections: int) -> None:
        """Writes a cell."""
        self._cells[cell] = connections

    def values(self) -> list[int]:
        """Returns all cells."""
        return self._cells.tolist()

    def close(self) -> None:
        """Unmaps the cells."""
        self._cells.release()
        self._map.close()


def open_table(size: int) -> int:
    """Returns the descriptor of a file without a name, of `size` closed cells; in memory where it can be."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pulse-load")
    else:  # macOS
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size * CELL_BYTES)
    table = LoadTable(descriptor, size)
    for cell in range(size):
        table.close_cell(cell)
    table.close()
    return descriptor


class SharedLoad:
    """The connections of this worker, as the others see them.

    Args:
        table: the cells of all workers.
        cell: that of this one.
    """

    def __init__(self, table: LoadTable, cell: int) -> None:
        self._table = table
        self._cell = cell
        self._count = 0
        self._accepting: dict[trio.CancelScope, None] = {}
        self.is_closed = False
        table.set(cell, 0)

    def enter(self) -> None:
        """Counts a connection that was accepted."""
        self._add(1)

    def leave(self) -> None:
        """Counts the end of a connection."""
        self._add(-1)

    def __enter__(self) -> None:
        """Begins the block that serves a connection, which was counted when it was accepted."""

    def __exit__(self, *_: object) -> None:
        self.leave()

    def _add(self, difference: int) -> None:
        self._count += difference
        if not self.is_closed:
            self._table.set(self._cell, self._count)

    def excess(self) -> int:
        """Returns the number of connections that this worker has more than the least loaded one."""
        return self._count - min((value for value in self._table.values() if value >= 0), default=self._count)

    def patience(self) -> float:
        """Returns the seconds that this worker leaves a new connection to those that have fewer."""
        return min(MAX_PATIENCE, PATIENCE_STEP * max(self.excess(), 0))

    @contextmanager
    def accepting(self) -> Iterator[None]:
        """Runs a block that waits for connections, until `close`."""
        with trio.CancelScope() as scope:
            self._accepting[scope] = None
            try:
                yield
            finally:
                del self._accepting[scope]

    def close(self) -> None:
        """Stops accepting, because the worker drains; its cell does not count from now on."""
        self.is_closed = True
        self._table.close_cell(self._cell)
        for scope in self._accepting:
            scope.cancel()
