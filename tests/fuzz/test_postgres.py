"""Several stores on one PostgreSQL keep their promises; the fuzz finds planted bugs."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest

from pulse_trio.model import SetProperties
from pulse_trio.store.base import Members, Outcome, ReadMark, ReadState
from pulse_trio.store.postgres import (
    PostgresStore,
    changes,
    member_changes,
    posts,
    read_positions,
    revisions,
)
from pulse_trio.store.postgres.callers import Caller
from pulse_trio.trio_psycopg import Statement
from tests.fuzz.round import fuzz
from tests.fuzz.stores import prepare
from tests.support.cluster import Cluster

SECONDS = 1.5  # per round
ROUNDS = 4
PLANTED_SECONDS = 60.0  # to find a planted bug; the first round finds most

OF_NOW = "AND c.members_rev = (SELECT members_rev FROM conversations WHERE id = $2)"

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
    rare = {"message", "revision", "joined", "left", "properties", "a refusal", "mark", "read", "members"}
    rare |= {"Edit", "Delete", "AddMembers", "RemoveMember", "Leave", "SetProperties", "refused: StaleRev"}
    rare |= {"several revisions", "repeated revisions"}
    assert not rare - set(counters), "never happened"


def _replace(patch: Patch, module: ModuleType, name: str, text: str, instead: str = "") -> None:
    statement = getattr(module, name)
    assert text in statement
    patch.setattr(module, name, statement.replace(text, instead))


def _replace_prepared(patch: Patch, name: str, text: str) -> None:
    statement = getattr(posts, name)
    changed = statement.text.decode().replace(text, "")
    assert changed != statement.text.decode()
    patch.setattr(posts, name, Statement(changed, *statement.types))


def single_post_trusts_its_snapshot(patch: Patch) -> None:
    _replace_prepared(patch, "_POST_ONE", OF_NOW)


def batch_of_a_room_trusts_its_snapshot(patch: Patch) -> None:
    _replace_prepared(patch, "_POST_ROOM", OF_NOW)


def batch_of_rooms_trusts_its_snapshot(patch: Patch) -> None:
    _replace_prepared(patch, "_POST_ROOMS", "AND locked.is_current")


def batch_post_trusts_its_snapshot(patch: Patch) -> None:
    patch.setattr(PostgresStore, "_post_fresh", _store_nothing)
    _replace(patch, posts, "_POST", "AND locked.is_current")
    _replace(patch, posts, "_POST", "WHERE NOT is_current", "WHERE false")


async def _store_nothing(*_: Any) -> dict[int, Any]:
    return {}


def edit_is_missing_in_the_head(patch: Patch) -> None:
    _replace(patch, revisions, "_REVISE", "message_rev = c.last_rev + counted.n", "message_rev = c.message_rev")


def edit_is_judged_before_the_lock(patch: Patch) -> None:
    under_locks = PostgresStore.all_under_locks

    async def wrong(self: PostgresStore, keys: Any, statements: Any, **options: Any) -> list[list[Any]]:
        if statements[0][0] == revisions._REVISE:
            return [await self.all(Caller.CHANGES, None, query, values) for query, values in statements]
        return await under_locks(self, keys, statements, **options)

    patch.setattr(PostgresStore, "all_under_locks", wrong)


def repeated_edit_is_judged_anew(patch: Patch) -> None:
    _replace(patch, revisions, "_REVISE", "WHEN old.is_repeat", "WHEN false")


def repeated_removal_is_judged_anew(patch: Patch) -> None:
    _replace(patch, member_changes, "_REMOVE", "WHEN %(id)s = ANY (target.command_ids)", "WHEN false")


def addition_forgets_earlier_commands(patch: Patch) -> None:
    _replace(patch, member_changes, "_ADD", "|| numbered.command_ids)")
    _replace(patch, member_changes, "_ADD", "(ARRAY[%(id)s] [:16]", "ARRAY[%(id)s]")


def removal_takes_no_number_of_the_user(patch: Patch) -> None:
    _replace(patch, member_changes, "_REMOVE", "SET last_rev = u.last_rev + 1", "SET last_rev = u.last_rev")


def mark_moves_a_position_back(patch: Patch) -> None:
    _replace(patch, read_positions, "_MARK_READ", "WHERE cu.read_seq < requested.seq", "WHERE requested.seq > 0")


def mark_locks_the_user_before_the_member(patch: Patch) -> None:
    mark_read = PostgresStore.mark_read
    lock = "SELECT FROM conversation_users WHERE conversation_id = ANY (%s) AND user_id = ANY (%s) FOR NO KEY UPDATE"

    async def wrong(self: PostgresStore, marks: Sequence[ReadMark]) -> list[ReadState | None]:
        users = [mark.user_id for mark in marks[:1]]
        async with self.connection() as connection, connection.pipeline():
            await connection.execute("SELECT FROM users WHERE id = ANY (%s) FOR NO KEY UPDATE", (users,))
            await connection.execute(lock, ([mark.conversation_id for mark in marks], users))
        return await mark_read(self, marks)

    patch.setattr(PostgresStore, "mark_read", wrong)


def properties_lock_conversations_in_any_order(patch: Patch) -> None:
    set_properties = PostgresStore._set_properties

    async def wrong(self: PostgresStore, command: SetProperties) -> Outcome:
        async with self.connection() as connection, connection.pipeline():
            for conversations in ("= %s", "<> %s"):
                statement = f"SELECT FROM conversations WHERE id {conversations} FOR NO KEY UPDATE"
                await connection.execute(statement, (command.conversation_id,))
        return await set_properties(self, command)

    patch.setattr(PostgresStore, "_set_properties", wrong)


def log_lacks_former_members(patch: Patch) -> None:
    statements = {kinds: text.replace("f.rev > %(after)s", "false") for kinds, text in changes._CHANGES.items()}
    patch.setattr(changes, "_CHANGES", statements)


def members_read_in_two_statements(patch: Patch) -> None:
    async def wrong(self: PostgresStore, conversation_id: UUID) -> Members:
        statement = "SELECT user_id FROM conversation_users WHERE conversation_id = %s"
        rows = await self.all(Caller.ROOMS, None, statement, (conversation_id,))
        head = await self.head(conversation_id)
        return Members(tuple(row[0] for row in rows), head.members_rev)

    patch.setattr(PostgresStore, "members", wrong)


BUGS: list[tuple[Callable[[Patch], None], str]] = [
    (single_post_trusts_its_snapshot, "nothing of a removed member is stored"),
    (batch_of_a_room_trusts_its_snapshot, "nothing of a removed member is stored"),
    (batch_of_rooms_trusts_its_snapshot, "nothing of a removed member is stored"),
    (batch_post_trusts_its_snapshot, "nothing of a removed member is stored"),
    (edit_is_missing_in_the_head, "the head is what is stored"),
    (edit_is_judged_before_the_lock, "nothing of a removed member is stored"),
    (repeated_edit_is_judged_anew, "a repeat changes nothing"),
    (repeated_removal_is_judged_anew, "a repeat changes nothing"),
    (addition_forgets_earlier_commands, "a repeat changes nothing"),
    (removal_takes_no_number_of_the_user, "a user's sequence has no gap"),
    (mark_moves_a_position_back, "a read position never goes back"),
    (mark_locks_the_user_before_the_member, "no deadlock"),
    (properties_lock_conversations_in_any_order, "no deadlock"),
    (log_lacks_former_members, "a reader misses nothing"),
    (members_read_in_two_statements, "members are as of their rev"),
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
