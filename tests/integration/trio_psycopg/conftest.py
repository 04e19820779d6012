"""Fixtures for the driver's own tests."""

from collections.abc import AsyncIterator

import pytest
import trio

from pulse_trio.trio_psycopg import TrioConnection
from tests.support.cluster import Cluster


@pytest.fixture
def conninfo(cluster: Cluster) -> str:
    """A database shared by these tests."""
    return cluster.conninfo


@pytest.fixture
async def conn(conninfo: str) -> AsyncIterator[TrioConnection[tuple[object, ...]]]:
    """A connection in autocommit, and a table `t (n int, s text)`."""
    with trio.fail_after(30):
        connection = await TrioConnection.connect(conninfo, autocommit=True)
        await connection.execute("drop table if exists t; create table t (n int, s text)")
    try:
        yield connection
    finally:
        connection.abort()
