"""Starts and stops the system's Chromium. Playwright drives it; its own downloads are not used."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
ADVICE: Final = "No Chromium: the tests of the web client are skipped. On Debian: apt-get install chromium"
FLAGS: Final = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
    "--disable-dev-shm-usage",  # in containers /dev/shm is often 64 MB
)


def executable() -> str | None:
    """Returns its path, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def is_left_out() -> bool:
    """Returns true if tests in a browser are skipped. In CI (`CI=true`) they fail without one instead."""
    return executable() is None and os.environ.get("CI") != "true"


def launch(playwright: Any) -> Any:
    """Starts a browser without a window."""
    path = executable()
    if path is None:
        pytest.fail(ADVICE, pytrace=False)
    # Its sandbox does not run as root.
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else list(FLAGS)
    return playwright.chromium.launch(executable_path=path, args=flags)


@contextmanager
def killed_after(seconds: float) -> Iterator[None]:
    """Kills this process's browsers if the block takes longer, so that the call that waits for one fails.

    Most calls of Playwright have a timeout; `evaluate` and `close` have none.
    """
    timer = threading.Timer(seconds, _kill_browsers)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _kill_browsers() -> None:
    parents, names = {}, {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            pid, _, rest = entry.read_text().partition(" (")
            name, _, fields = rest.rpartition(") ")
            names[int(pid)], parents[int(pid)] = name, int(fields.split()[1])
    for pid, name in names.items():
        ancestor = pid
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor]
        if ancestor == os.getpid() and name.startswith(("chrom", "google-chrome")):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
