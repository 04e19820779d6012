"""Fixtures for all tests; tests/README.md has the rules."""

import faulthandler
import os
import sys
from collections.abc import Callable, Generator, Iterator
from typing import Final

import pytest
from hypothesis import settings

from tests.browser.chromium import ADVICE, is_left_out
from tests.support.cluster import Cluster
from tests.support.server import Server

STDERR: Final = pytest.StashKey[int]()

# Hypothesis limits the wall time of an example, 200 ms, which other work on the machine can take.
settings.register_profile("any machine", settings.default, deadline=None)
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option of `make test-cluster`."""
    parser.addoption(
        "--workers", type=int, default=1, metavar="N", help="let each server of a test be a cluster of N processes"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Keeps the real stderr: during a test pytest captures it."""
    assert sys.__stderr__ is not None
    config.stash[STDERR] = os.dup(sys.__stderr__.fileno())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Limits the clean-up as well: after a failure pytest no longer applies `faulthandler_timeout` to it."""
    seconds = float(item.config.getini("faulthandler_timeout"))
    if seconds > 0:
        faulthandler.dump_traceback_later(seconds, exit=True, file=item.config.stash[STDERR])
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints once that the browser tests were skipped, and why."""
    if is_left_out():
        terminalreporter.write_line(ADVICE, yellow=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One PostgreSQL for all tests that do not break it."""
    shared = Cluster()
    shared.start()
    yield shared
    shared.remove()


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """A PostgreSQL that the test may kill."""
    own = Cluster()
    own.start()
    yield own
    own.remove()


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """The connection string of a database of the test's own, with the current schema."""
    conninfo = cluster.new_database()
    yield conninfo
    cluster.drop_database(conninfo)


@pytest.fixture
def start_server(request: pytest.FixtureRequest, database: str) -> Iterator[Callable[..., Server]]:
    """Starts servers on the test's database, unless the settings name another; stops them after the test."""
    servers: list[Server] = []
    workers = request.config.getoption("--workers")

    def start(*arguments: str, **settings: str) -> Server:
        if not {"DATABASE_URL", "PULSE_DATA_DIR"} & set(settings):
            settings = {"DATABASE_URL": database, **settings}
        if workers > 1:
            settings = {"PULSE_WORKERS": str(workers), **settings}
        server = Server(settings, *arguments)
        servers.append(server)
        return server.wait_ready()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Server:
    """A server with default settings."""
    return start_server()
