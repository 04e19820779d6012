"""Many users and large groups, written straight into a database: over REST they would take minutes."""

from collections.abc import Sequence
from typing import Any, TypeAlias
from uuid import UUID

import psycopg

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


def user_id(number: int) -> UUID:
    return UUID(int=number)


def conversation_id(number: int) -> UUID:
    return UUID(int=2**124 + number)


def prepare(connection: Connection) -> None:
    """Gives SQL the ids of `user_id` and `conversation_id`, and keeps statistics as the test makes them."""
    connection.execute(
        """
        CREATE FUNCTION person(n bigint) RETURNS uuid IMMUTABLE
            RETURN lpad(to_hex(n), 32, '0')::uuid;
        CREATE FUNCTION room(n bigint) RETURNS uuid IMMUTABLE
            RETURN ('1' || lpad(to_hex(n), 31, '0'))::uuid;
        ALTER TABLE conversation_users SET (autovacuum_enabled = false);
        ALTER TABLE conversations SET (autovacuum_enabled = false);
        """
    )


def add_users(connection: Connection, first: int, last: int) -> None:
    connection.execute(
        """
        INSERT INTO users (id, username, username_key, created_at, updated_at)
        SELECT person(n), 'user' || n, 'user' || n, now(), now() FROM generate_series(%s::bigint, %s::bigint) n
        """,
        (first, last),
    )


def add_groups(connection: Connection, first: int, last: int, members: Sequence[int], *, step: int = 0) -> None:
    """Groups with such members; in each group after the first one all of them are `step` further on."""
    connection.execute(
        """
        INSERT INTO conversations (id, name, is_group, owner_id, created_at, updated_at, member_count)
        SELECT room(n), 'Group ' || n, true, person(%s), now(), now(), %s
        FROM generate_series(%s::bigint, %s::bigint) n
        """,
        (members[0], len(members), first, last),
    )
    connection.execute(
        """
        INSERT INTO conversation_users (conversation_id, user_id, joined_at)
        SELECT room(n), person(m + (n - %s) * %s), now()
        FROM generate_series(%s::bigint, %s::bigint) n, unnest(%s::bigint[]) WITH ORDINALITY AS m (m, place)
        ORDER BY place, n
        """,
        (first, step, first, last, list(members)),
    )


def join_groups(connection: Connection, first: int, last: int, user: UUID | str) -> None:
    """Adds a user to groups, as their newest member."""
    connection.execute(
        """
        INSERT INTO conversation_users (conversation_id, user_id, joined_at)
        SELECT room(n), %s, now() FROM generate_series(%s::bigint, %s::bigint) n
        """,
        (user, first, last),
    )
    connection.execute(
        "UPDATE conversations SET member_count = member_count + 1 WHERE id BETWEEN room(%s) AND room(%s)", (first, last)
    )
