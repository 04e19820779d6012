"""Tests that need PostgreSQL: concurrency, cancellation, dead connections, query plans, constraints."""

import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import pytest
import trio
from psycopg.rows import scalar_row

from pulse_trio.database.schema import migrate
from pulse_trio.database.sessions import STORE_SETTINGS
from pulse_trio.ids import IdSource
from pulse_trio.model import Command, Kind, Message
from pulse_trio.store.base import (
    Created,
    Head,
    NoSuchMember,
    NotAMember,
    Outcome,
    ReadMark,
    ReadState,
    Store,
    StoreRefused,
    StoreUnavailable,
    TooManyMembers,
    User,
)
from pulse_trio.store.postgres import PostgresStore, revisions
from pulse_trio.store.postgres import messages as history
from pulse_trio.store.postgres.connected import Connected
from pulse_trio.trio_psycopg import Pool, TrioConnection
from tests.contract.people import People, messages, seqs
from tests.support.cluster import Cluster
from tests.support.commands import (
    START,
    add,
    carry_out,
    changed_message,
    delete,
    edit,
    leave,
    post,
    remove,
    set_properties,
)

LIMIT = 60  # seconds for a test
BIG = 20_000  # messages


@asynccontextmanager
async def open_store(conninfo: str, **options: Any) -> AsyncIterator[PostgresStore]:
    async with (
        Pool(conninfo, autocommit=True, server_settings=STORE_SETTINGS, **options) as pool,
        trio.open_nursery() as nursery,
    ):
        store = PostgresStore(pool)
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_group(conninfo: str, groups: int = 1) -> AsyncIterator[tuple[PostgresStore, People, User, list[UUID]]]:
    """Opens a store with a user in some groups."""
    with trio.fail_after(LIMIT):
        async with open_store(conninfo) as store:
            people = People(store)
            alice = await people.user("alice")
            yield store, people, alice, [await people.group(alice) for _ in range(groups)]


async def assert_whole(store: Store, conversation_id: UUID, expected: set[UUID]) -> None:
    """Checks that the conversation has exactly these messages, with the seqs 1, 2, 3 …"""
    found = await store.changes(conversation_id, after_rev=0, kinds=Kind.ALL, limit=10_000)
    stored = [change for change in found if isinstance(change, Message)]
    assert [(m.seq, m.rev) for m in stored] == [(n, n) for n in range(1, len(expected) + 1)]
    assert {m.id for m in stored} == expected
    assert await store.head(conversation_id) == head_after(len(expected))


def head_after(posts: int, *, rev: int | None = None) -> Head:
    """Returns the head of a conversation in which only messages were stored or changed."""
    last_rev = posts if rev is None else rev
    return Head(posts, last_rev, message_rev=last_rev)


# --- concurrency ---


async def test_crossing_batches_neither_deadlock_nor_leave_gaps(database: str) -> None:
    async with open_group(database, groups=3) as (store, _, alice, groups):
        expected: dict[UUID, set[UUID]] = {group: set() for group in groups}

        async def writer(number: int) -> None:
            order = groups if number % 2 else groups[::-1]
            for _ in range(10):
                batch = [post(group, alice, client_id=None) for group in order for _ in range(2)]
                stored = await store.apply(batch)
                assert [m.id for m in messages(stored)] == [new.id for new in batch]
                for new in batch:
                    expected[new.conversation_id].add(new.id)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(writer, number)
        for group in groups:
            assert len(expected[group]) == 240
            await assert_whole(store, group, expected[group])


async def test_concurrent_use_of_a_client_id_makes_one_message(database: str) -> None:
    async with open_group(database) as (store, _, alice, (group,)):
        for number in range(20):
            results: list[list[Outcome]] = []

            async def send(client_id: str, found: list[list[Outcome]] = results) -> None:
                found.append(await store.apply([post(group, alice, client_id=client_id)]))

            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(send, f"c{number}")
            assert len(results) == 4
            assert all(result == results[0] for result in results)
            assert seqs(results[0]) == [number + 1]
        assert await store.head(group) == head_after(20)


async def test_client_id_committed_while_a_post_waits_for_the_conversation(database: str) -> None:
    """Forces the only moment at which a resend is not noticed before the insert."""
    async with open_group(database) as (store, _, alice, (group,)):
        first = post(group, alice, "first", client_id="c")
        found: list[list[Outcome]] = []

        async def resend() -> None:
            fresh = post(group, alice, "fresh")
            found.append(await store.apply([post(group, alice, "again", client_id="c"), fresh]))

        async with trio.open_nursery() as nursery:
            connection = await TrioConnection.connect(database)
            try:
                await connection.execute("SELECT FROM conversations WHERE id = %s FOR UPDATE", (group,))
                nursery.start_soon(resend)
                await wait_blocked(database)
                await connection.execute(
                    """
                    INSERT INTO messages
                        (id, conversation_id, sender_id, content, created_at, updated_at, seq, rev, client_id)
                    VALUES (%s, %s, %s, %s, %s, %s, 1, 1, 'c')
                    """,
                    (first.id, group, alice.id, first.content, START, START),
                )
                await connection.execute(
                    "UPDATE conversations SET last_seq = 1, last_rev = 1, message_rev = 1 WHERE id = %s", (group,)
                )
                await connection.commit()
            finally:
                await connection.close()
        assert [(m.seq, m.content) for m in messages(found[0])] == [(1, "first"), (2, "fresh")]


@pytest.mark.parametrize("count", [1, 2], ids=["one message", "a batch"])
async def test_removal_committed_during_the_wait_of_a_post_prevents_it(database: str, count: int) -> None:
    """READ COMMITTED: the post's snapshot still has the member; only the locked row is read again."""
    async with open_group(database) as (store, people, alice, (group,)):
        bob, carol = await people.users("bob", "carol")
        await carry_out(store, add(group, alice, bob, carol))
        found: dict[str, list[Outcome]] = {}

        async def send(sender: User) -> None:
            batch = [post(group, sender, f"{sender.username} {number}") for number in range(count)]
            found[sender.username] = await store.apply(batch)

        async with held(database, group) as release, trio.open_nursery() as nursery:
            nursery.start_soon(carry_out, store, remove(group, alice, bob))
            await wait_blocked(database)
            for waiting, sender in enumerate((bob, carol), start=2):
                nursery.start_soon(send, sender)
                await wait_blocked(database, waiting)
            await release()
        assert [type(outcome) for outcome in found["bob"]] == [NotAMember] * count
        assert [m.content for m in messages(found["carol"])] == [f"carol {number}" for number in range(count)]
        assert await store.head(group) == Head(count, 3 + count, message_rev=3 + count, members_rev=3)


async def test_a_command_is_judged_after_the_wait_for_the_lock(database: str) -> None:
    """Each waits behind the removal of its actor, which its own first snapshot would not show."""
    async with open_group(database) as (store, people, alice, (group,)):
        bob, carol = await people.users("bob", "carol")
        await carry_out(store, add(group, alice, bob))
        message = await changed_message(store, post(group, bob))
        waiting = [
            edit(message, bob, "edited"),
            delete(message, bob),
            set_properties(group, bob, name="Bob's"),
            add(group, bob, carol),
            leave(group, bob),
            remove(group, bob, bob),
        ]
        outcomes: list[Outcome] = []

        async def ask(command: Command) -> None:
            outcomes.extend(await store.apply([command]))

        async with held(database, group) as release, trio.open_nursery() as nursery:
            nursery.start_soon(carry_out, store, remove(group, alice, bob))
            await wait_blocked(database)
            for number, command in enumerate(waiting, start=2):
                nursery.start_soon(ask, command)
                await wait_blocked(database, min(number, 3))  # edits share two connections
            await release()
        assert [type(outcome) for outcome in outcomes] == [NotAMember] * len(waiting)
        assert await store.head(group) == Head(1, 3, message_rev=2, members_rev=3)


@asynccontextmanager
async def held(conninfo: str, conversation_id: UUID) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Locks a conversation's row in another session; yields a function that releases it."""
    connection = await TrioConnection.connect(conninfo)
    try:
        await connection.execute("SELECT FROM conversations WHERE id = %s FOR UPDATE", (conversation_id,))
        yield connection.commit
    finally:
        await connection.close()


async def wait_blocked(conninfo: str, backends: int = 1) -> None:
    """Waits until that many backends of this database wait for a lock."""
    connection = await TrioConnection.connect(conninfo, autocommit=True)
    try:
        while True:
            cursor = await connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            row = await cursor.fetchone()
            assert row is not None
            if row[0] >= backends:
                return
    finally:
        await connection.close()


async def test_concurrent_creation_of_a_one_to_one_makes_one(database: str) -> None:
    async with open_group(database) as (_, people, alice, _):
        for number in range(10):
            bob = await people.user(f"bob{number}")
            results: list[Created] = []

            async def ask(owner: User, other: User, found: list[Created] = results) -> None:
                found.append(await people.direct(owner, other))

            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(ask, alice, bob)
                    nursery.start_soon(ask, bob, alice)
            assert len({created.conversation.id for created in results}) == 1
            assert [created.is_new for created in results].count(True) == 1


async def test_limit_of_members_holds_for_concurrent_additions(database: str) -> None:
    async with open_group(database) as (store, people, alice, (group,)):
        others = await people.users(*(f"u{n}" for n in range(8)))
        refused: list[User] = []

        async def join(other: User) -> None:
            try:
                await carry_out(store, add(group, alice, other, limit=4))
            except TooManyMembers:
                refused.append(other)

        async with trio.open_nursery() as nursery:
            for other in others:
                nursery.start_soon(join, other)
        conversation = await store.get_conversation(group, alice.id)
        assert conversation is not None
        assert len(conversation.members) == 4
        assert set(conversation.members[1:]) == set(others) - set(refused)


async def test_member_count_is_right_under_concurrent_changes(database: str) -> None:
    async with open_group(database, groups=2) as (store, people, alice, groups):
        others = await people.users(*(f"u{n}" for n in range(8)))

        async def come_and_go(other: User, dice: random.Random) -> None:
            for _ in range(10):
                group = dice.choice(groups)
                with suppress(TooManyMembers):
                    await carry_out(store, add(group, alice, *{other, dice.choice(others)}, limit=5))
                with suppress(NoSuchMember):
                    await carry_out(store, remove(group, alice, dice.choice(others)))

        async with trio.open_nursery() as nursery:
            for number, other in enumerate(others):
                nursery.start_soon(come_and_go, other, random.Random(number))
        with psycopg.connect(database) as connection:
            rows = connection.execute(
                """
                SELECT c.member_count, (SELECT count(*) FROM conversation_users WHERE conversation_id = c.id)
                FROM conversations c
                """
            ).fetchall()
        assert len(rows) == 2
        assert all(kept == counted <= 5 for kept, counted in rows), rows


async def test_owner_is_a_member_after_concurrent_leaving(database: str) -> None:
    async with open_group(database) as (store, people, alice, _):
        others = await people.users(*(f"u{n}" for n in range(5)))
        group = await people.group(others[0], *others[1:], alice)
        async with trio.open_nursery() as nursery:
            for other in others:
                nursery.start_soon(carry_out, store, leave(group, other))
        conversation = await store.get_conversation(group, alice.id)
        assert conversation is not None
        assert (conversation.members, conversation.owner_id) == ((alice,), alice.id)


async def test_concurrent_edits_and_messages_get_distinct_revs(database: str) -> None:
    async with open_group(database) as (store, people, alice, (group,)):
        sent = await people.send(group, alice, *map(str, range(10)))
        revs: list[int] = []

        async def change(message: Message) -> None:
            for command in (edit(message, alice, "a"), edit(message, alice, "b"), delete(message, alice)):
                changed = await changed_message(store, command)
                revs.append(changed.rev)  # others post between these

        async def send() -> None:
            revs.extend([message.rev for message in await people.send(group, alice, "new", "new")])

        async with trio.open_nursery() as nursery:
            for message in sent:
                nursery.start_soon(change, message)
                nursery.start_soon(send)
        assert sorted(revs) == list(range(11, 61))
        assert await store.head(group) == head_after(30, rev=60)


# --- lost answers ---


@pytest.mark.parametrize("seed", range(3))
async def test_post_cancelled_and_repeated_is_stored_once(database: str, seed: int) -> None:
    dice = random.Random(seed)
    async with open_group(database, groups=2) as (store, _, alice, groups):
        expected: dict[UUID, set[UUID]] = {group: set() for group in groups}
        cancelled = 0

        async def writer() -> None:
            nonlocal cancelled
            for _ in range(15):
                batch = [post(dice.choice(groups), alice) for _ in range(3)]
                stored: list[Outcome] | None = None
                while stored is None:
                    with trio.move_on_after(dice.uniform(0, 0.008)) as scope:
                        stored = await store.apply(batch)
                    cancelled += scope.cancelled_caught
                    if scope.cancelled_caught and dice.random() < 0.5:
                        stored = await store.apply(batch)
                assert [m.id for m in messages(stored)] == [new.id for new in batch]
                for new in batch:
                    expected[new.conversation_id].add(new.id)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(writer)
        assert cancelled > 0
        for group in groups:
            await assert_whole(store, group, expected[group])


@pytest.mark.parametrize("seed", range(3))
async def test_commands_cancelled_and_repeated_are_carried_out_once(database: str, seed: int) -> None:
    dice = random.Random(seed)
    rounds = 10
    async with open_group(database) as (store, people, alice, (group,)):
        others = await people.users(*(f"u{number}" for number in range(4)))
        (message,) = await people.send(group, alice, "text")
        cancelled = 0

        async def carry_out_once(command: Command) -> None:
            nonlocal cancelled
            with trio.move_on_after(dice.uniform(0, 0.012)) as scope:
                await carry_out(store, command)
            if scope.cancelled_caught:
                cancelled += 1
                await carry_out(store, command)

        async def change(user: User) -> None:
            for number in range(rounds):
                await carry_out_once(add(group, alice, user))
                await carry_out_once(edit(message, alice, f"{user.username} {number}"))
                await carry_out_once(set_properties(group, alice, name=f"{user.username} {number}"))
                await carry_out_once(remove(group, alice, user))

        async with trio.open_nursery() as nursery:
            for other in others:
                nursery.start_soon(change, other)
        assert cancelled > 0
        head = await store.head(group)
        assert (head.last_seq, head.last_rev) == (1, 1 + 4 * rounds * len(others))
        assert (await store.members(group)).ids == (alice.id,)
        log = await store.changes(group, after_rev=0, kinds=Kind.ALL, limit=99)
        assert len(log) == 1 + 1 + len(others)
        for other in others:
            assert (await store.memberships(other.id)).user_rev == 2 * rounds


async def test_post_with_killed_connections_is_stored_once(database: str) -> None:
    async with open_group(database) as (store, _, alice, (group,)):
        expected: set[UUID] = set()
        failures = 0
        writing = 4

        async def writer() -> None:
            nonlocal failures, writing
            rounds = 0
            while rounds < 15 or not failures:  # until the killer has hit one; bounded by `LIMIT`
                rounds += 1
                batch = [post(group, alice) for _ in range(3)]
                stored: list[Outcome] | None = None
                while stored is None:
                    try:
                        stored = await store.apply(batch)
                    except StoreUnavailable:
                        failures += 1
                assert [m.id for m in messages(stored)] == [new.id for new in batch]
                expected.update(new.id for new in batch)
            writing -= 1

        async def killer() -> None:
            connection = await TrioConnection.connect(database, autocommit=True)
            try:
                while writing:
                    await connection.execute(
                        """
                        SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
                        WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()
                        ORDER BY random() LIMIT 1
                        """
                    )
                    if failures > 40:  # enough
                        return
            finally:
                await connection.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(killer)
            for _ in range(4):
                nursery.start_soon(writer)
        assert failures > 0
        await assert_whole(store, group, expected)


async def test_post_killed_while_waiting_can_be_repeated(database: str) -> None:
    """Kills the connection in the middle of the statement."""
    async with open_group(database) as (store, _, alice, (group,)):
        batch = [post(group, alice), post(group, alice)]

        async def fail() -> None:
            with pytest.raises(StoreUnavailable):
                await store.apply(batch)

        connection = await TrioConnection.connect(database)
        try:
            await connection.execute("SELECT FROM conversations WHERE id = %s FOR UPDATE", (group,))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail)
                await wait_blocked(database)
                await connection.execute(
                    """
                    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock'
                    """
                )
            await connection.rollback()
        finally:
            await connection.close()
        assert await store.head(group) == head_after(0)
        assert seqs(await store.apply(batch)) == [1, 2]


async def test_store_recovers_after_an_outage_of_its_server(own_cluster: Cluster) -> None:
    conninfo = own_cluster.new_database()
    async with open_group(conninfo) as (store, _, alice, (group,)):
        batch = [post(group, alice)]
        stored = await store.apply(batch)
        own_cluster.kill()
        lost = [post(group, alice)]
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.apply(lost)
        with pytest.raises(StoreUnavailable):
            await store.page_messages(group, alice.id, limit=5)
        with pytest.raises(StoreUnavailable):
            await carry_out(store, set_properties(group, alice, name="x"))
        with pytest.raises(StoreUnavailable):
            await store.find_account("alice")
        own_cluster.start()
        assert seqs(await store.apply(lost)) == [2]
        assert await store.apply(batch) == stored


async def test_exhausted_pool_and_slow_statement_are_unavailable(database: str) -> None:
    with trio.fail_after(LIMIT):
        async with open_store(database, statement_timeout=0.3) as store:
            people = People(store)
            alice = await people.user("alice")
            group = await people.group(alice)
            connection = await TrioConnection.connect(database)
            try:
                await connection.execute("SELECT FROM conversations WHERE id = %s FOR UPDATE", (group,))
                with pytest.raises(StoreUnavailable):
                    await store.apply([post(group, alice)])
            finally:
                await connection.close()
        async with Pool(database, autocommit=True, max_size=1, acquire_timeout=0.05) as pool, pool.connection():
            with pytest.raises(StoreUnavailable):
                await PostgresStore(pool).head(group)
        with pytest.raises(StoreUnavailable):
            await PostgresStore(pool).head(group)


@pytest.mark.parametrize(
    ("content", "client_id"), [("a\x00b", None), ("\udc80", None), ("x", ""), ("x", "c" * 65), ("x", "\x00")]
)
async def test_an_unstorable_row_is_rejected(database: str, content: str, client_id: str | None) -> None:
    async with open_group(database) as (store, _, alice, (group,)):
        poison = post(group, alice, content, client_id=client_id)
        with pytest.raises(StoreRefused):
            await store.apply([post(group, alice), poison])
        assert await store.head(group) == head_after(0)
        assert seqs(await store.apply([post(group, alice)])) == [1]


async def test_an_id_of_another_conversation_is_not_stored_again(database: str) -> None:
    """A message id from another conversation is not stored a second time."""
    async with open_group(database, groups=2) as (store, _, alice, (first, second)):
        new = post(first, alice)
        stored = await store.apply([new])
        assert await store.apply([replace(new, conversation_id=second, content="other")]) == stored
        assert await store.head(second) == head_after(0)


# --- read positions ---


async def test_a_locked_position_delays_no_other(database: str) -> None:
    async with open_group(database, groups=2) as (store, people, alice, (first, second)):
        for group in (first, second):
            await people.send(group, alice, "a", "b")
        marks = [ReadMark(first, alice.id, 2), ReadMark(second, alice.id, 2)]
        async with await TrioConnection.connect(database) as rival:
            await rival.execute("SELECT FROM conversation_users WHERE conversation_id = %s FOR UPDATE", (first,))
            # The creation of each group took a number of alice's sequence.
            assert await store.mark_read(marks) == [ReadState(0, 2, 1), ReadState(2, 2, 3)]
        assert await store.mark_read(marks) == [ReadState(2, 2, 4), ReadState(2, 2, 3)]


async def test_concurrent_marks_never_move_a_position_back(database: str) -> None:
    async with open_group(database) as (store, people, alice, (group,)):
        await people.send(group, alice, *(str(number) for number in range(200)))
        dice, seen = random.Random(1), [0]

        async def mark() -> None:
            for _ in range(50):
                seq = dice.randint(1, 200)
                while True:
                    (standing,) = await store.mark_read([ReadMark(group, alice.id, seq)])
                    assert standing is not None
                    if standing.read_seq >= seq:
                        break
                seen.append(seq)
                least = max(seen)
                assert (await people.positions(group, alice))[0][1] >= least

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(mark)
        assert (await people.positions(group, alice)) == [(alice.id, max(seen))]


# --- query plans ---


@pytest.fixture(scope="module")
def big_conversation(cluster: Cluster) -> tuple[str, UUID]:
    """A database with two conversations of BIG messages each, interleaved. Tests only read it."""
    database = cluster.new_database()
    new_id = IdSource()
    user_id, conversation_id, other_id = new_id(), new_id(), new_id()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            """
            INSERT INTO users (id, username, username_key, created_at, updated_at)
            VALUES (%s, 'a', 'a', now(), now())
            """,
            (user_id,),
        )
        for group in (conversation_id, other_id):
            connection.execute(
                """
                INSERT INTO conversations
                    (id, is_group, owner_id, created_at, updated_at, last_seq, last_rev, message_rev)
                VALUES (%s, true, %s, now(), now(), %s, %s, %s)
                """,
                (group, user_id, BIG, BIG, BIG),
            )
            connection.execute("INSERT INTO conversation_users VALUES (%s, %s, now())", (group, user_id))
        connection.execute(
            """
            INSERT INTO messages (id, conversation_id, sender_id, content, created_at, updated_at, seq, rev)
            SELECT gen_random_uuid(), g.id, %s, repeat('word ', 20), now(), now(), n, n
            FROM generate_series(1, %s) n CROSS JOIN unnest(%s::uuid[]) AS g (id)
            """,
            (user_id, BIG, [conversation_id, other_id]),
        )
        connection.execute("VACUUM ANALYZE")
    return database, conversation_id


def explain(conninfo: str, query: str, types: str, values: tuple[object, ...], *, generic: bool) -> str:
    """Explains a prepared statement while running it, with a custom or a generic plan."""
    numbers = iter(range(1, 10))
    query = re.sub("%s", lambda _: f"${next(numbers)}", query)
    with psycopg.connect(conninfo, autocommit=True, row_factory=scalar_row) as connection:
        connection.execute(f"SET plan_cache_mode = force_{'generic' if generic else 'custom'}_plan")
        connection.execute(f"PREPARE it ({types}) AS {query}")
        arguments = psycopg.sql.SQL(", ").join(map(psycopg.sql.Literal, values))
        command = psycopg.sql.SQL("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF) EXECUTE it ({})")
        return "\n".join(connection.execute(command.format(arguments)).fetchall())


def buffers_of(plan: str) -> int:
    """Reads the number of pages that the query touched."""
    found = re.search(r"Buffers: shared ([^\n]*)", plan)
    assert found is not None, plan
    return sum(map(int, re.findall(r"(?:hit|read)=(\d+)", found[1])))


@pytest.mark.parametrize("query", [history._DOWNWARD, history._UPWARD], ids=["downward", "upward"])
@pytest.mark.parametrize("generic", [False, True])
def test_page_of_history_costs_the_same_at_every_depth(
    big_conversation: tuple[str, UUID], generic: bool, query: str
) -> None:
    database, conversation_id = big_conversation
    limit = 50
    with psycopg.connect(database) as connection:
        (user_id,) = connection.execute("SELECT id FROM users").fetchone() or ()
    for offset in (0, BIG // 2, BIG - limit):
        values = (user_id, offset, history.NO_BOUND, 1, limit, history.NO_BOUND, conversation_id)
        types = "uuid, bigint, bigint, bigint, bigint, bigint, uuid"
        plan = explain(database, query, types, values, generic=generic)
        assert re.search(r"Index Scan.* using messages_conversation_id_seq_key on messages", plan), plan
        assert "Seq Scan on messages" not in plan, plan
        # A page is a range of seqs: no other message is read.
        assert "Rows Removed" not in plan[plan.index("WindowAgg") :], plan
        # A few index pages and the pages of 50 rows, out of 20,000 messages.
        assert buffers_of(plan) <= 3 * limit, plan


async def test_history_reads_only_its_page(big_conversation: tuple[str, UUID]) -> None:
    database, conversation_id = big_conversation
    with trio.fail_after(LIMIT):
        async with open_store(database) as store:
            found = await store.find_account("a")
            assert found is not None
            for offset in (0, BIG // 2, BIG - 50):
                page = await store.page_messages(conversation_id, found.user.id, limit=50, offset=offset)
                assert [message.seq for message in page.messages] == list(range(BIG - offset, BIG - offset - 50, -1))
                assert page.total == BIG


# --- constraints ---


@pytest.fixture(scope="module")
def empty_database(cluster: Cluster) -> str:
    """A database that stays empty, because every test rolls back."""
    return cluster.new_database()


U, V, W, C, D, M, N = (str(UUID(int=n)) for n in range(1, 8))
_USER = "INSERT INTO users (id, username, username_key, subject, created_at, updated_at) VALUES "
_CONVERSATION = "INSERT INTO conversations (id, is_group, direct_key, owner_id, created_at, updated_at) VALUES "
_FORMER = "INSERT INTO former_members VALUES "
_MESSAGE = """
    INSERT INTO messages
        (id, conversation_id, sender_id, seq, rev, client_id, content, is_deleted, created_at, updated_at) VALUES
"""


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        (f"{_USER} ('{W}', 'Ann', 'ann', NULL, now(), now())", "UniqueViolation"),
        (f"{_USER} ('{W}', 'w', 'w', 'sub', now(), now())", "UniqueViolation"),
        (f"{_USER} ('{W}', '', '', NULL, now(), now())", "CheckViolation"),
        (f"{_USER} ('{W}', repeat('w', 33), 'w', NULL, now(), now())", "CheckViolation"),
        (f"{_CONVERSATION} ('{D}', false, '{U}:{V}', '{V}', now(), now())", "UniqueViolation"),
        (f"{_CONVERSATION} ('{D}', false, NULL, '{V}', now(), now())", "CheckViolation"),
        (f"{_CONVERSATION} ('{D}', true, 'x', '{V}', now(), now())", "CheckViolation"),
        (f"{_CONVERSATION} ('{D}', true, NULL, '{W}', now(), now())", "ForeignKeyViolation"),
        ("UPDATE conversations SET last_seq = -1", "CheckViolation"),
        ("UPDATE conversations SET last_rev = last_seq - 1", "CheckViolation"),
        ("UPDATE conversations SET members_rev = -1", "CheckViolation"),
        ("UPDATE conversations SET message_rev = last_rev + 1", "CheckViolation"),
        ("UPDATE conversations SET members_rev = last_rev + 1", "CheckViolation"),
        ("UPDATE conversations SET properties_rev = last_rev + 1", "CheckViolation"),
        ("UPDATE conversation_users SET rev = 1", "UniqueViolation"),
        ("UPDATE conversation_users SET rev = 0", "CheckViolation"),
        (f"{_FORMER} ('{C}', '{V}', 7, 1, now(), '{U}', '{{}}')", "UniqueViolation"),
        (f"{_FORMER} ('{C}', '{U}', 6, 1, now(), '{U}', '{{}}')", "UniqueViolation"),
        (f"{_FORMER} ('{D}', '{U}', 7, 1, now(), '{U}', '{{}}')", "ForeignKeyViolation"),
        (f"{_FORMER} ('{C}', '{W}', 7, 1, now(), '{U}', '{{}}')", "ForeignKeyViolation"),
        (f"INSERT INTO conversation_users VALUES ('{C}', '{U}', now())", "UniqueViolation"),
        ("UPDATE conversation_users SET read_seq = -1", "CheckViolation"),
        (f"INSERT INTO conversation_users VALUES ('{C}', '{W}', now())", "ForeignKeyViolation"),
        (f"INSERT INTO conversation_users VALUES ('{D}', '{U}', now())", "ForeignKeyViolation"),
        (f"{_MESSAGE} ('{M}', '{C}', '{U}', 2, 2, NULL, '', false, now(), now())", "UniqueViolation"),
        (f"{_MESSAGE} ('{N}', '{C}', '{U}', 1, 2, NULL, '', false, now(), now())", "UniqueViolation"),
        (f"{_MESSAGE} ('{N}', '{C}', '{V}', 0, 1, NULL, '', false, now(), now())", "CheckViolation"),
        (f"{_MESSAGE} ('{N}', '{C}', '{V}', -1, 2, NULL, '', false, now(), now())", "CheckViolation"),
        (f"{_MESSAGE} ('{N}', '{C}', '{V}', 3, 2, NULL, '', false, now(), now())", "CheckViolation"),
        (f"{_MESSAGE} ('{N}', '{C}', '{U}', 2, 2, 'c', '', false, now(), now())", "UniqueViolation"),
        (f"{_MESSAGE} ('{N}', '{C}', '{U}', 2, 2, '', '', false, now(), now())", "CheckViolation"),
        (f"{_MESSAGE} ('{N}', '{C}', '{U}', 2, 2, repeat('c', 65), '', false, now(), now())", "CheckViolation"),
        (f"{_MESSAGE} ('{N}', '{C}', '{U}', 2, 2, NULL, 'text', true, now(), now())", "CheckViolation"),
        (f"{_MESSAGE} ('{N}', '{C}', '{U}', 2, 2, NULL, NULL, false, now(), now())", "NotNullViolation"),
        (f"DELETE FROM users WHERE id = '{U}'", "ForeignKeyViolation"),
        ("INSERT INTO history (epoch, server) VALUES ('a', 'b'), ('c', 'd')", "UniqueViolation"),
        ("INSERT INTO history VALUES (false, 'a', 'b')", "CheckViolation"),
    ],
)
def test_constraints_reject_invalid_rows(empty_database: str, statement: str, error: str) -> None:
    with psycopg.connect(empty_database) as connection:
        connection.execute(
            f"""
            {_USER} ('{U}', 'ann', 'ann', 'sub', now(), now()), ('{V}', 'bo', 'bo', NULL, now(), now());
            {_CONVERSATION} ('{C}', false, '{U}:{V}', '{U}', now(), now());
            INSERT INTO conversation_users VALUES ('{C}', '{U}', now()), ('{C}', '{V}', now());
            {_FORMER} ('{C}', '{V}', 6, 1, now(), '{U}', '{{}}');
            {_MESSAGE} ('{M}', '{C}', '{U}', 1, 1, 'c', 'hello', false, now(), now());
            """
        )
        with pytest.raises(getattr(psycopg.errors, error)):
            connection.execute(statement)
        connection.rollback()


async def test_missing_schema_is_unavailable(cluster: Cluster) -> None:
    conninfo = cluster.new_database(migrated=False)
    with trio.fail_after(LIMIT):
        async with open_store(conninfo) as store:
            with pytest.raises(StoreUnavailable):
                await store.head(UUID(int=1))
            await trio.to_thread.run_sync(migrate, conninfo)
            with pytest.raises(NotAMember):
                await store.head(UUID(int=1))


# --- several rooms ---


async def test_concurrent_posts_of_rooms_share_transactions(cluster: Cluster) -> None:
    conninfo = cluster.new_database()
    async with open_group(conninfo, groups=50) as (store, _, alice, groups):
        async with trio.open_nursery() as nursery:
            for group in groups:
                nursery.start_soon(store.apply, [post(group, alice)])
        with psycopg.connect(conninfo) as connection:
            row = connection.execute("SELECT count(*), count(DISTINCT xmin::text) FROM messages").fetchone()
        assert row is not None
        assert row[0] == 50
        assert row[1] < 25
    cluster.drop_database(conninfo)


async def test_concurrent_edits_of_rooms_share_transactions(cluster: Cluster) -> None:
    conninfo = cluster.new_database()
    async with open_group(conninfo, groups=50) as (store, people, alice, groups):
        sent = [(await people.send(group, alice, "one", "two")) for group in groups]
        async with trio.open_nursery() as nursery:
            for one, two in sent:
                nursery.start_soon(store.apply, [edit(one, alice, "a"), edit(two, alice, "b"), edit(one, alice, "c")])
        for group, (_, two) in zip(groups, sent, strict=True):
            log = [(change.rev, change.content) for change in await people.log(group) if isinstance(change, Message)]
            assert log == [(two.rev + 2, "b"), (two.rev + 3, "c")]
        with psycopg.connect(conninfo) as connection:
            row = connection.execute("SELECT count(*), count(DISTINCT xmin::text) FROM messages").fetchone()
        assert row is not None
        assert row[0] == 100
        assert row[1] < 25
    cluster.drop_database(conninfo)


@pytest.mark.parametrize("kind", ["post", "edit"])
async def test_a_locked_conversation_delays_no_other(cluster: Cluster, kind: str) -> None:
    conninfo = cluster.new_database()
    async with open_group(conninfo, groups=20) as (store, people, alice, groups):
        sent = {group: (await people.send(group, alice, "one"))[0] for group in groups}

        def make(group: UUID) -> Command:
            return post(group, alice) if kind == "post" else edit(sent[group], alice, "edited")

        async with await TrioConnection.connect(conninfo) as rival:
            await rival.execute("SELECT FROM conversations WHERE id = %s FOR UPDATE", (groups[7],))
            failed: list[UUID] = []

            async def send(group: UUID) -> None:
                try:
                    await store.apply([make(group)])
                except StoreUnavailable:
                    failed.append(group)

            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    for group in groups:
                        nursery.start_soon(send, group)
            assert failed == [groups[7], groups[7]]
            await rival.rollback()
        await store.apply([make(groups[7])])
        for group in groups:
            assert (await store.head(group)).last_rev == (2 if group == groups[7] else 3)
    cluster.drop_database(conninfo)


async def test_a_rejected_message_fails_no_other_room(cluster: Cluster) -> None:
    conninfo = cluster.new_database()
    async with open_group(conninfo, groups=10) as (store, _, alice, groups):
        refused: list[UUID] = []

        async def send(group: UUID, content: str) -> None:
            try:
                await store.apply([post(group, alice, content)])
            except StoreRefused:
                refused.append(group)

        async with trio.open_nursery() as nursery:
            for number, group in enumerate(groups):
                nursery.start_soon(send, group, "\0" if number == 4 else "fine")
        assert refused == [groups[4]]
        assert [(await store.head(group)).last_seq for group in groups] == [1, 1, 1, 1, 0, 1, 1, 1, 1, 1]
    cluster.drop_database(conninfo)


async def test_a_transaction_has_a_bounded_number_of_statements(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction holds the rows of its conversations: edits of the same messages must not make a long one."""
    run, sizes = Connected.all_under_locks, []

    async def counted(store: Connected, keys: Any, statements: Any, **options: Any) -> Any:
        sizes.append(len(statements))
        return await run(store, keys, statements, **options)

    with trio.fail_after(LIMIT):
        async with open_group(database) as (store, _, user, [group]):
            posted = await store.apply([post(group, user, f"{number}") for number in range(60)])
            monkeypatch.setattr(Connected, "all_under_locks", counted)
            found = messages(posted)
            edits = [edit(message, user, text) for message in found for text in ("first", "second")]
            outcomes = await store.apply(edits)
            assert len(sizes) > 1
            assert max(sizes) <= revisions.MAX_STATEMENTS
            contents = [message.content for message in messages(outcomes)]
            assert contents == ["first", "second"] * len(found)
            revs = [message.rev for message in messages(outcomes)]
            assert revs == list(range(revs[0], revs[0] + len(edits)))
            # A repeat of all, as after a lost answer, changes nothing.
            again = await store.apply(edits)
            assert {message.content for message in messages(again)} == {"second"}
            assert (await store.head(group)).last_rev == revs[-1]
