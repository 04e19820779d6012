"""Fixtures: a browser and a server for each module, a desk for each test."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.chromium import is_left_out, killed_after, launch
from tests.browser.people import Account, Desk
from tests.support.cluster import Cluster
from tests.support.server import Server

collect_ignore_glob = ["test_*.py"] if is_left_out() else []

SCREENSHOTS = Path(__file__).parent.parent.parent / "build" / "screenshots"
TEST_SECONDS = 240  # less than `faulthandler_timeout`, which ends the whole process
_numbers = count(1)

expect.set_options(timeout=15_000)


# Not one for the session: Playwright runs an event loop in this thread, and Trio's must not run beside it.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium."""
    with sync_playwright() as playwright:
        started = launch(playwright)
        yield started
        with killed_after(60):
            started.close()


@pytest.fixture(scope="module")
def shared_database(cluster: Cluster) -> Iterator[str]:
    """The database of `shared`."""
    conninfo = cluster.new_database()
    yield conninfo
    cluster.drop_database(conninfo)


@pytest.fixture(scope="module")
def shared(browser: Browser, shared_database: str) -> Iterator[Server]:
    """A server for a module; each test has users of its own."""
    server = Server({"DATABASE_URL": shared_database}).wait_ready()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """Ends a test that hangs in the browser."""
    with killed_after(TEST_SECONDS):
        yield


@pytest.fixture
def desk(browser: Browser, shared: Server) -> Iterator[Desk]:
    """Windows on the shared server."""
    opened = Desk(browser, shared.base_url)
    yield opened
    opened.leave()


@pytest.fixture
def person(shared: Server) -> Callable[[str], Account]:
    """Makes accounts with a number after the given name."""
    return lambda name: Account.register(shared.base_url, f"{name}{next(_numbers)}")


def keep(page: Page, name: str) -> None:
    """Saves a screenshot for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
