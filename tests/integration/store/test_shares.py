"""Each operation of the store takes a connection from the share of its use: none needs what the others may hold."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Final
from uuid import UUID

import pytest
import trio
import trio.testing

from pulse_trio.database.sessions import STORE_SETTINGS
from pulse_trio.model import Kind
from pulse_trio.store.base import ReadMark, Store, StoreUnavailable, User
from pulse_trio.store.postgres import MESSAGE_CONNECTIONS, PostgresStore
from pulse_trio.store.postgres.callers import Caller, shares
from pulse_trio.trio_psycopg import Pool, TrioConnection
from tests.contract.people import People
from tests.support.commands import START, add, new_id, set_properties

LIMIT = 60  # seconds for a test
SIZE = 8  # connections of the pool

Operation = Callable[[PostgresStore, UUID, User], Awaitable[object]]

OPERATIONS: Final[dict[str, tuple[Caller, Operation]]] = {
    "ping": (Caller.LOOK_UPS, lambda store, _, __: store.ping()),
    "find_account": (Caller.LOOK_UPS, lambda store, _, __: store.find_account("alice")),
    "find_subject": (Caller.LOOK_UPS, lambda store, _, alice: store.find_subject("s", alice.id)),
    "membership": (Caller.LOOK_UPS, lambda store, group, alice: store.membership(group, alice.id)),
    "admission": (Caller.LOOK_UPS, lambda store, group, alice: store.admission(group, "s", alice.id)),
    "get_conversation": (Caller.LOOK_UPS, lambda store, group, alice: store.get_conversation(group, alice.id)),
    "search_users": (Caller.LISTS, lambda store, _, alice: store.search_users("a", limit=1, by=alice.id)),
    "list_conversations": (Caller.LISTS, lambda store, _, alice: store.list_conversations(alice.id, limit=1)),
    "page_members": (Caller.LISTS, lambda store, group, alice: store.page_members(group, alice.id, limit=1)),
    "page_messages": (Caller.LISTS, lambda store, group, alice: store.page_messages(group, alice.id, limit=1)),
    "acquaintances": (Caller.LISTS, lambda store, _, alice: store.acquaintances(alice.id, [alice.id])),
    "memberships": (Caller.ROOMS, lambda store, group, alice: store.memberships(alice.id, [group])),
    "members": (Caller.ROOMS, lambda store, group, _: store.members(group)),
    "head": (Caller.ROOMS, lambda store, group, _: store.head(group)),
    "heads": (Caller.ROOMS, lambda store, group, _: store.heads([group])),
    "user_revs": (Caller.ROOMS, lambda store, _, alice: store.user_revs([alice.id])),
    "take_lease": (Caller.LOOK_UPS, lambda store, _, __: store.take_lease(new_id())),
    "renew_lease": (Caller.LOOK_UPS, lambda store, _, __: store.renew_lease(new_id())),
    "leases": (Caller.CHANGES, lambda store, _, __: store.leases()),
    "fence_leases": (Caller.CHANGES, lambda store, _, __: store.fence_leases([new_id()])),
    "end_leases": (Caller.CHANGES, lambda store, _, __: store.end_leases([new_id()])),
    "changes": (Caller.ROOMS, lambda store, group, _: store.changes(group, after_rev=0, kinds=Kind.ALL, limit=1)),
    "user_changes": (Caller.ROOMS, lambda store, _, alice: store.user_changes(alice.id, after_rev=0, limit=1)),
    "create_user": (
        Caller.CHANGES,
        lambda store, _, __: store.create_user(
            User(new_id(), "bob"), password_hash=None, subject=None, created_at=START
        ),
    ),
    "set_password_hash": (
        Caller.CHANGES,
        lambda store, _, alice: store.set_password_hash(alice.id, "h", old_hash="hash"),
    ),
    "create_conversation": (
        Caller.CHANGES,
        lambda store, _, alice: store.create_conversation(People(store).conversation(alice)),
    ),
    "apply": (Caller.CHANGES, lambda store, group, alice: store.apply([set_properties(group, alice, name="x")])),
    "mark_read": (Caller.CHANGES, lambda store, group, alice: store.mark_read([ReadMark(group, alice.id, 1)])),
    "mark_seen": (Caller.CHANGES, lambda store, _, alice: store.mark_seen({alice.id: START})),
}


@asynccontextmanager
async def open_store(conninfo: str) -> AsyncIterator[tuple[PostgresStore, Pool]]:
    """Opens a store and its main pool, whose connections are all made already: a task that waits has no share."""
    options = {"autocommit": True, "server_settings": STORE_SETTINGS, "acquire_timeout": LIMIT}
    with trio.fail_after(LIMIT):
        async with (
            Pool(conninfo, min_size=SIZE, max_size=SIZE, shares=shares(SIZE), **options) as pool,  # type: ignore[arg-type]
            Pool(conninfo, max_size=MESSAGE_CONNECTIONS, **options) as message_pool,  # type: ignore[arg-type]
        ):
            async with AsyncExitStack() as every:
                for _ in range(SIZE // 2):
                    await every.enter_async_context(pool.connection(Caller.LISTS))
                for _ in range(SIZE // 4):
                    await every.enter_async_context(pool.connection(Caller.ROOMS))
                for caller in (Caller.LOOK_UPS, Caller.CHANGES):
                    await every.enter_async_context(pool.connection(caller))
            assert pool.statistics().idle == SIZE
            yield PostgresStore(pool, message_pool=message_pool), pool


@contextmanager
def taken(pool: Pool, *callers: Caller) -> Iterator[list[int]]:
    """Takes all that each use can have, in turn; yields the numbers of connections."""
    counts = []
    for caller in callers:
        counts.append(0)
        with suppress(trio.WouldBlock):
            while True:
                pool._slots.acquire_nowait(caller)
                counts[-1] += 1
    yield counts
    for caller, count in zip(callers, counts, strict=True):
        for _ in range(count):
            pool._slots.release(caller)


def test_every_operation_has_a_row() -> None:
    without_connection = {"epoch", "apply_soon"}  # the second queues what a lane carries out, as `apply` does
    operations = {name for name in vars(Store) if not name.startswith("_")} - without_connection
    assert set(OPERATIONS) == operations


async def test_lists_are_shared_between_users(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with many searches has them one after the other, and another user's turn comes in between."""
    keys: list[object] = []
    lend = Pool.connection

    def noted(pool: Pool, caller: Caller | None = None, key: object = None) -> object:
        if caller is Caller.LISTS:
            keys.append(key)
        return lend(pool, caller, key)

    async with open_store(database) as (store, _):
        alice = await People(store).user("alice")
        group = await People(store).group(alice)
        monkeypatch.setattr(Pool, "connection", noted)
        for name, (caller, operation) in OPERATIONS.items():
            if caller is Caller.LISTS:
                await operation(store, group, alice)
                assert keys == [alice.id], name
                keys.clear()


@pytest.mark.parametrize("caller", Caller)
async def test_a_use_takes_at_most_half_and_leaves_the_others_their_share(caller: Caller, database: str) -> None:
    async with open_store(database) as (store, pool):
        alice = await People(store).user("alice")
        group = await People(store).group(alice)
        operations = [operation for use, operation in OPERATIONS.values() if use is caller]
        with taken(pool, caller) as counts:
            assert counts == [SIZE // 2]
            for operation in operations:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(operation, store, group, alice)
                    await trio.testing.wait_all_tasks_blocked()
                    assert pool.statistics().waiting == 1
                    nursery.cancel_scope.cancel()
        with taken(pool, *[other for other in Caller if other is not caller]) as counts:
            assert counts == [4, 2, 1]
            for operation in operations:
                await operation(store, group, alice)


async def test_users_have_their_turns(database: str) -> None:
    """One with a hundred lists waiting delays the list of another by a few of them."""
    async with open_store(database) as (store, pool):
        alice, bob = await People(store).users("alice", "bob")
        done: list[User] = []

        async def load(user: User) -> None:
            await store.list_conversations(user.id, limit=1)
            done.append(user)

        async with trio.open_nursery() as nursery:
            with taken(pool, Caller.LISTS):
                for _ in range(100):
                    nursery.start_soon(load, alice)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(load, bob)
                await trio.testing.wait_all_tasks_blocked()
        assert len(done) == 101
        assert done.index(bob) < SIZE


async def test_changes_that_wait_for_a_row_leave_connections_for_the_others(database: str) -> None:
    async with open_store(database) as (store, pool):
        people = People(store)
        alice, bob = await people.users("alice", "bob")
        busy, free = await people.group(alice), await people.group(alice)
        rival = await TrioConnection.connect(database)
        try:
            await rival.execute("SELECT FROM conversations WHERE id = %s FOR UPDATE", (busy,))

            async def change() -> None:
                with suppress(StoreUnavailable):
                    await store.apply([add(busy, alice, bob)])

            async with trio.open_nursery() as nursery:
                for _ in range(2 * SIZE):
                    nursery.start_soon(change)
                await trio.testing.wait_all_tasks_blocked()
                assert pool.statistics().waiting == 2 * SIZE - SIZE // 2
                assert await store.membership(free, alice.id) == 0
                assert (await store.head(free)).last_rev == 0
                assert (await store.list_conversations(alice.id, limit=5)).total == 2
                nursery.cancel_scope.cancel()
        finally:
            await rival.close()
