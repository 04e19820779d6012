"""The real program, in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

SECRET = "the key of the tests: 8f1d0c2e7b5a49d3"
METRICS_TOKEN = "metrics-of-the-tests-5b1c9e7a"
PROGRAM = str(Path(sys.executable).with_name("pulse-trio"))
WITHOUT_POLLER = """
from pulse_trio.edge.server import worker
from pulse_trio.program import main

worker.open_poller = lambda: None
main()
"""


def serve_command(*, is_polled: bool = "PULSE_TEST_WITHOUT_POLLER" not in os.environ) -> list[str]:
    """Returns the command that serves, as on a system with epoll or without."""
    program = [PROGRAM] if is_polled else [sys.executable, "-c", WITHOUT_POLLER]
    return [*program, "serve", "--port", "0"]


def environment(**settings: str) -> dict[str, str]:
    """A process's environment with no setting of this one's but those given."""
    ours = {"DATABASE_URL", "SECRET_KEY", "ALGORITHM", "ACCESS_TOKEN_EXPIRE_MINUTES"}
    slows_the_start = {"PYTHONDONTWRITEBYTECODE"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PULSE_") and name not in ours | slows_the_start
    }
    # The clusters of the tests have fsync off. Refusals are read as a person at a terminal has them.
    return {**kept, "PULSE_ALLOW_LOSING_COMMITS": "true", "PULSE_LOG_FORMAT": "console", **settings}


class Server:
    """`pulse-trio serve` (or another command that prints its address) on a free port.

    Args:
        settings: environment variables; `DATABASE_URL` brings a `SECRET_KEY` along unless one is given. Without other
            settings of them, the metrics are there for `figures`.
        arguments: further arguments of the command.
        command: what to run instead of `pulse-trio serve --port 0`.
    """

    def __init__(
        self, settings: dict[str, str], *arguments: str, command: list[str] | None = None, **popen: Any
    ) -> None:
        if "DATABASE_URL" in settings:
            settings = {"SECRET_KEY": SECRET, **settings}
        if not any(name.startswith("PULSE_METRICS") for name in settings):
            settings = {"PULSE_METRICS_TOKEN": METRICS_TOKEN, **settings}
        command = serve_command() if command is None else command
        self.process = subprocess.Popen(
            [*command, *arguments],
            env=environment(**{"PULSE_LOG_LEVEL": "debug", "PULSE_LOG_FORMAT": "auto", **settings}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **popen,
        )
        self._lines: list[str] = []
        self._ready = threading.Event()
        self._readers = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in (self.process.stdout, self.process.stderr)
        ]
        for reader in self._readers:
            reader.start()
        self.base_url = ""
        self.port = 0

    def _read(self, stream: Any) -> None:
        with stream:
            for line in stream:
                self._lines.append(line)
                found = re.search(r"http://([\w.:\[\]-]+):(\d+)", line)
                if found and not self._ready.is_set():
                    self.port = int(found[2])
                    self.base_url = f"http://127.0.0.1:{self.port}"
                    self._ready.set()

    @property
    def output(self) -> str:
        """All that it has written, to both streams."""
        return "".join(self._lines)

    def wait_ready(self, seconds: float = 60) -> "Server":
        """Returns when it listens."""
        deadline = seconds
        while not self._ready.wait(0.05):
            deadline -= 0.05
            assert self.process.poll() is None, f"the server ended:\n{self.output}"
            assert deadline > 0, f"the server was not ready:\n{self.output}"
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM, seconds: float = 30) -> int:
        """Ends it with a signal; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.wait(seconds)

    def wait(self, seconds: float = 30) -> int:
        """Waits for its end; returns its exit code, with all output read."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the server did not end:\n{self.output}") from None
        for reader in self._readers:
            reader.join(5)
        return code
