"""Two services on one PostgreSQL, as two processes are: a client does not notice which one answers."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg
import trio
from quart.testing import WebsocketResponseError

from pulse_trio.app import PulseApp, create_app, open_service
from pulse_trio.database.sessions import STORE_SETTINGS
from pulse_trio.settings import Settings
from pulse_trio.store.postgres import PostgresStore
from pulse_trio.trio_psycopg import Pool
from tests.support.client import PASSWORD
from tests.support.server import SECRET

LIMIT = 120  # seconds for a test
TICKET = "/api/chat/ws-ticket"
LOGIN, REGISTER, RENEW = "/api/auth/login", "/api/auth/register", "/api/auth/renew"


def stores_on(conninfo: str) -> Callable[[], AbstractAsyncContextManager[PostgresStore]]:
    @asynccontextmanager
    async def open_store() -> AsyncIterator[PostgresStore]:
        async with (
            Pool(conninfo, autocommit=True, server_settings=STORE_SETTINGS, max_size=5) as pool,
            trio.open_nursery() as nursery,
        ):
            store = PostgresStore(pool)
            await nursery.start(store.run)
            yield store
            nursery.cancel_scope.cancel()

    return open_store


@asynccontextmanager
async def two_services(conninfo: str, **settings: object) -> AsyncIterator[tuple[PulseApp, PulseApp]]:
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            apps = []
            for _ in range(2):
                app = create_app(Settings.load(secret_key=SECRET, **settings), stores_on(conninfo))
                await stack.enter_async_context(open_service(app))
                apps.append(app)
            yield apps[0], apps[1]


async def post(app: PulseApp, path: str, token: str | None = None, **body: object) -> tuple[int, dict[str, Any]]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    response = await app.test_client().post(path, json=body, headers=headers)
    found = await response.get_json()
    assert isinstance(found, dict)
    return response.status_code, found


async def person(app: PulseApp, username: str) -> str:
    """Registers a user; returns their token."""
    assert (await post(app, REGISTER, username=username, password=PASSWORD))[0] == 201
    status, found = await post(app, LOGIN, username=username, password=PASSWORD)
    assert status == 200
    return str(found["access_token"])


async def test_a_ticket_of_one_service_opens_one_connection_at_another(database: str) -> None:
    async with two_services(database) as (one, other):
        token = await person(one, "alice")
        _, group = await post(other, "/api/chat/conversations", token, is_group=True)
        for place, path in ((group["id"], f"/api/chat/ws/{group['id']}"), (None, "/api/chat/ws")):
            status, drawn = await post(one, TICKET, token, conversation_id=place)
            assert status == 200
            address = f"{path}?ticket={drawn['ticket']}"
            async with other.test_client().websocket(address) as socket:
                frame = await socket.receive_json()
                assert frame.get("event") == ("joined" if place else None), frame
            for app in (one, other):
                assert await refused(app, address) == 401
        # Of simultaneous uses at both, one wins.
        _, drawn = await post(one, TICKET, token, conversation_id=group["id"])
        address = f"/api/chat/ws/{group['id']}?ticket={drawn['ticket']}"
        results: Counter[int | None] = Counter()

        async def show(app: PulseApp) -> None:
            results[await refused(app, address)] += 1

        async with trio.open_nursery() as nursery:
            for app in (one, other) * 5:
                nursery.start_soon(show, app)
        assert results == {None: 1, 401: 9}


async def refused(app: PulseApp, address: str) -> int | None:
    """Returns the status that refuses a handshake; None if it is accepted."""
    status = None
    async with app.test_client().websocket(address) as socket:
        try:
            await socket.receive_json()
        except WebsocketResponseError as error:
            status = int(error.response.status_code)
    return status


async def test_guesses_at_two_services_are_as_many_as_at_one(database: str) -> None:
    async with two_services(database, login_failures_per_account=4) as (one, other):
        await person(one, "alice")
        answers = [
            await post(app, LOGIN, username="Alice", password=f"wrong {number}")
            for number in range(4)
            for app in (one, other)
        ]
        assert [status for status, _ in answers] == [401] * 4 + [429] * 4
        messages = {body["message"].split(";")[0] for _, body in answers[4:]}
        assert messages == {"Too many failed logins"}
        assert (await post(other, LOGIN, username="nobody", password="wrong password"))[0] == 401
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("UPDATE attempt_buckets SET counted_at = counted_at - interval '16 min'")
        await trio.sleep(1.1)  # a service repeats a rejection for a second, on Trio's clock
        for app in (one, other, one, other):
            assert (await post(app, LOGIN, username="alice", password=PASSWORD))[0] == 200, "only failures count"


async def test_registrations_and_renewals_at_two_services_are_as_many_as_at_one(database: str) -> None:
    async with two_services(database, registrations_per_address=2, renewals_per_user=3) as (one, other):
        token = await person(one, "alice")
        assert (await post(other, REGISTER, username="bob", password=PASSWORD))[0] == 201
        for app in (one, other):
            status, body = await post(app, REGISTER, username="carol", password=PASSWORD)
            assert (status, body["code"]) == (429, "rate_limited")
        statuses = [(await post(app, RENEW, token))[0] for app in (one, other) * 3]
        assert statuses == [200] * 3 + [429] * 3


async def test_a_lost_table_answers_503_and_never_lets_a_guess_through(database: str) -> None:
    async with two_services(database) as (one, other):
        token = await person(one, "alice")
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("ALTER TABLE attempt_buckets RENAME TO gone")
        for app in (one, other):
            for path, body in (
                (LOGIN, {"username": "alice", "password": PASSWORD}),
                (REGISTER, {"username": "bob", "password": PASSWORD}),
                (RENEW, {}),
            ):
                status, found = await post(app, path, token if path == RENEW else None, **body)
                assert (status, found["code"]) == (503, "unavailable"), path
