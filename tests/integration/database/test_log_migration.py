"""A populated database of the schema before gets one log of changes, is right at once, and can be taken back."""

from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

import psycopg
import pytest
import trio

from pulse_trio.database.schema import migrate
from pulse_trio.model import Kind, Member, Properties
from pulse_trio.store.base import LISTED_MEMBERS, SHOWN_MEMBERS, Head, ReadMark, ReadState, User
from tests.contract.people import messages
from tests.integration.database.test_schema import query, take_back
from tests.integration.store.test_postgres_store import open_store
from tests.support.cluster import Cluster
from tests.support.commands import add, carry_out, changed_message, delete, edit, leave, post, remove, set_properties

LIMIT: Final = 120  # seconds
BEFORE: Final = "0004"
MEMBERS: Final = 5_000  # of the large group
PAIRS: Final = 1_000  # one-to-ones of one user
MESSAGES: Final = 100_000
REVS: Final = MESSAGES + MESSAGES // 10  # every tenth message was edited
GROUP: Final = UUID(int=1)
HASH: Final = "SELECT md5(string_agg(t::text, '|' ORDER BY id)) FROM (SELECT {columns} FROM messages) t"
OLD_COLUMNS: Final = (
    "id, conversation_id, sender_id, content, is_edited, is_deleted, created_at, updated_at, seq, rev, client_id"
)


def person(number: int) -> User:
    return User(UUID(int=1_000_000 + number), f"user{number}")


@pytest.fixture(scope="module")
def template(cluster: Cluster) -> str:
    """A populated database of the schema before, written by SQL that knows nothing of today's."""
    conninfo = cluster.new_database(migrated=False)
    migrate(conninfo)
    take_back(conninfo, BEFORE)
    with psycopg.connect(conninfo) as connection:
        connection.execute(
            """
            CREATE FUNCTION id(n bigint) RETURNS uuid IMMUTABLE RETURN lpad(to_hex(n), 32, '0')::uuid;
            CREATE FUNCTION person(n bigint) RETURNS uuid IMMUTABLE RETURN id(1000000 + n);
            """
        )
        numbers = {"members": MEMBERS, "pairs": PAIRS, "messages": MESSAGES, "revs": REVS}
        for statement in (
            """
            INSERT INTO users (id, username, username_key, created_at, updated_at)
            SELECT person(n), 'user' || n, 'user' || n, now(), now() FROM generate_series(1, %(members)s::bigint) n
            """,
            """
            INSERT INTO conversations
                (id, name, is_group, owner_id, created_at, updated_at, last_seq, last_rev, members_version,
                member_count)
            VALUES (id(1), 'Large', true, person(1), '2026-01-01', '2026-02-01', %(messages)s, %(revs)s, 7,
                %(members)s)
            """,
            # Those of one user: the one with the lowest number was changed last; two have the same time.
            """
            INSERT INTO conversations (id, is_group, direct_key, owner_id, created_at, updated_at, member_count)
            SELECT id(1 + n), false, person(1) || ':' || person(1 + n), person(1), '2026-01-01',
                '2026-01-31'::timestamptz - n / 2 * interval '1 minute', 2
            FROM generate_series(1, %(pairs)s::bigint) n
            """,
            """
            INSERT INTO conversation_users (conversation_id, user_id, joined_at, read_seq)
            SELECT id(1), person(n), now(), n FROM generate_series(1, %(members)s::bigint) n ORDER BY n
            """,
            """
            INSERT INTO conversation_users (conversation_id, user_id, joined_at)
            SELECT id(1 + n), person(m), now()
            FROM generate_series(1, %(pairs)s::bigint) n, unnest(ARRAY[1, 1 + n]) m ORDER BY n
            """,
            """
            INSERT INTO messages
                (id, conversation_id, sender_id, content, created_at, updated_at, seq, rev, client_id, is_edited,
                revision_id)
            SELECT id(2000000 + n), id(1), person(1 + n %% %(members)s), 'message ' || n, now(), now(), n,
                CASE WHEN n %% 10 = 0 THEN %(messages)s + n / 10 ELSE n END, 'c' || n, n %% 10 = 0,
                CASE WHEN n %% 10 = 0 THEN id(3000000 + n) END
            FROM generate_series(1, %(messages)s::bigint) n
            """,
            "INSERT INTO history (epoch, server) VALUES ('kept', 'here')",
        ):
            connection.execute(statement, numbers)
    return conninfo


@pytest.fixture
def populated(cluster: Cluster, template: str) -> Iterator[str]:
    """A copy of the populated database."""
    conninfo = cluster.copy_database(template)
    yield conninfo
    cluster.drop_database(conninfo)


def files_of(conninfo: str) -> dict[str, Any]:
    """Returns the file of each table; rewriting a table gives it another one."""
    return dict(query(conninfo, "SELECT relname, relfilenode FROM pg_class WHERE relkind = 'r' AND relname !~ '^pg_'"))


async def test_a_populated_database_reads_right_after_the_migration(populated: str) -> None:
    before = query(populated, HASH.format(columns=OLD_COLUMNS))
    files, size = files_of(populated), query(populated, "SELECT pg_relation_size('messages')")
    assert migrate(populated)[0] == BEFORE
    assert query(populated, HASH.format(columns=OLD_COLUMNS)) == before
    rewritten = {table for table, file in files_of(populated).items() if files.get(table, file) != file}
    assert rewritten == set()
    assert query(populated, "SELECT pg_relation_size('messages')") == size, "no row was written again"

    head = Head(MESSAGES, REVS, message_rev=REVS)
    one = person(1)
    with trio.fail_after(LIMIT):
        async with open_store(populated) as store:
            assert await store.head(GROUP) == head
            members = await store.members(GROUP)
            assert (members.ids, members.rev) == (tuple(person(n).id for n in range(1, MEMBERS + 1)), 0)
            memberships = await store.memberships(one.id)
            assert len(memberships.heads) == PAIRS + 1
            assert (memberships.heads[GROUP], memberships.user_rev) == (head, 0)
            seen = await store.get_conversation(GROUP, person(9).id)
            assert seen is not None
            assert (seen.name, seen.head, seen.member_count, len(seen.members)) == (
                "Large",
                head,
                MEMBERS,
                SHOWN_MEMBERS,
            )
            assert seen.read_seq == 9
            page = await store.page_messages(GROUP, one.id, limit=50, offset=MESSAGES // 2)
            assert [message.seq for message in page.messages] == list(range(MESSAGES // 2, MESSAGES // 2 - 50, -1))

            # All that a client may have missed is messages: nobody's membership has changed since.
            changed = await store.changes(GROUP, after_rev=MESSAGES - 2, kinds=Kind.ALL, limit=10)
            assert [change.rev for change in changed] == [MESSAGES - 1, *range(MESSAGES + 1, MESSAGES + 10)]
            assert await store.changes(GROUP, after_rev=0, kinds=Kind.MEMBER | Kind.CONVERSATION, limit=9) == []
            assert await store.user_changes(one.id, after_rev=0, limit=9) == []

            # The list is in the order of before, on pages of any size.
            listed: list[UUID] = []
            last: int | None = None
            while True:
                listing = await store.list_conversations(one.id, limit=150, before=last)
                assert listing.total == PAIRS + 1
                assert all(len(each.members) <= LISTED_MEMBERS for each in listing.conversations)
                listed += [each.id for each in listing.conversations]
                if listing.next_before is None:
                    break
                last = listing.next_before
            in_order = query(populated, "SELECT id FROM conversations ORDER BY updated_at DESC, id DESC")
            assert listed == [row[0] for row in in_order]


async def test_a_populated_database_takes_every_command_after_the_migration(populated: str) -> None:
    migrate(populated)
    one, two, three = person(1), person(2), person(3)
    with trio.fail_after(LIMIT):
        async with open_store(populated) as store:
            (message,) = messages(await store.apply([post(GROUP, two, "new")]))
            assert (message.seq, message.rev) == (MESSAGES + 1, REVS + 1)
            old = (await store.page_messages(GROUP, one.id, limit=1, before_seq=11)).messages[0]
            assert (old.seq, old.is_edited) == (10, True)
            edited = await changed_message(store, edit(old, person(11), "again"))
            deleted = await changed_message(store, delete(edited, one))
            assert (edited.rev, deleted.rev) == (REVS + 2, REVS + 3)

            (gone,) = await carry_out(store, remove(GROUP, one, three))
            assert isinstance(gone, Member)
            assert (gone.rev, gone.user_rev, gone.member_count) == (REVS + 4, 1, MEMBERS - 1)
            (back,) = await carry_out(store, add(GROUP, two, three, limit=MEMBERS))
            assert isinstance(back, Member)
            assert (back.rev, back.user_rev, back.member_count) == (REVS + 5, 2, MEMBERS)
            left, passed_on = await carry_out(store, leave(GROUP, one))
            assert isinstance(passed_on, Properties)
            assert (left.rev, passed_on.rev, passed_on.owner_id) == (REVS + 6, REVS + 7, two.id)
            (named,) = await carry_out(store, set_properties(GROUP, two, name="Larger"))
            assert named.rev == REVS + 8
            assert await store.mark_read([ReadMark(GROUP, two.id, 5)]) == [ReadState(5, MESSAGES + 1, 1)]
            log = await store.changes(GROUP, after_rev=REVS, kinds=Kind.ALL, limit=99)
            assert [change.rev for change in log] == [REVS + 1, REVS + 3, REVS + 5, REVS + 6, REVS + 8]
            listing = await store.list_conversations(three.id, limit=1)
            assert [each.id for each in listing.conversations] == [GROUP], "active after all that existed before"


async def test_the_migration_can_be_taken_back(populated: str) -> None:
    columns = """
        SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns
        WHERE table_schema = 'public' ORDER BY 1, 2
    """
    before, rows = query(populated, columns), query(populated, HASH.format(columns=OLD_COLUMNS))
    migrate(populated)
    assert query(populated, columns) != before
    take_back(populated, BEFORE)
    assert query(populated, columns) == before
    assert query(populated, HASH.format(columns=OLD_COLUMNS)) == rows
    assert query(populated, "SELECT relname FROM pg_class WHERE relname ~ '^conversation_activity|^former|_rev$'") == []

    # With changes of the new kinds, of which the schema before knows nothing.
    migrate(populated)
    with trio.fail_after(LIMIT):
        async with open_store(populated) as store:
            await carry_out(store, leave(GROUP, person(3)))
            await carry_out(store, post(GROUP, person(2), "last"))
    take_back(populated, BEFORE)
    assert query(populated, "SELECT last_seq, last_rev, member_count FROM conversations WHERE is_group") == [
        (MESSAGES + 1, REVS + 2, MEMBERS - 1)
    ]
    assert query(populated, "SELECT rev FROM messages WHERE content = 'last'") == [(REVS + 2,)]
    assert migrate(populated)[0] == BEFORE
    assert query(populated, "SELECT message_rev, members_rev FROM conversations WHERE is_group") == [(REVS + 2, 0)]


def test_an_empty_database_numbers_its_first_activity(database: str) -> None:
    assert query(database, "SELECT nextval('conversation_activity')") == [(1,)]
