"""Creates accounts, rooms and members in the database of an XMPP server: ejabberd with its own schema."""

from pathlib import Path

import asyncpg

from benchmarks.identities import XMPP_DOMAIN, XMPP_ROOMS
from benchmarks.provision import USERS, Rooms, first_user

SCHEMA = Path("/usr/share/ejabberd/sql/pg.sql")  # of Debian's package

# A room's options are a term of Erlang. Only members may enter, as only members may read in the other servers.
_OPTIONS = (
    "[{persistent,true},{mam,true},{members_only,true},{public,false},{anonymous,false},{max_users,10000},"
    "{allow_subscription,false},{presence_broadcast,[moderator]},{affiliations,["
)
_MEMBER = f'{{{{<<"user%s">>,<<"{XMPP_DOMAIN}">>,<<>>}},{{member,<<>>}}}}'
_CREATE_USERS = f"""
    INSERT INTO users (username, password) SELECT 'user' || n, 'secret' || n FROM generate_series(0, {USERS - 1}) n
"""


async def fill_xmpp(connection: asyncpg.Connection, rooms: list[Rooms]) -> None:
    """Fills an empty database of ejabberd. Histories are not made: no scenario reads them there."""
    async with connection.transaction():
        await connection.execute(_CREATE_USERS)
        for some in rooms:
            await connection.execute(_create_rooms(some))
    await connection.execute("VACUUM ANALYZE")


def _create_rooms(rooms: Rooms) -> str:
    member = f"format('{_MEMBER}', {first_user(rooms)} + m)"
    return f"""
        INSERT INTO muc_room (name, host, opts)
        SELECT 'room' || r, '{XMPP_ROOMS}', '{_OPTIONS}' || string_agg({member}, ',') || ']}}]'
        FROM generate_series({rooms.first}, {rooms.first + rooms.count - 1}) r,
            generate_series(0, {rooms.members - 1}) m
        GROUP BY r
    """
