"""Creates accounts, conversations and histories, the same for every server, by SQL."""

from dataclasses import dataclass

import asyncpg

USERS = 5_200


@dataclass(frozen=True, slots=True)
class Rooms:
    """Consecutive conversations: `count` of them from number `first`, each with `messages` stored messages.

    Each has `members` users of its own or, if `shared`, users 0 to `members` - 1.
    """

    first: int
    count: int
    members: int
    shared: bool = False
    messages: int = 0


_USER = "('00000000-0000-7000-8000-' || lpad(to_hex({0}), 12, '0'))::uuid"
_ROOM = "('00000000-0000-7000-9000-' || lpad(to_hex({0}), 12, '0'))::uuid"
_CONTENT = "'A message of the history, about as long as people write them: ' || n"
# A random id (version 4), as servers use that do not sort by it.
_MESSAGE_ID = "gen_random_uuid()"

_HAS_COLUMN = """
    SELECT count(*) FROM information_schema.columns WHERE table_name = 'conversations' AND column_name = $1
"""
_COUNT_MEMBERS = """
    UPDATE conversations SET member_count = members.count
    FROM (SELECT conversation_id, count(*) FROM conversation_users GROUP BY conversation_id) members
    WHERE members.conversation_id = conversations.id
"""


async def fill(connection: asyncpg.Connection, rooms: list[Rooms], *, ours: bool = False) -> None:
    """Fills an empty database.

    Args:
        connection: to that database, which has its schema.
        rooms: the conversations.
        ours: the schema is this product's; otherwise the specification's.
    """
    async with connection.transaction():
        await connection.execute(_users(ours=ours))
        for some in rooms:
            await connection.execute(_conversations(some, ours=ours))
            await connection.execute(_members(some, ours=ours))
            if some.messages:
                await connection.execute(_messages(some, ours=ours))
        # Older trees have no such columns.
        if await connection.fetchval(_HAS_COLUMN, "member_count"):
            await connection.execute(_COUNT_MEMBERS)
        if await connection.fetchval(_HAS_COLUMN, "message_rev"):
            await connection.execute("UPDATE conversations SET message_rev = last_rev")
    await connection.execute("VACUUM ANALYZE")


def _users(*, ours: bool) -> str:
    user = _USER.format("n")
    if ours:
        return (
            "INSERT INTO users (id, username, username_key, created_at, updated_at) "
            f"SELECT {user}, 'user' || n, 'user' || n, now(), now() FROM generate_series(0, {USERS - 1}) n"
        )
    return f"INSERT INTO users (id, username) SELECT {user}, 'user' || n FROM generate_series(0, {USERS - 1}) n"


def _conversations(rooms: Rooms, *, ours: bool) -> str:
    numbers = f"generate_series({rooms.first}, {rooms.first + rooms.count - 1}) r"
    columns, values = "id, name, is_group, created_at, updated_at", f"{_ROOM.format('r')}, 'room', true, now(), now()"
    if ours:
        columns += ", owner_id, last_seq, last_rev"
        values += f", {_USER.format(first_user(rooms))}, {rooms.messages}, {rooms.messages}"
    return f"INSERT INTO conversations ({columns}) SELECT {values} FROM {numbers}"


def first_user(rooms: Rooms) -> str:
    """Returns the SQL expression of the number of the first member of conversation `r`."""
    return "0" if rooms.shared else f"(r - {rooms.first}) * {rooms.members}"


def _members(rooms: Rooms, *, ours: bool) -> str:
    columns, moment = ("conversation_id, user_id, joined_at", ", now()") if ours else ("conversation_id, user_id", "")
    return (
        f"INSERT INTO conversation_users ({columns}) "
        f"SELECT {_ROOM.format('r')}, {_USER.format(f'({first_user(rooms)} + m)')}{moment} "
        f"FROM generate_series({rooms.first}, {rooms.first + rooms.count - 1}) r, "
        f"generate_series(0, {rooms.members - 1}) m"
    )


def _messages(rooms: Rooms, *, ours: bool) -> str:
    moment = f"now() - make_interval(secs => {rooms.messages} - n)"
    columns = "id, conversation_id, sender_id, content, is_edited, created_at, updated_at"
    values = (
        f"{_MESSAGE_ID}, {_ROOM.format('r')}, {_USER.format(first_user(rooms))}, {_CONTENT}, false, {moment}, {moment}"
    )
    if ours:
        columns, values = columns + ", seq, rev", values + ", n, n"
    return (
        f"INSERT INTO messages ({columns}) SELECT {values} "
        f"FROM generate_series({rooms.first}, {rooms.first + rooms.count - 1}) r, "
        f"generate_series(1, {rooms.messages}) n ORDER BY n"
    )
