"""The system's Chromium, driven by Playwright; Playwright's own downloads are never used."""

import os
import shutil
from typing import Any, Final

import pytest

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
ADVICE: Final = "there is no Chromium for the tests of the web client; on Debian: apt-get install chromium"
FLAGS: Final = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
)


def executable() -> str:
    """Where it is. Without one the tests are skipped; in CI (`CI=true`) they fail."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(ADVICE, pytrace=False)
        pytest.skip(ADVICE)
    return path


def launch(playwright: Any) -> Any:
    """A browser without a window."""
    # Its sandbox does not run as root.
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else list(FLAGS)
    return playwright.chromium.launch(executable_path=executable(), args=flags)
