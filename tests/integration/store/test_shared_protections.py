"""Processes on one PostgreSQL share what protects accounts; each store here is that of one process."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
import trio

from pulse_trio.auth.authenticator import Authenticator
from pulse_trio.auth.tokens import Tokens
from pulse_trio.clock import utc_now
from pulse_trio.database.sessions import STORE_SETTINGS
from pulse_trio.ids import IdSource
from pulse_trio.settings import Settings
from pulse_trio.store.base import AttemptBucket, Created, Ticket, User, UsernameTaken
from pulse_trio.store.postgres import PostgresStore, protections
from pulse_trio.trio_psycopg import Pool
from tests.contract.people import People, messages
from tests.support.cluster import Cluster
from tests.support.commands import START, add, changed_message, edit, post, remove, set_properties
from tests.support.server import SECRET

LIMIT = 60  # seconds for a test


@asynccontextmanager
async def open_store(conninfo: str) -> AsyncIterator[PostgresStore]:
    async with (
        Pool(conninfo, autocommit=True, server_settings=STORE_SETTINGS, max_size=5) as pool,
        trio.open_nursery() as nursery,
    ):
        store = PostgresStore(pool)
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_stores(conninfo: str, count: int = 2) -> AsyncIterator[list[PostgresStore]]:
    """Opens the stores of so many processes on one database."""
    with trio.fail_after(LIMIT):
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(open_store(conninfo)) for _ in range(count)]


def query(conninfo: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(statement, values)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


async def all_at_once(*calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Runs calls at the same time; returns what they return, or the error that they raise, in their order."""
    results: list[Any] = [None] * len(calls)

    async def run(index: int) -> None:
        try:
            results[index] = await calls[index]()
        except UsernameTaken as error:
            results[index] = error

    async with trio.open_nursery() as nursery:
        for index in range(len(calls)):
            nursery.start_soon(run, index)
    return results


def ticket(user: User, lifetime: float = 60) -> Ticket:
    return Ticket(random.randbytes(32), user.id, None, 2e9, None, lifetime)


async def test_a_ticket_drawn_in_one_process_works_once_in_any(database: str) -> None:
    async with open_stores(database, 3) as stores:
        users = await People(stores[0]).users(*(f"user{number}" for number in range(100)))
        drawn = [ticket(user) for user in users]
        await all_at_once(*((lambda t=t: random.choice(stores).draw_ticket(t)) for t in drawn))
        uses = [(store, each.digest) for store in stores for each in drawn * 2]
        random.shuffle(uses)
        used = await all_at_once(*((lambda s=store, d=digest: s.use_ticket(d)) for store, digest in uses))
        assert Counter(found.user.username for found in used if found) == Counter(user.username for user in users)
        assert query(database, "SELECT count(*) FROM tickets") == [(0,)]
        assert query(database, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]


async def test_setting_the_clock_of_the_database_does_not_prolong_a_ticket(database: str) -> None:
    async with open_stores(database, 1) as (store,):
        user = await People(store).user("alice")
        for moved in ("drawn_at + interval '2 s'", "drawn_at - interval '1 hour'"):
            drawn = ticket(user, lifetime=30)
            await store.draw_ticket(drawn)
            query(database, f"UPDATE tickets SET expires_at = expires_at - drawn_at + {moved}, drawn_at = {moved}")
            assert await store.use_ticket(drawn.digest) is None


async def test_draws_of_one_user_in_all_processes_are_bounded(database: str) -> None:
    async with open_stores(database, 3) as stores:
        user = await People(stores[0]).user("alice")
        for store in stores:
            store.max_tickets_of_user = 5
        for _ in range(5):
            await all_at_once(*((lambda s=store: s.draw_ticket(ticket(user))) for store in stores * 20))
        for store in stores:
            await store.draw_ticket(ticket(user))
        assert query(database, "SELECT count(*) FROM tickets") == [(5,)]
        assert query(database, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]


async def test_parallel_attempts_in_all_processes_take_no_more_than_there_is(database: str) -> None:
    async with open_stores(database, 3) as stores:
        keys = [number.to_bytes(16, "big") for number in range(6)]
        random.shuffle(keys)
        address, network, account, *_ = (AttemptBucket(key, 20 / 3_600, 20) for key in keys)
        newcomers = [AttemptBucket(random.randbytes(16), 1 / 3_600, 1) for _ in range(30)]

        def attempt(store: PostgresStore, newcomer: AttemptBucket) -> Callable[[], Awaitable[Any]]:
            order = random.choice(([address, network], [network, address]))
            return lambda: store.take_tokens([order, [account], [newcomer]])

        verdicts = await all_at_once(*(attempt(store, each) for store in stores for each in newcomers))
        assert sum(bool(verdict.taken) for verdict in verdicts) == 20
        assert query(database, "SELECT max(missing) BETWEEN 19 AND 20 FROM attempt_buckets") == [(True,)]
        assert query(database, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [(0,)]


async def test_tokens_come_back_by_the_clock_of_the_database(database: str) -> None:
    async with open_stores(database, 1) as (store,):
        bucket = AttemptBucket(bytes(16), 4 / 3_600, 4)
        for _ in range(4):
            await store.take_tokens([[bucket]])
        query(database, "UPDATE attempt_buckets SET counted_at = counted_at - interval '901 s'")
        assert (await store.take_tokens([[bucket]])).taken == (0,)
        verdict = await store.take_tokens([[bucket]])
        assert (verdict.taken, round(verdict.waits[0] / 100)) == ((), 9)
        query(database, "UPDATE attempt_buckets SET counted_at = counted_at + interval '5 h'")  # it was set back
        assert (await store.take_tokens([[bucket]])).waits[0] == pytest.approx(900, abs=10)


async def test_rejected_attempts_leave_no_rows(database: str) -> None:
    async with open_stores(database, 1) as (store,):
        empty = AttemptBucket(bytes(16), 1 / 3_600, 1)
        await store.take_tokens([[empty]])
        for _ in range(20):
            await store.take_tokens([[empty], [AttemptBucket(random.randbytes(16), 1 / 3_600, 1)]])
        assert query(database, "SELECT key FROM attempt_buckets") == [(bytes(16),)]
        await store.give_back_tokens([empty])
        assert query(database, "SELECT key FROM attempt_buckets") == []


async def test_a_store_that_runs_removes_stale_rows(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protections, "FORGET_INTERVAL", 0.02)
    async with open_stores(database, 3) as stores:
        user = await People(stores[0]).user("alice")
        for _ in range(20):
            await stores[0].draw_ticket(ticket(user, lifetime=0.01))
            await stores[0].take_tokens([[AttemptBucket(random.randbytes(16), 1 / 3_600, 1)]])
        query(database, "UPDATE attempt_buckets SET counted_at = counted_at - interval '1 hour'")
        kept = ticket(user)
        await stores[0].draw_ticket(kept)
        counts = "SELECT (SELECT count(*) FROM tickets), (SELECT count(*) FROM attempt_buckets)"
        while query(database, counts) != [(1, 0)]:  # noqa: ASYNC110  # another session says nothing when it commits
            await trio.sleep(0.01)
        assert await stores[1].use_ticket(kept.digest) is not None


async def test_a_crash_of_the_database_rejects_tickets_and_forgets_attempts(own_cluster: Cluster) -> None:
    conninfo = own_cluster.new_database()
    bucket = AttemptBucket(bytes(16), 1 / 3_600, 1)
    async with open_stores(conninfo, 1) as (store,):
        drawn = ticket(await People(store).user("alice"))
        await store.draw_ticket(drawn)
        await store.take_tokens([[bucket]])
    await trio.to_thread.run_sync(own_cluster.kill)
    await trio.to_thread.run_sync(own_cluster.start)
    async with open_stores(conninfo, 1) as (store,):
        assert await store.find_account("alice") is not None
        assert await store.use_ticket(drawn.digest) is None
        assert (await store.take_tokens([[bucket]])).taken == (0,)


# --- Idempotence: one command that reaches two processes at the same moment ---


async def test_one_client_id_in_two_processes_makes_one_message(database: str) -> None:
    async with open_stores(database) as stores:
        people = People(stores[0])
        alice = await people.user("alice")
        group = await people.group(alice)
        for number in range(20):
            calls = [
                (lambda s=store, n=number: s.apply([post(group, alice, f"from {n}", client_id=f"c-{n}")]))
                for store in stores * 2
            ]
            outcomes = await all_at_once(*calls)
            assert len({messages(found)[0].id for found in outcomes}) == 1
        assert [message.rev for message in await people.log(group) if message.rev] == list(range(1, 21))


async def test_one_command_in_two_processes_makes_one_change(database: str) -> None:
    async with open_stores(database) as stores:
        people = People(stores[0])
        alice, bob, carol = await people.users("alice", "bob", "carol")
        group = await people.group(alice, bob)
        message = await changed_message(stores[0], post(group, alice))
        rev = message.rev
        for command in (
            edit(message, alice, "edited"),
            add(group, alice, carol),
            set_properties(group, alice, name="renamed"),
            remove(group, alice, bob),
        ):
            outcomes = await all_at_once(*((lambda s=store, c=command: s.apply([c])) for store in stores * 3))
            revs = {tuple(change.rev for change in found) for (found,) in outcomes}
            assert revs == {(rev + 1,)}, command
            head = await stores[1].head(group)
            assert head.last_rev == rev + 1, command
            rev = head.last_rev


async def test_one_creation_in_two_processes_creates_once(database: str) -> None:
    async with open_stores(database) as stores:
        people = People(stores[0])
        alice, bob = await people.users("alice", "bob")
        new = people.conversation(alice, bob)
        created: list[Created] = await all_at_once(
            *((lambda s=store: s.create_conversation(new)) for store in stores * 3)
        )
        assert [found.conversation.id for found in created] == [new.id] * 6
        assert sum(found.is_new for found in created) == 1
        directs: list[Created] = await all_at_once(
            *(
                (lambda s=store, o=pair: s.create_conversation(people.conversation(*o, name=None, is_group=False)))
                for store in stores
                for pair in ((alice, bob), (bob, alice))
            )
        )
        assert len({found.conversation.id for found in directs}) == 1


async def test_one_name_registered_in_two_processes_is_one_account(database: str) -> None:
    async with open_stores(database) as stores:

        def register(store: PostgresStore, number: int) -> Callable[[], Awaitable[None]]:
            user = User(UUID(int=number), ("Alice", "alice")[number % 2])
            return lambda: store.create_user(user, password_hash="h", subject=None, created_at=START)

        results = await all_at_once(*(register(store, n) for n, store in enumerate(stores * 3)))
        assert sum(result is None for result in results) == 1
        assert (await stores[0].search_users("", limit=9)).total == 1


async def test_first_requests_of_a_providers_user_in_two_processes_create_one(database: str) -> None:
    settings = Settings.load(secret_key=SECRET, provision_users=True)
    tokens, ids = Tokens(settings, utc_now), IdSource(utc_now)
    token = tokens.issue(User(UUID(int=5), "provided"))
    async with open_stores(database) as stores:
        processes = [Authenticator(tokens, store, provision_users=True, clock=utc_now, ids=ids) for store in stores]
        found: Sequence[Any] = await all_at_once(*((lambda p=each: p.authenticate(token)) for each in processes * 3))
        assert len({identity.user.id for identity in found}) == 1
        assert (await stores[0].search_users("", limit=9)).total == 1
