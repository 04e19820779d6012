"""The schema is migrated once, all or nothing; the epoch distinguishes histories."""

import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.command import downgrade
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from pulse_trio.database import schema
from pulse_trio.database.schema import MIGRATION_LOCK, establish_epoch, migrate, renew_epoch, revisions
from pulse_trio.errors import LaunchError
from tests.support.cluster import Cluster

LIMIT = 30  # seconds
SCRIPTS = Path(__file__).resolve().parents[3] / "migrations"


@pytest.fixture
def fresh(cluster: Cluster) -> str:
    """An empty database."""
    return cluster.new_database(migrated=False)


def query(conninfo: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def schema_of(conninfo: str) -> list[tuple[Any, ...]]:
    return query(
        conninfo,
        """
        SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
        WHERE table_schema = 'public' ORDER BY 1, 2
        """,
    )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    return config


def take_back(conninfo: str, revision: str) -> None:
    """Downgrades the schema."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo), poolclass=NullPool)
    config = _config()
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        downgrade(config, revision)
        connection.commit()
    engine.dispose()


def test_fresh_database_gets_the_schema(fresh: str) -> None:
    before, after = migrate(fresh)
    assert before is None
    assert query(fresh, "SELECT version_num FROM alembic_version") == [(after,)]
    tables = {row[0] for row in schema_of(fresh)}
    ours = {
        "users",
        "conversations",
        "conversation_users",
        "former_members",
        "messages",
        "history",
        "tickets",
        "attempt_buckets",
        "process_leases",
    }
    assert tables == {"alembic_version", *ours}


def test_migration_files_sort_in_their_order() -> None:
    """The newest revision is found without Alembic."""
    newest_first = [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]
    assert revisions(SCRIPTS) == newest_first[::-1]


def test_alembic_is_loaded_only_to_migrate(database: str) -> None:
    """Its import takes half a second and 30 MB."""
    program = f"""
        import sys, pulse_trio.database.schema
        pulse_trio.database.schema.migrate({database!r})
        sys.exit(sorted({{"alembic", "sqlalchemy"}} & set(sys.modules)) or None)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=LIMIT
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_second_migration_changes_nothing(fresh: str) -> None:
    _, head = migrate(fresh)
    query(fresh, "INSERT INTO history (epoch, server) VALUES ('kept', 'here')")
    before = schema_of(fresh)
    assert migrate(fresh) == (head, head)
    assert schema_of(fresh) == before
    assert query(fresh, "SELECT epoch FROM history") == [("kept",)]


def test_messages_before_read_positions_count_as_read(fresh: str) -> None:
    migrate(fresh)
    take_back(fresh, "0001")
    query(
        fresh,
        """
        INSERT INTO users (id, username, username_key, created_at, updated_at)
        SELECT ('00000000-0000-0000-0000-00000000000' || n)::uuid, n, n, now(), now() FROM generate_series(1, 2) n;
        INSERT INTO conversations (id, is_group, owner_id, created_at, updated_at, last_seq, last_rev)
        SELECT ('00000000-0000-0000-0000-00000000001' || n)::uuid, true, u.id, now(), now(), n * 7, n * 9
        FROM generate_series(0, 1) n, users u WHERE username = '1';
        INSERT INTO conversation_users (conversation_id, user_id, joined_at)
        SELECT c.id, u.id, now() FROM conversations c, users u
        """,
    )
    assert migrate(fresh)[0] == "0001"
    assert query(fresh, "SELECT read_seq, count(*) FROM conversation_users GROUP BY 1 ORDER BY 1") == [(0, 2), (7, 2)]
    assert query(fresh, "SELECT last_seen_at FROM users") == [(None,), (None,)]


def test_migration_counts_existing_members(fresh: str) -> None:
    migrate(fresh)
    take_back(fresh, "0003")
    query(
        fresh,
        """
        INSERT INTO users (id, username, username_key, created_at, updated_at)
        SELECT ('00000000-0000-0000-0000-00000000000' || n)::uuid, n, n, now(), now() FROM generate_series(1, 3) n;
        INSERT INTO conversations (id, is_group, owner_id, created_at, updated_at)
        SELECT ('00000000-0000-0000-0000-00000000001' || n)::uuid, true, u.id, now(), now()
        FROM generate_series(0, 3) n, users u WHERE username = '1';
        INSERT INTO conversation_users (conversation_id, user_id, joined_at)
        SELECT c.id, u.id, now() FROM conversations c, users u WHERE right(u.id::text, 1) <= right(c.id::text, 1)
        """,
    )
    assert migrate(fresh)[0] == "0003"
    counts = query(fresh, "SELECT member_count FROM conversations ORDER BY id")
    assert counts == [(0,), (1,), (2,), (3,)]


def test_concurrent_processes_migrate_once(fresh: str) -> None:
    together = threading.Barrier(4)

    def run(_: int) -> tuple[str | None, str]:
        together.wait(LIMIT)
        return migrate(fresh)

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(run, range(4)))
    head = results[0][1]
    assert sorted(results, key=str) == sorted([(None, head)] + [(head, head)] * 3, key=str)


def test_migration_waits_for_another_one(fresh: str) -> None:
    with ThreadPoolExecutor(1) as threads, psycopg.connect(fresh, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        running = threads.submit(migrate, fresh)
        waiting: tuple[Any, ...] | None = None
        while waiting is None:
            assert not running.done()
            waiting = other.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchone()
        assert schema_of(fresh) == []
        other.execute("SELECT pg_advisory_unlock(%s)", (MIGRATION_LOCK,))
        assert running.result(LIMIT)[0] is None


@contextmanager
def migrating(conninfo: str) -> Iterator[psycopg.Connection]:
    """Holds the migration lock in another session."""
    with psycopg.connect(conninfo, autocommit=True, application_name="the other") as other:
        other.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        yield other


def test_waiting_for_another_migration_is_reported(fresh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_REPORT_AFTER", 0.05)
    lines: list[str] = []
    with migrating(fresh) as other:

        def report(line: str) -> None:
            lines.append(line)
            other.execute("SELECT pg_advisory_unlock(%s)", (MIGRATION_LOCK,))

        assert migrate(fresh, wait=LIMIT, on_wait=report)[0] is None
        assert lines == [
            f"waiting for another session that migrates the database (pid {other.info.backend_pid}, the other)"
        ]


def test_waiting_for_another_migration_times_out(fresh: str) -> None:
    with migrating(fresh) as other:
        with pytest.raises(LaunchError, match=rf"more than 0.1 seconds \(pid {other.info.backend_pid}, the other\)"):
            migrate(fresh, wait=0.1)
        assert schema_of(fresh) == []
    migrate(fresh, wait=0.1)


def test_waiting_for_a_table_times_out_and_changes_nothing(fresh: str) -> None:
    migrate(fresh)
    take_back(fresh, "0001")
    before = schema_of(fresh)
    with psycopg.connect(fresh) as other:
        other.execute("LOCK TABLE users, conversation_users")
        with pytest.raises(LaunchError, match=r"^a migration waited 0\.1 seconds for a table that other sessions use"):
            migrate(fresh, wait=0.1)
    assert schema_of(fresh) == before
    assert migrate(fresh)[0] == "0001"


def test_newer_schema_is_rejected_in_one_line(database: str) -> None:
    query(database, "UPDATE alembic_version SET version_num = '9999'")
    before = schema_of(database)
    with pytest.raises(
        LaunchError, match=r"^the database has schema 9999, newer than this version's \d+: .*$"
    ) as caught:
        migrate(database)
    assert "\n" not in str(caught.value)
    assert query(database, "SELECT version_num FROM alembic_version") == [("9999",)]
    assert schema_of(database) == before


def test_failed_migration_changes_nothing(fresh: str) -> None:
    """The database of another program has a table with the name of our last one."""
    query(fresh, "CREATE TABLE history (theirs int)")
    with pytest.raises(LaunchError, match=r'^a migration failed: .*"history" already exists.*$') as caught:
        migrate(fresh)
    assert "\n" not in str(caught.value)
    assert [row for row in schema_of(fresh) if row[0] != "alembic_version"] == [
        ("history", "theirs", "integer", "YES", None)
    ]
    query(fresh, "DROP TABLE history")
    assert migrate(fresh)[0] is None
    assert establish_epoch(fresh)


def test_missing_right_to_create_tables_is_one_line(fresh: str) -> None:
    query(fresh, "CREATE ROLE weak LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    try:
        options = "-c role=weak"
        with pytest.raises(LaunchError, match=r"^a migration failed: permission denied for schema public$"):
            migrate(make_conninfo(fresh, options=options))
    finally:
        query(fresh, "DROP ROLE weak")
    assert schema_of(fresh) == []


def test_missing_database_is_the_drivers_error(fresh: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        migrate(make_conninfo(fresh, dbname="nowhere"))


# --- the epoch ---


def test_epoch_is_kept_until_renewed(database: str) -> None:
    first = establish_epoch(database)
    assert first
    assert establish_epoch(database) == first
    renew_epoch(database)
    second = establish_epoch(database)
    assert second not in {"", first}
    assert establish_epoch(database) == second


def test_copy_of_a_database_has_another_epoch(cluster: Cluster, database: str) -> None:
    first = establish_epoch(database)
    name = str(conninfo_to_dict(database)["dbname"])
    copy = f"{name}_copy"
    with psycopg.connect(cluster.conninfo, autocommit=True) as connection:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        connection.execute(create.format(sql.Identifier(copy), sql.Identifier(name)))
    second = establish_epoch(make_conninfo(database, dbname=copy))
    assert second != first
    assert establish_epoch(database) == first
