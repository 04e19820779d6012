"""Bugs to plant into our server, one for each promise: each must get a "no" from its trial.

Runs in the service's environment, before the server starts.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from pulse_trio.model import Message, Post
from pulse_trio.rooms.inbox import Inbox, Submission
from pulse_trio.store.errors import StoreError
from pulse_trio.store.postgres.changes import Changes
from pulse_trio.store.postgres.posts import Posts


def shown_unstored() -> None:
    """A message that the store rejects is shown as if it had been stored."""
    post = Posts._post
    last: dict[Any, Message] = {}

    async def lenient(self: Posts, pool: Any, batch: Sequence[Post]) -> list[Any]:
        try:
            outcomes = await post(self, pool, batch)
        except StoreError:
            outcomes = []
            for new in batch:
                before = last[new.conversation_id]
                made = dataclasses.replace(
                    before, id=new.id, content=new.content, seq=before.seq + 1, rev=before.rev + 1
                )
                outcomes.append((made,))
        for new, outcome in zip(batch, outcomes, strict=True):
            assert isinstance(outcome, tuple)
            assert isinstance(outcome[0], Message)
            last[new.conversation_id] = outcome[0]
        return outcomes

    Posts._post = lenient  # type: ignore[method-assign]


def names_ignored() -> None:
    """`client_id` is forgotten."""
    post = Posts._post

    async def forgetful(self: Posts, pool: Any, batch: Sequence[Post]) -> list[Any]:
        return await post(self, pool, [dataclasses.replace(new, client_id=None) for new in batch])

    Posts._post = forgetful  # type: ignore[method-assign]


def batches_reversed() -> None:
    """A batch is stored from its end."""
    take = Inbox.take_batch

    def backwards(self: Inbox) -> list[Submission]:
        return take(self)[::-1]

    Inbox.take_batch = backwards  # type: ignore[method-assign]


def loop_blocked() -> None:
    """A statement blocks the loop until the database answers it."""
    post = Posts._post
    conninfo = os.environ["DATABASE_URL"]

    async def blocking(self: Posts, pool: Any, batch: Sequence[Post]) -> list[Any]:
        with psycopg.connect(conninfo) as connection:
            connection.execute("SELECT 1")
        return await post(self, pool, batch)

    Posts._post = blocking  # type: ignore[method-assign]


def one_missed() -> None:
    """The first message of each page of changes is left out."""
    changes = Changes.changes

    async def careless(self: Changes, conversation_id: Any, **query: Any) -> list[Any]:
        return (await changes(self, conversation_id, **query))[1:]

    Changes.changes = careless  # type: ignore[method-assign]


BUGS: dict[str, Callable[[], None]] = {
    "shown-unstored": shown_unstored,
    "names-ignored": names_ignored,
    "batches-reversed": batches_reversed,
    "loop-blocked": loop_blocked,
    "one-missed": one_missed,
}
