"""Several stores on one PostgreSQL keep their promises; the fuzz finds planted bugs."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from pulse_trio.store.base import Members
from pulse_trio.store.postgres import PostgresStore, members, messages
from pulse_trio.trio_psycopg import TrioConnection
from tests.fuzz.round import fuzz
from tests.fuzz.stores import prepare
from tests.support.cluster import Cluster

SECONDS = 1.5  # per round
ROUNDS = 4
PLANTED_SECONDS = 60.0  # to find a planted bug; the first round finds most

Patch = pytest.MonkeyPatch


@pytest.fixture
def journal(cluster: Cluster) -> Iterator[str]:
    """The connection string of a database with a journal."""
    conninfo = cluster.new_database()
    prepare(conninfo)
    yield conninfo
    cluster.drop_database(conninfo)


def test_stores_on_one_database_keep_their_promises(journal: str) -> None:
    first = random.SystemRandom().randrange(10**9)
    counters: Counter[str] = Counter()
    for seed in range(first, first + ROUNDS):
        result = fuzz(journal, seed, SECONDS)
        assert not result.violations, (seed, result.violations[:10])
        counters += result.counters
    rare = {"message", "revision", "member in", "member out", "a refusal", "mark", "members"}
    assert not rare - set(counters), "never happened"


def _without(patch: Patch, name: str, text: str, instead: str = "") -> None:
    statement = getattr(messages, name)
    assert text in statement
    patch.setattr(messages, name, statement.replace(text, instead))


def single_append_trusts_its_snapshot(patch: Patch) -> None:
    comparison = "AND c.members_version = (SELECT members_version FROM conversations WHERE id = %s)"
    _without(patch, "_APPEND_ONE", comparison, "AND %s::uuid IS NOT NULL")


def batch_append_trusts_its_snapshot(patch: Patch) -> None:
    _without(patch, "_APPEND", "AND locked.is_current")
    _without(patch, "_APPEND", "WHERE NOT is_current", "WHERE false")


def removal_without_a_version(patch: Patch) -> None:
    version = members._count_change

    async def wrong(connection: TrioConnection[Any], key: UUID, now: datetime, *, change: int) -> tuple[int, int]:
        return await version(connection, key, now, change=max(change, 0))

    patch.setattr(members, "_count_change", wrong)


def members_read_in_two_statements(patch: Patch) -> None:
    async def wrong(self: PostgresStore, conversation_id: UUID) -> Members:
        rows = await self.all("SELECT user_id FROM conversation_users WHERE conversation_id = %s", (conversation_id,))
        head = await self.head(conversation_id)
        return Members(tuple(row[0] for row in rows), head.members_version)

    patch.setattr(PostgresStore, "members", wrong)


def rename_locks_rows_in_any_order(patch: Patch) -> None:
    rename = PostgresStore.rename

    async def wrong(self: PostgresStore, conversation_id: UUID, actor_id: UUID, *changes: Any, now: datetime) -> Any:
        async with self.connection() as connection, connection.transaction():
            statement = "UPDATE conversations SET updated_at = %s WHERE id "
            await connection.execute(statement + "= %s", (now, conversation_id))
            await connection.execute(statement + "<> %s", (now, conversation_id))
        return await rename(self, conversation_id, actor_id, *changes, now=now)

    patch.setattr(PostgresStore, "rename", wrong)


BUGS: list[tuple[Callable[[Patch], None], str]] = [
    (single_append_trusts_its_snapshot, "nothing of a removed member is stored"),
    (batch_append_trusts_its_snapshot, "nothing of a removed member is stored"),
    (removal_without_a_version, "each change of members has a version"),
    (members_read_in_two_statements, "members are as of their version"),
    (rename_locks_rows_in_any_order, "no deadlock"),
]


@pytest.mark.parametrize(("plant", "promise"), BUGS, ids=[plant.__name__ for plant, _ in BUGS])
def test_planted_bug_is_named(plant: Callable[[Patch], None], promise: str, journal: str, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    named: set[str] = set()
    until = time.monotonic() + PLANTED_SECONDS
    seed = 0
    while promise not in named:
        seed += 1
        named |= {violation.partition(":")[0] for violation in fuzz(journal, seed, SECONDS).violations}
        assert time.monotonic() < until, f"in {seed} rounds only {sorted(named)}"
    print(f"found in {seed} rounds")
