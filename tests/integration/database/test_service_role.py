"""The service's role in an embedded PostgreSQL: it owns the database, new or old, and has no right beside that."""

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pulse_trio.database.schema import migrate
from pulse_trio.database.service_role import DATABASE, SERVICE_ROLE, SUPERUSER
from tests.support.cluster import Cluster

# All objects that are not PostgreSQL's own, by kind and owner.
OWNERS = """
    WITH object (kind, owner, namespace) AS (
        SELECT relkind::text, relowner, relnamespace FROM pg_class
        UNION SELECT 'function', proowner, pronamespace FROM pg_proc
        UNION SELECT 'type', typowner, typnamespace FROM pg_type
        UNION SELECT 'schema', nspowner, oid FROM pg_namespace WHERE nspname <> 'public'
    )
    SELECT kind, owner::regrole::text FROM object WHERE namespace::regnamespace::text !~ '^(pg_|information_schema$)'
    UNION SELECT 'database', datdba::regrole::text FROM pg_database WHERE datname = current_database()
"""


def owners(conninfo: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    with psycopg.connect(conninfo) as connection:
        for kind, owner in connection.execute(OWNERS):
            found.setdefault(kind, set()).add(owner)
    return found


@pytest.mark.parametrize(
    "statement",
    [
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('postgresql.conf')",
        "SELECT pg_ls_dir('.')",
        "ALTER SYSTEM SET fsync = off",
        "CREATE ROLE another SUPERUSER",
        "ALTER ROLE pulse_service SUPERUSER",
        "SET ROLE pulse",
        "CREATE DATABASE another",
        "CREATE FUNCTION f() RETURNS void LANGUAGE c AS 'libc', 'system'",
    ],
)
def test_the_service_has_no_right_beside_its_database(cluster: Cluster, statement: str) -> None:
    conninfo = cluster.server.conninfo
    assert conninfo_to_dict(conninfo)["user"] == SERVICE_ROLE
    with psycopg.connect(conninfo, autocommit=True) as connection:
        assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (False,)
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFunction)):
            connection.execute(statement)


def test_what_the_superuser_of_an_older_version_made_is_handed_over(own_cluster: Cluster) -> None:
    migrate(own_cluster.conninfo)
    with psycopg.connect(own_cluster.conninfo, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE serial (n serial, m int GENERATED ALWAYS AS IDENTITY)",
            "CREATE VIEW view AS SELECT 1 AS n",
            "CREATE MATERIALIZED VIEW materialized AS SELECT 1 AS n",
            "CREATE TYPE kind AS ENUM ('a')",
            "CREATE TYPE pair AS (a int, b int)",
            "CREATE DOMAIN small AS int CHECK (VALUE < 10)",
            'CREATE FUNCTION "an odd ""name"(small) RETURNS int LANGUAGE sql AS \'SELECT 1\'',
            'CREATE SCHEMA "Mine"',
            'CREATE TABLE "Mine"."a table" (n int)',
            # A function that would run in place of PostgreSQL's own, if the superuser looked for one here.
            "CREATE FUNCTION format(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT (1 / 0)::text'",
            f"ALTER DATABASE {DATABASE} OWNER TO {SUPERUSER}",
            f"DROP ROLE {SERVICE_ROLE}",
        ):
            connection.execute(statement)  # type: ignore[arg-type]
    before = owners(own_cluster.conninfo)
    assert len(before) >= 10
    assert all(names == {SUPERUSER} for names in before.values()), "or this shows nothing"
    for _ in range(2):
        own_cluster.stop()
        own_cluster.start()
        assert owners(own_cluster.server.conninfo) == {kind: {SERVICE_ROLE} for kind in before}
    assert migrate(own_cluster.server.conninfo)[0] is not None
    with psycopg.connect(own_cluster.server.conninfo, autocommit=True) as connection:
        connection.execute("ALTER TABLE messages ADD COLUMN later int")
        connection.execute("INSERT INTO serial DEFAULT VALUES")
