"""Programs that tests run beside a server, and what they print."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest
import trio

POSTGRES: Final = Path("/usr/lib/postgresql")  # where Debian has it

_WITH_WS = Path(__file__).parent.parent / "e2e" / "specification" / "with_ws.cjs"


class Running:
    """A program at work, and the lines that it prints."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdout is not None
        self.process = process
        self.lines: list[str] = []
        self._output = process.stdout
        self._rest = b""

    async def wait_line(self, text: str) -> None:
        """Returns when the program prints a line with this text in it."""
        with trio.move_on_after(20):
            is_running = True
            while not any(text in line for line in self.lines):
                assert is_running, f"the program ended before it said {text!r}; it said: {self.lines}"
                is_running = await self._read()
            return
        raise AssertionError(f"the program does not say {text!r}; it said: {self.lines}")

    async def wait_end(self) -> int:
        """Reads what else it prints; returns its exit code."""
        with trio.fail_after(20):
            while await self._read():
                pass
            return await self.process.wait()

    async def _read(self) -> bool:
        chunk = await self._output.receive_some()
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if not chunk and self._rest:  # the last line has no end
            lines, self._rest = [self._rest], b""
        self.lines += [line.decode() for line in lines]
        return bool(chunk)


@asynccontextmanager
async def running(*command: str, **options: Any) -> AsyncIterator[Running]:
    """Runs a program for the length of the block; `options` as of `trio.run_process`."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "check": False, **options}
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(partial(trio.run_process, list(command), **options))
        yield Running(process)
        process.kill()


def node() -> list[str]:
    """Returns the command that runs JavaScript with the WebSocket of browsers.

    Node.js has it since version 22, behind a flag since 20.10; for older ones Debian's package node-ws does.
    """
    found = shutil.which("node")
    if found is None:
        pytest.skip("no Node.js here: apt-get install nodejs node-ws")
    for options in ([], ["--experimental-websocket"], ["--require", str(_WITH_WS)]):
        check = [found, *options, "--eval", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]
        if subprocess.run(check, capture_output=True, check=False).returncode == 0:
            return [found, *options]
    pytest.skip("this Node.js has no WebSocket: apt-get install node-ws, or use Node.js 22")


def require_program(name: str, package: str) -> str:
    """The path of a program; without it the test is skipped, but under CI it fails."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        leave_out(f"`{name}` is not installed (Debian: apt-get install {package})")
    return found


def require_postgres() -> Path:
    """The folder of the programs of the system's newest PostgreSQL; as `require_program` without one."""
    found = sorted(POSTGRES.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        leave_out(f"there is no PostgreSQL in {POSTGRES} (Debian: apt-get install postgresql)")
    return found[-1].parent


def leave_out(reason: str) -> NoReturn:
    """Skips the test, but fails it under CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
