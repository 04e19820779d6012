"""Searches for users: their cost and their rate are bounded, on the real process."""

from collections.abc import Callable

import psycopg
import trio

from tests.support.client import Person
from tests.support.crowds import add_users, prepare
from tests.support.server import Server

CROWD = 1_200


def fill(database: str) -> None:
    with psycopg.connect(database) as connection:
        prepare(connection)
        add_users(connection, 1, CROWD)


async def test_all_users_are_found_by_cursor_and_counted_up_to_a_bound(
    database: str, start_server: Callable[..., Server]
) -> None:
    server = start_server()
    with trio.fail_after(60):
        await trio.to_thread.run_sync(fill, database)
        alice = await Person.register(server.base_url, "alice")
        found: list[str] = []
        query: dict[str, object] = {"query": "user", "limit": 200}
        while True:
            page = (await alice.api.get("/api/users", params=query)).json()
            assert (page["total"], page["is_total_exact"]) == (1_000, False)
            found += [user["username"] for user in page["users"]]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
        assert sorted(found) == sorted(f"user{number}" for number in range(1, CROWD + 1))
        page = (await alice.api.get("/api/users", params={"query": "user11"})).json()
        assert (page["total"], page["is_total_exact"]) == (1 + 10 + 100, True)
        page = (await alice.api.get("/api/users", params={"query": "user", "offset": 1_000, "limit": 1})).json()
        assert len(page["users"]) == 1
        refused = await alice.api.get("/api/users", params={"query": "user", "offset": 1_001})
        assert (refused.status_code, refused.json()["field"]) == (422, "offset")


async def test_searches_of_one_user_are_limited(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_SEARCHES_PER_SECOND="1", PULSE_SEARCHES_BURST="5")
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        bob = await Person.register(server.base_url, "bob")
        statuses = []

        async def search() -> None:
            answer = await alice.api.get("/api/users", params={"query": "b"})
            statuses.append(answer.status_code)
            if answer.status_code == 429:
                assert answer.json()["code"] == "rate_limited"
                assert int(answer.headers["Retry-After"]) > 0

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(search)
        assert statuses.count(429) >= 10
        assert statuses.count(200) >= 5
        assert set(statuses) == {200, 429}
        assert (await bob.api.get("/api/users", params={"query": "a"})).status_code == 200
