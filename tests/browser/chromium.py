"""The system's Chromium, driven by Playwright; Playwright's own downloads are never used."""

import os
import shutil
from typing import Any, Final

import pytest

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
ADVICE: Final = "No Chromium: the tests of the web client are left out. On Debian: apt-get install chromium"
FLAGS: Final = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
)


def executable() -> str | None:
    """Where it is, if there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def is_left_out() -> bool:
    """Whether the tests that need it are left out. In CI (`CI=true`) they are not: there they fail without one."""
    return executable() is None and os.environ.get("CI") != "true"


def launch(playwright: Any) -> Any:
    """A browser without a window."""
    path = executable()
    if path is None:
        pytest.fail(ADVICE, pytrace=False)
    # Its sandbox does not run as root.
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else list(FLAGS)
    return playwright.chromium.launch(executable_path=path, args=flags)
