"""A folder for a test, and a server for a whole module: starting one takes two seconds of CPU, most of it imports."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, traversable_folder
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


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's and a proxy's account can enter, unlike pytest's `tmp_path`."""
    folder = traversable_folder()
    yield folder
    shutil.rmtree(folder)
