"""Installs a lock file and this checkout into an environment: shows the progress, and says in one line what went wrong.

Runs on any Python from 3.11 on, with nothing installed: `python3 tools/install.py .venv requirements.lock`.
"""

import argparse
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
SHOWN_EVERY: Final = 10.0  # seconds, where no person watches the line change
LOG: Final = "install.log"

# What pip or venv wrote, and what to do. The first match counts.
ADVICE: Final = {
    r"No module named '?ensurepip|ensurepip is not available": (
        "Python's venv is incomplete: on Debian, apt-get install python3-venv"
    ),
    r"No space left on device": "the disk is full: free some space (the service needs 300 MB, its tests 1 GB)",
    r"Read-only file system": "the folder is on a read-only file system: work on a copy that can be written",
    r"Permission denied": "the folder is not yours to write: run make under the account that owns it",
    r"DO NOT MATCH THE HASHES": (
        "a package of the index is not the one of the lock file: do not install it, and try another index"
    ),
    r"ProxyError|Cannot connect to proxy": "the proxy cannot be reached: check HTTPS_PROXY",
    r"SSLError|CERTIFICATE_VERIFY_FAILED": (
        "the certificate of the package index is not trusted: PIP_CERT names a file with the right authority"
    ),
    r"NewConnectionError|Failed to establish|Connection refused|Name or service not known|ConnectTimeout|"
    r"Read timed out|Network is unreachable|Temporary failure in name resolution": (
        "the package index cannot be reached: check the network, HTTPS_PROXY or PIP_INDEX_URL"
    ),
    r"from versions: none": "the package index cannot be reached, or does not have it: check PIP_INDEX_URL",
    r"No matching distribution found": (
        "the index has no such version for this Python and system: try another with PYTHON=/usr/bin/python3"
    ),
}


class InstallError(Exception):
    """A reason why nothing could be installed, and what to do: one line."""


def advise(output: str) -> str:
    """Returns one line for a failed command: what it says, and what helps."""
    errors = re.findall(r"(?im)^(?:.*\berror:\s*)(.+)$", output)
    said = errors[-1] if errors else (output.strip().splitlines() or ["no reason given"])[-1]
    for pattern, advice in ADVICE.items():
        if re.search(pattern, output, re.IGNORECASE):
            return f"{advice} ({said.strip()})"
    return said.strip()


def create_environment(folder: Path) -> None:
    """Creates a virtual environment, or leaves nothing behind.

    Raises:
        InstallError: the folder or this Python does not allow it.
    """
    # What is left of one whose Python is gone is no use.
    again = ["--clear"] if (folder / "pyvenv.cfg").exists() else []
    command = [sys.executable, "-m", "venv", *again, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise InstallError(f"{folder} cannot be created: {advise(done.stdout + done.stderr)}")


def count_packages(lock: Path) -> int:
    """Returns the number of packages that a lock file names."""
    return len(re.findall(r"(?m)^[A-Za-z0-9][\w.-]*==", lock.read_text(encoding="utf-8")))


class Progress:
    """One line that changes, on a terminal; elsewhere a line now and then."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.found = 0
        self._start = self._shown = time.monotonic()
        self._is_terminal = sys.stdout.isatty()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def note(self, line: str) -> None:
        """Reads one line of pip's."""
        if line.startswith("Collecting "):
            self.found += 1
            self._show(f"{min(self.found, self.total)} of {self.total} packages, {self.seconds:.0f} s")
        elif line.startswith("Installing collected packages"):
            self._show(f"unpacking them, {self.seconds:.0f} s", is_last=True)

    def _show(self, text: str, *, is_last: bool = False) -> None:
        if self._is_terminal:
            print(f"\r  {text:<60}", end="\n" if is_last else "", flush=True)
        elif is_last or time.monotonic() - self._shown > SHOWN_EVERY:
            self._shown = time.monotonic()
            print(f"  {text}", flush=True)


def run_pip(folder: Path, *arguments: str, progress: Progress) -> None:
    """Runs pip in an environment, with its output in a file there.

    Raises:
        InstallError: pip failed.
    """
    # By default pip tries an index that is down for most of a minute, for each package.
    environment = {"PIP_RETRIES": "2", "PIP_DEFAULT_TIMEOUT": "30", **os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--no-input", *arguments]
    output = []
    with (
        (folder / LOG).open("a", encoding="utf-8") as log,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as pip,
    ):
        assert pip.stdout is not None
        for line in pip.stdout:
            log.write(line)
            output.append(line)
            progress.note(line)
    if pip.returncode:
        if sys.stdout.isatty():
            print()
        raise InstallError(f"{advise(''.join(output))}; all of pip's output is in {folder / LOG}")


def find_private_folder(path: Path) -> Path | None:
    """Returns the folder above a path that other accounts cannot enter, if there is one."""
    for folder in reversed(path.resolve().parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


def install(folder: Path, lock: Path, *, editable: bool) -> None:
    """Installs the packages of a lock file, and this checkout if `editable`."""
    progress = Progress(count_packages(lock))
    print(
        f"Installing the {progress.total} packages of {lock.name} into {folder}: once, a minute or two ...", flush=True
    )
    if not (folder / "bin" / "python").exists():
        create_environment(folder)
    run_pip(folder, "--require-hashes", "-r", str(lock), progress=progress)
    if editable:
        run_pip(folder, "--no-deps", "--no-build-isolation", "--editable", ".", progress=progress)
    print(f"Installed in {progress.seconds:.0f} s.", flush=True)
    private = find_private_folder(folder / "bin" / "python")
    if os.geteuid() == 0 and private is not None:
        print(
            f"Only root can use {folder}, because its Python is in {private}. For a service account: "
            f"rm -r {folder} && make PYTHON=/usr/bin/python3 {folder}/serve.stamp",
            flush=True,
        )


def main() -> int:
    """Runs the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the environment; created if missing")
    parser.add_argument("lock", type=Path, help="the lock file")
    parser.add_argument("--only-lock", action="store_true", help="do not install this checkout")
    options = parser.parse_args()
    try:
        install(options.folder, options.lock, editable=not options.only_lock)
    except InstallError as error:
        print(f"install: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"install: {advise(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("install: stopped; run the same command again to continue", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
