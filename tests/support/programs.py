"""Programs of the system that some tests need."""

import os
import shutil

import pytest


def require_program(name: str, package: str) -> str:
    """The path of a program; without it the test is skipped, but under CI it fails."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        reason = f"`{name}` is not installed (Debian: apt-get install {package})"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found
