"""The installer: its progress, and one line of advice for each way in which it can fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.install import advise, count_packages, find_private_folder

ROOT = Path(__file__).resolve().parents[3]


def run_install(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the installer; pip sees these variables and no configuration of this machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "install.py"), *arguments],
        env={**kept, "PIP_CONFIG_FILE": os.devnull, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("output", "part"),
    [
        ("/usr/bin/python3: No module named ensurepip", "apt-get install python3-venv"),
        ("The virtual environment was not created ... because ensurepip is not available.", "python3-venv"),
        ("Error: [Errno 30] Read-only file system: '/srv/.venv'", "read-only file system: work on a copy"),
        ("Error: [Errno 13] Permission denied: '/srv/.venv'", "not yours to write"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "do not install it"),
        (
            "WARNING: ProxyError('Cannot connect to proxy.')\nERROR: No matching distribution found for trio",
            "HTTPS_PROXY",
        ),
        ("Connection refused\nERROR: No matching distribution found for trio==1", "cannot be reached"),
        ("ERROR: No matching distribution found for trio==99", "no such version for this Python"),
        ("something else\nERROR: it broke", "it broke"),
    ],
)
def test_advice_fits_the_error(output: str, part: str) -> None:
    line = advise(output)
    assert part in line
    assert "\n" not in line
    assert ("python3-venv" in line) == ("ensurepip" in output)


def test_an_index_that_is_down_is_named_soon_and_in_one_line(tmp_path: Path) -> None:
    venv, lock = tmp_path / "venv", tmp_path / "some.lock"
    lock.write_text("# nothing\n")
    done = run_install("--only-lock", str(venv), str(lock))
    assert (done.returncode, done.stderr) == (0, "")
    first, last, *_ = done.stdout.splitlines()
    assert "the 0 packages of some.lock" in first
    assert last.startswith("Installed in ")
    lock.write_text("trio==0.35.0 --hash=sha256:" + "0" * 64 + "\n")
    done = run_install(str(venv), str(lock), PIP_INDEX_URL="http://127.0.0.1:1/simple", PIP_RETRIES="1")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("install: the package index cannot be reached")
    assert "trio==0.35.0" in (venv / "install.log").read_text()


def test_a_folder_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    lock = tmp_path / "some.lock"
    lock.write_text("")
    (tmp_path / "file").write_text("")
    done = run_install(str(tmp_path / "file" / "venv"), str(lock))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "cannot be created" in line or "Not a directory" in line
    assert "python3-venv" not in line


def test_packages_of_a_lock_file_are_counted(tmp_path: Path) -> None:
    lock = tmp_path / "some.lock"
    lock.write_text('a==1 \\\n    --hash=sha256:0\nb-c==2 ; python_version < "3.13" \\\n    --hash=sha256:0\n# d==3\n')
    assert count_packages(lock) == 2


def test_a_folder_closed_to_other_accounts_is_found(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "bin").mkdir(parents=True)
    closed.chmod(0o700)
    assert find_private_folder(closed / "bin" / "python") is not None
    assert find_private_folder(Path("/usr/bin/env")) is None
