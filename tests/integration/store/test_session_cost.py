"""Cost of a session at connect: the same statements and rooms for a thousand conversations as for ten."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import trio

from pulse_trio.clock import utc_now
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.protocol import SendResume
from pulse_trio.rooms.hub import Hub
from pulse_trio.settings import Settings
from pulse_trio.store.base import User
from pulse_trio.store.postgres import PostgresStore
from pulse_trio.trio_psycopg.connection import TrioCursor
from tests.contract.people import People
from tests.integration.store.test_postgres_store import open_store
from tests.unit.rooms.world import FakeTransport

MANY = 1_000  # also the maximum of a `resume`
NEWS = 3  # conversations with missed messages


@contextmanager
def counted(patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Records the statements executed during the block, in order."""
    statements: list[str] = []
    execute = TrioCursor.execute

    async def counting(self: TrioCursor[Any], query: Any, *arguments: Any, **options: Any) -> Any:
        statements.append(" ".join(str(query).split())[:60])
        return await execute(self, query, *arguments, **options)

    with patch.context() as within:
        within.setattr(TrioCursor, "execute", counting)
        yield statements


def put_into(database: str, user: User, count: int) -> list[uuid.UUID]:
    """Inserts that many empty conversations of this user."""
    keys = [uuid.uuid4() for _ in range(count)]
    with psycopg.connect(database) as connection:
        connection.execute(
            "INSERT INTO conversations (id, name, is_group, owner_id, created_at, updated_at)"
            " SELECT unnest(%s::uuid[]), 'many', true, %s, now(), now()",
            (keys, user.id),
        )
        connection.execute(
            "INSERT INTO conversation_users (conversation_id, user_id, joined_at) SELECT unnest(%s::uuid[]), %s, now()",
            (keys, user.id),
        )
    return keys


async def come_in(store: PostgresStore, user: User, keys: list[uuid.UUID], patch: pytest.MonkeyPatch) -> list[str]:
    """Opens a session that resumes these conversations; returns the statements executed."""
    hub = Hub(store, Settings.model_construct(), clock=utc_now)
    transport = FakeTransport()
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.run)
        with counted(patch) as statements:
            session = await hub.lobby.open(user, transport, on_ended=lambda: None)
            await hub.lobby.resume(session, SendResume(revs=dict.fromkeys(keys, 0)))
            while len(transport.frames) < 1 + NEWS:  # the `session` frame and the missed messages  # noqa: ASYNC110
                await trio.sleep(0.005)
        assert [frame["content"] for frame in transport.frames[1:]] == ["hello"] * NEWS
        assert hub.room_count == 0
        assert len(session.subscriptions) == NEWS, "a place where something was missed only"
        with pytest.raises(PulseError) as refused:
            await hub.lobby.resume(session, SendResume(revs={uuid.uuid4(): 0 for _ in range(MANY + 1)}))
        assert refused.value.code == ErrorCode.INVALID_FRAME
        hub.lobby.close(session)
        await session.ended.wait()
        nursery.cancel_scope.cancel()
    return statements


async def test_statements_at_connect_do_not_depend_on_conversations(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(60):
        async with open_store(database) as store:
            people = People(store)
            took = {}
            for count in (10, MANY):
                user = await people.user(f"user{count}")
                keys = put_into(database, user, count)
                for key in keys[:NEWS]:
                    await people.send(key, user, "hello")
                took[count] = await come_in(store, user, keys, monkeypatch)
    assert took[MANY] == took[10]
    # The memberships; the heads of the requested ones; a page of changes in each with missed messages.
    assert len(took[MANY]) == 2 + NEWS
