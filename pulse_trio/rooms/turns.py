"""Turns: work on behalf of users, a bounded number of tasks for each."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

import trio

MAX_USERS_A_TURN: Final = 50  # are notified or subscribed before other tasks run: a few milliseconds


class _Line:
    """The tasks of one user: those that have a turn, and those that wait for one."""

    __slots__ = ("tasks", "turns")

    def __init__(self, most: int) -> None:
        self.turns = trio.Semaphore(most)
        self.tasks = 0


class Turns:
    """Gives turns to tasks, at most `most` of one user at a time; the tasks of a user come in the order of asking.

    So where tasks of all users wait in one queue, a user with many has no more than `most` in it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: dict[UUID, _Line] = {}  # of users with tasks

    async def acquire(self, user_id: UUID) -> None:
        """Waits for a turn, if the user has the most already; no checkpoint otherwise. Cancelled: it has none."""
        line = self._lines.get(user_id)
        if line is None:
            line = self._lines[user_id] = _Line(self._most)
        line.tasks += 1
        try:
            try:
                line.turns.acquire_nowait()
            except trio.WouldBlock:
                await line.turns.acquire()
        except BaseException:
            self._leave(user_id, line)
            raise

    def release(self, user_id: UUID) -> None:
        """Ends a turn, and gives it to the next task of the user."""
        line = self._lines[user_id]
        line.turns.release()
        self._leave(user_id, line)

    @asynccontextmanager
    async def turn(self, user_id: UUID) -> AsyncIterator[None]:
        """Waits for a turn, and holds it for the block."""
        await self.acquire(user_id)
        try:
            yield
        finally:
            self.release(user_id)

    def _leave(self, user_id: UUID, line: _Line) -> None:
        line.tasks -= 1
        if not line.tasks:
            del self._lines[user_id]
