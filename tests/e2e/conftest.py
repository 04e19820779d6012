"""A server for a whole module: starting one takes about two seconds of CPU, most of it imports."""

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster
from tests.support.server import Server


@pytest.fixture(scope="module")
def shared_server(cluster: Cluster) -> Iterator[Server]:
    """A server with default settings for tests that only ask it: they count nothing and leave no limit used up."""
    conninfo = cluster.new_database()
    server = Server({"DATABASE_URL": conninfo})
    try:
        yield server.wait_ready()
    finally:
        server.stop()
        cluster.drop_database(conninfo)
