"""References of messages hold without foreign keys: no message lacks its conversation or its sender."""

from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest
import trio
from psycopg import errors as pg

from pulse_trio.database.schema import migrate
from pulse_trio.ids import IdSource
from pulse_trio.store.base import NotAMember, User
from pulse_trio.store.postgres.posts import _POST
from tests.contract.people import People
from tests.integration.database.test_schema import query, take_back
from tests.integration.store.test_postgres_store import open_store
from tests.support.cluster import Cluster
from tests.support.commands import START, leave, post

LIMIT = 60  # seconds
BEFORE = "0005"
ORPHANS = """
    SELECT count(*) FROM messages m
    WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = m.sender_id)
        OR NOT EXISTS (SELECT FROM conversations c WHERE c.id = m.conversation_id)
"""


@pytest.fixture
def conninfo(cluster: Cluster) -> Iterator[str]:
    """A database of its own."""
    conninfo = cluster.new_database()
    yield conninfo
    cluster.drop_database(conninfo)


async def fill(conninfo: str) -> tuple[list[User], UUID]:
    """Stores a message of each of two users of a group; the second one leaves. A third one is in no group."""
    with trio.fail_after(LIMIT):
        async with open_store(conninfo) as store:
            people = People(store)
            users = await people.users("alice", "bob", "carol")
            group = await people.group(*users[:2])
            for user in users[:2]:
                await people.send(group, user, "hello")
            await store.apply([leave(group, users[1])])
    return users, group


def orphans(conninfo: str) -> int:
    return int(query(conninfo, ORPHANS)[0][0])


@pytest.mark.parametrize("number", [0, 1], ids=["a member", "one who left"])
async def test_a_user_with_messages_cannot_be_deleted(conninfo: str, number: int) -> None:
    """Also if every other reference to the user is taken away before."""
    users, _ = await fill(conninfo)
    with psycopg.connect(conninfo) as connection:
        connection.execute("DELETE FROM conversation_users WHERE user_id = %s", (users[number].id,))
        connection.execute("DELETE FROM former_members WHERE user_id = %s", (users[number].id,))
        connection.execute("UPDATE conversations SET owner_id = %s", (users[2].id,))
        with pytest.raises(pg.ForeignKeyViolation, match="messages"):
            connection.execute("DELETE FROM users WHERE id = %s", (users[number].id,))
        connection.rollback()
        connection.execute("DELETE FROM users WHERE id = %s", (users[2].id,))
    assert query(conninfo, "SELECT count(*) FROM users") == [(2,)]
    assert orphans(conninfo) == 0


async def test_the_messages_of_a_conversation_are_deleted_with_it(conninfo: str) -> None:
    """The search_path of the session does not matter."""
    _, group = await fill(conninfo)
    with psycopg.connect(conninfo) as connection:
        connection.execute("SET search_path = pg_catalog")
        connection.execute("DELETE FROM public.conversations WHERE id = %s", (group,))
    assert query(conninfo, "SELECT count(*) FROM messages") == [(0,)]


async def test_the_messages_are_truncated_with_the_conversations(conninfo: str) -> None:
    await fill(conninfo)
    with psycopg.connect(conninfo) as connection:
        connection.execute("TRUNCATE users CASCADE")
    assert query(conninfo, "SELECT count(*) FROM messages") == [(0,)]


@pytest.mark.parametrize("table", ["users", "conversations"])
async def test_the_id_of_what_messages_refer_to_stays(conninfo: str, table: str) -> None:
    await fill(conninfo)
    with psycopg.connect(conninfo) as connection:
        for key in ("conversation_users", "former_members", "conversations"):
            for (name,) in connection.execute(
                "SELECT conname FROM pg_constraint WHERE contype = 'f' AND conrelid = %s::regclass", (key,)
            ).fetchall():
                connection.execute(f'ALTER TABLE {key} DROP CONSTRAINT "{name}"')  # type: ignore[arg-type]
        with pytest.raises(pg.ForeignKeyViolation, match="messages"):
            connection.execute(f"UPDATE {table} SET id = gen_random_uuid()")  # type: ignore[arg-type]


async def test_a_conversation_deleted_while_messages_are_stored(conninfo: str) -> None:
    """The one that has the row's lock first is first; no message stays behind."""
    with trio.fail_after(LIMIT):
        async with open_store(conninfo) as store:
            people = People(store)
            alice = await people.user("alice")
            for _ in range(10):
                group = await people.group(alice)
                outcomes: list[object] = []

                async def send(group: UUID, count: int, outcomes: list[object]) -> None:
                    outcomes += await store.apply([post(group, alice) for _ in range(count)])

                async def delete(group: UUID) -> None:
                    async with store.connection() as connection:
                        await connection.execute("DELETE FROM conversations WHERE id = %s", (group,))

                async with trio.open_nursery() as nursery:
                    for count in (1, 3):
                        nursery.start_soon(send, group, count, outcomes)
                    nursery.start_soon(delete, group)
                    for count in (1, 3):
                        nursery.start_soon(send, group, count, outcomes)
                assert len(outcomes) == 8
                assert isinstance((await store.apply([post(group, alice)]))[0], NotAMember)
    assert query(conninfo, "SELECT count(*) FROM messages") == [(0,)]


@pytest.mark.parametrize("count", [1, 3])
async def test_nobody_sends_without_a_membership(conninfo: str, count: int) -> None:
    """The sender is no user, the conversation does not exist, or neither."""
    users, group = await fill(conninfo)
    new_id = IdSource()
    with trio.fail_after(LIMIT):
        async with open_store(conninfo) as store:
            for place, sender in ((group, new_id()), (new_id(), users[0].id), (new_id(), new_id())):
                outcomes = await store.apply([post(place, sender) for _ in range(count)])
                assert [type(outcome) for outcome in outcomes] == [NotAMember] * count
    assert orphans(conninfo) == 0


async def test_the_migration_rewrites_nothing_and_can_be_taken_back(conninfo: str) -> None:
    users, group = await fill(conninfo)
    take_back(conninfo, BEFORE)
    with (
        psycopg.connect(conninfo) as connection,
        pytest.raises(pg.ForeignKeyViolation, match="messages_sender_id_fkey"),
    ):
        connection.execute("UPDATE messages SET sender_id = gen_random_uuid()")
    files = "SELECT relname, relfilenode FROM pg_class WHERE relkind IN ('r', 'i') AND relname !~ '^pg_' ORDER BY 1"
    before = query(conninfo, files)
    assert migrate(conninfo)[0] == BEFORE
    assert set(before) <= set(query(conninfo, files)), "later migrations only add to it"
    # A process of the version before that still runs stores its messages by this statement.
    values = {"ids": [IdSource()()], "conversations": [group], "senders": [users[0].id]}
    values |= {"contents": ["old"], "client_ids": ["c"], "times": [START]}  # type: ignore[dict-item]
    with psycopg.connect(conninfo) as connection:
        assert len(connection.execute(_POST, values).fetchall()) == 1
    assert query(conninfo, "SELECT count(*) FROM messages") == [(3,)]
