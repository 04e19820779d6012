"""The service's role in an embedded PostgreSQL: it owns the database and all that is in it, and is no superuser.

So neither a restored dump nor a hole in a statement can read files, run programs or change the server. The superuser
made by initdb is used here only, at each start. In data folders of older versions it owns everything: the first start
hands that over, and so does any other start that finds something of it (an older version ran in between).
"""

from typing import Final

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

SUPERUSER: Final = "pulse"
SERVICE_ROLE: Final = "pulse_service"
DATABASE: Final = "pulse"

# Functions and operators of the service's role never run in the superuser's session.
_SAFE: Final = "-c search_path=pg_catalog"
_OWNER: Final = """
    SELECT rolname FROM pg_database JOIN pg_roles ON pg_roles.oid = datdba WHERE datname = %s
"""
# One statement for each object of the superuser. A sequence of a column follows its table.
_HAND_OVER: Final = f"""
    WITH object (kind, name, class, oid, namespace, owner) AS (
        SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
                WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END,
            oid::regclass::text, 'pg_class'::regclass, oid, relnamespace, relowner
        FROM pg_class
        WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'c', 'S') AND NOT EXISTS (
            SELECT FROM pg_depend
            WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND relkind = 'S' AND deptype IN ('a', 'i')
        )
        UNION ALL
        SELECT 'ROUTINE', oid::regprocedure::text, 'pg_proc'::regclass, oid, pronamespace, proowner FROM pg_proc
        UNION ALL
        SELECT 'TYPE', oid::regtype::text, 'pg_type'::regclass, oid, typnamespace, typowner
        FROM pg_type WHERE typtype IN ('d', 'e', 'r')
        UNION ALL
        SELECT 'SCHEMA', quote_ident(nspname), 'pg_namespace'::regclass, oid, oid, nspowner FROM pg_namespace
    )
    SELECT format('ALTER %s %s OWNER TO {SERVICE_ROLE}', kind, name)
    FROM object JOIN pg_namespace AS schema ON schema.oid = object.namespace
    WHERE owner = (SELECT oid FROM pg_roles WHERE rolname = '{SUPERUSER}')
        AND nspname !~ '^pg_' AND nspname <> 'information_schema'
        AND NOT EXISTS (
            SELECT FROM pg_depend AS extension
            WHERE extension.classid = class AND extension.objid = object.oid AND extension.deptype = 'e'
        )
"""  # noqa: S608  # our own text


def prepare_database(host: str, port: str) -> str:
    """Makes the role and its database where they are missing; returns the role's connection string.

    Changes nothing on a standby, which has what its primary has.

    Args:
        host: the folder of the server's socket.
        port: the number in the socket's name.

    Raises:
        psycopg.OperationalError: the server does not answer yet.
    """
    superuser = make_conninfo(host=host, port=port, user=SUPERUSER, options=_SAFE)
    role, database = sql.Identifier(SERVICE_ROLE), sql.Identifier(DATABASE)
    service = make_conninfo(host=host, port=port, user=SERVICE_ROLE, dbname=DATABASE)
    with psycopg.connect(superuser, dbname="postgres", autocommit=True) as connection:
        if connection.execute("SELECT WHERE pg_is_in_recovery()").fetchone() is not None:
            return service
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (SERVICE_ROLE,)).fetchone() is None:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
        owner = connection.execute(_OWNER, (DATABASE,)).fetchone()
        if owner is None:
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
        elif owner[0] == SUPERUSER:
            connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, role))
    with psycopg.connect(superuser, dbname=DATABASE) as connection:  # in one transaction
        for (statement,) in connection.execute(_HAND_OVER).fetchall():
            connection.execute(statement)
    return service
