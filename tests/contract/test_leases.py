"""Leases of processes."""

from pulse_trio.store.base import Store
from tests.support.commands import new_id


async def test_lease_is_renewed_and_shows_the_others(store: Store) -> None:
    mine, other = new_id(), new_id()
    await store.take_lease(mine)
    await store.take_lease(other)
    first = await store.renew_lease(mine)
    second = await store.renew_lease(mine)
    assert first is not None
    assert second is not None
    assert set(first) == set(second) == {mine, other}
    assert second[mine] == first[mine] + 1
    assert second[other] == first[other]
    assert set(await store.leases()) == {mine, other}


async def test_fenced_lease_cannot_be_renewed_and_is_still_listed(store: Store) -> None:
    mine, other = new_id(), new_id()
    await store.take_lease(mine)
    await store.take_lease(other)
    await store.fence_leases([mine])
    assert await store.renew_lease(mine) is None
    assert await store.renew_lease(other) is not None
    await store.take_lease(mine)  # repeated: its answer may have been lost
    assert await store.renew_lease(mine) is None
    assert set(await store.leases()) == {mine, other}


async def test_ended_lease_is_gone(store: Store) -> None:
    mine = new_id()
    await store.take_lease(mine)
    await store.end_leases([mine, new_id()])
    assert await store.leases() == []
    assert await store.renew_lease(mine) is None
    await store.fence_leases([mine])
    assert await store.leases() == []
