"""Prints how long statements of the store take: `python -m tests.support.statement_times`. For docs/benchmarks.md.

python -m tests.support.statement_times            messages alone and in batches, and a list of large groups
python -m tests.support.statement_times --shares   each case's CPU time in PostgreSQL and here, and its round trip,
                                                   with and without foreign keys of messages (Linux)
"""

import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Final

import psycopg
import trio

from pulse_trio.clock import utc_now
from pulse_trio.database.sessions import STORE_SETTINGS
from pulse_trio.store.postgres import PostgresStore
from pulse_trio.trio_psycopg import Pool
from tests.support.cluster import Cluster
from tests.support.commands import new_id, post
from tests.support.crowds import add_groups, add_users, conversation_id, prepare, user_id

BATCHES = ((1, 1), (1, 100), (1, 256), (10, 1), (100, 1), (300, 1), (1_000, 1))  # rooms, messages of each
MESSAGES = 20_000  # stored beforehand, so that the statistics are those of a service in use
GROUPS, CROWD = 50, 5_000
ROOMS: Final = 1_000
ROUNDS = 5

# Cases of `--shares`: rooms, messages of each, and how many in a round.
SHARES: Final = {
    "a message": (1, 1, 20),
    "4 of a room": (1, 4, 10),
    "16 of a room": (1, 16, 5),
    "100 rooms": (100, 1, 2),
    "200 rooms": (200, 1, 1),
}
PLAIN: Final = "plain INSERT"
SHARE_ROUNDS: Final = 30
INSERT: Final = """
    INSERT INTO messages (id, conversation_id, sender_id, content, created_at, updated_at, seq, rev, client_id)
    VALUES (%s, %s, %s, 'hello', %s, %s, %s, %s, %s) RETURNING seq, rev
"""
KEYS: Final = {
    "messages_conversation_id_fkey": "(conversation_id) REFERENCES conversations (id) ON DELETE CASCADE",
    "messages_sender_id_fkey": "(sender_id) REFERENCES users (id)",
}


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


class Sample:
    """A database with or without foreign keys of messages, a store on one connection, and what was measured there.

    Attributes:
        times: for each case the CPU time in PostgreSQL, the CPU time here and the round trip, in µs for each batch.
    """

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._random = random.Random(1)
        self._plain = 0
        self.times: dict[str, list[tuple[float, float, float]]] = {}

    async def round(self) -> None:
        """Measures each case once."""
        async with self._store.connection() as connection:
            pid = connection.info.backend_pid
        for name, (rooms, each, count) in SHARES.items():
            batches = [
                [
                    post(conversation_id(room), user_id(1 + n % 2), client_id=str(new_id()))
                    for room in self._random.sample(range(1, ROOMS + 1), rooms)
                    for n in range(each)
                ]
                for _ in range(count)
            ]
            with self._timed(name, pid, count):
                for batch in batches:
                    await self._store.apply(batch)
        _, _, count = SHARES["a message"]
        with self._timed(PLAIN, pid, count):
            for _ in range(count):
                await self._insert()

    async def _insert(self) -> None:
        """Stores a message as a service without seq, membership and idempotence would."""
        self._plain += 1
        key, at, seq = new_id(), utc_now(), 10**9 + self._plain
        values = (key, conversation_id(self._random.randint(1, ROOMS)), user_id(1), at, at, seq, seq, str(key))
        async with self._store.connection() as connection:
            await (await connection.execute(INSERT, values, prepare=True)).fetchall()

    @contextmanager
    def _timed(self, name: str, pid: int, count: int) -> Iterator[None]:
        server, here, began = _cpu_of(pid), time.thread_time(), time.perf_counter()
        yield
        took = time.perf_counter() - began
        here, server = time.thread_time() - here, _cpu_of(pid) - server
        self.times.setdefault(name, []).append((server / count * 1e6, here / count * 1e6, took / count * 1e6))


def _cpu_of(pid: int) -> float:
    """Returns the CPU time of a process in seconds, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def print_shares(samples: dict[str, Sample]) -> None:
    """Prints the least of each case, which other work on the machine disturbs least, and the median behind it."""
    print("least (median) of the rounds, in µs for each batch")
    heads = [f"{what}, {keys}" for what in ("PostgreSQL", "here", "round trip") for keys in samples]
    print(f"| case | {' | '.join(heads)} |")
    print(f"|---|{'---|' * 3 * len(samples)}")
    for name in (PLAIN, *SHARES):
        cells = [
            f"{min(column):,.0f} ({median(column):,.0f})"
            for number in range(3)
            for sample in samples.values()
            for column in ([times[number] for times in sample.times[name][1:]],)
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def fill(database: str) -> None:
    """Makes users and groups."""
    with psycopg.connect(database, autocommit=True) as connection:
        prepare(connection)
        add_users(connection, 1, CROWD)
        add_groups(connection, 1, ROOMS, [1, 2])
        add_groups(connection, 2_001, 2_000 + GROUPS, list(range(1, CROWD + 1)))


def set_keys(database: str, are_wanted: bool) -> None:
    """Gives messages their foreign keys, or takes them away."""
    with psycopg.connect(database, autocommit=True) as connection:
        for name, what in KEYS.items():
            connection.execute(f"ALTER TABLE messages DROP CONSTRAINT IF EXISTS {name}")  # type: ignore[arg-type]
            if are_wanted:
                connection.execute(f"ALTER TABLE messages ADD CONSTRAINT {name} FOREIGN KEY {what}")  # type: ignore[arg-type]
        connection.execute("VACUUM ANALYZE")


async def store_some(store: PostgresStore) -> None:
    """Stores MESSAGES messages."""
    for start in range(0, MESSAGES, 1_000):
        places = [conversation_id(1 + number % ROOMS) for number in range(start, start + 1_000)]
        await store.apply([post(place, user_id(1)) for place in places])


async def main(*, has_shares: bool) -> None:
    """Fills a database of its own, and measures."""
    cluster = Cluster()
    cluster.start()
    try:
        database = cluster.new_database()
        fill(database)
        async with Pool(database, autocommit=True, server_settings=STORE_SETTINGS) as pool:
            store = PostgresStore(pool)
            await store_some(store)
            if not has_shares:
                with psycopg.connect(database, autocommit=True) as connection:
                    connection.execute("VACUUM ANALYZE")
                await measure(store)
        if has_shares:
            await measure_shares({"with keys": cluster.copy_database(database), "without": database})
    finally:
        cluster.remove()


async def measure_shares(databases: dict[str, str]) -> None:
    """Measures each case in turn on each database, so that other work on the machine disturbs all alike."""
    samples: dict[str, Sample] = {}
    async with AsyncExitStack() as stack:
        for keys, database in databases.items():
            set_keys(database, keys == "with keys")
            pool = Pool(database, autocommit=True, server_settings=STORE_SETTINGS, max_size=1)
            samples[keys] = Sample(PostgresStore(await stack.enter_async_context(pool)))
        for _ in range(SHARE_ROUNDS + 1):
            for sample in samples.values():
                await sample.round()
    print_shares(samples)


if __name__ == "__main__":
    trio.run(lambda: main(has_shares="--shares" in sys.argv[1:]))
