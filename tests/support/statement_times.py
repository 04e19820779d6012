"""Prints how long statements of the store take: `python -m tests.support.statement_times`. For docs/benchmarks.md."""

import time
from collections.abc import Awaitable, Callable

import psycopg
import trio

from pulse_trio.database.sessions import STORE_SETTINGS
from pulse_trio.store.postgres import PostgresStore
from pulse_trio.trio_psycopg import Pool
from tests.support.cluster import Cluster
from tests.support.commands import post
from tests.support.crowds import add_groups, add_users, conversation_id, prepare, user_id

BATCHES = ((1, 1), (1, 100), (1, 256), (10, 1), (100, 1), (300, 1), (1_000, 1))  # rooms, messages of each
MESSAGES = 20_000  # stored beforehand, so that the statistics are those of a service in use
GROUPS, CROWD = 50, 5_000
ROUNDS = 5


async def best_of(act: Callable[[], Awaitable[object]]) -> float:
    """Returns the shortest time that an act took, in microseconds."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await act()
        times.append(time.perf_counter() - began)
    return min(times) * 1e6


async def measure(store: PostgresStore) -> None:
    """Measures batches of messages, and a list of large groups."""
    for rooms, each in BATCHES:

        async def store_batch(rooms: int = rooms, each: int = each) -> None:
            places = [conversation_id(1 + room) for room in range(rooms) for _ in range(each)]
            await store.apply([post(place, user_id(1)) for place in places])

        took = await best_of(store_batch)
        print(f"{rooms} rooms, {each} messages of each: {took / rooms / each:,.0f} µs a message")
    took = await best_of(lambda: store.list_conversations(user_id(1), limit=GROUPS))
    print(f"a list of {GROUPS} groups of {CROWD:,} members: {took / 1e3:,.1f} ms")


async def main() -> None:
    """Fills a database of its own, and measures."""
    cluster = Cluster()
    cluster.start()
    try:
        database = cluster.new_database()
        with psycopg.connect(database, autocommit=True) as connection:
            prepare(connection)
            add_users(connection, 1, CROWD)
            add_groups(connection, 1, 1_000, [1, 2])
            add_groups(connection, 2_001, 2_000 + GROUPS, list(range(1, CROWD + 1)))
        async with Pool(database, autocommit=True, server_settings=STORE_SETTINGS) as pool:
            store = PostgresStore(pool)
            for start in range(0, MESSAGES, 1_000):
                places = [conversation_id(1 + number % 1_000) for number in range(start, start + 1_000)]
                await store.apply([post(place, user_id(1)) for place in places])
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
            await measure(store)
    finally:
        cluster.remove()


if __name__ == "__main__":
    trio.run(main)
