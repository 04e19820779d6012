"""A client program under test: another process, which reads commands and prints what happens, a line of JSON each.

Commands, by `do`:

- `connect`, `close`, `reconnect`: the connection.
- `show` (`conversation`): loads the newest page of the history, and keeps showing it from there.
- `send` (`key`, `conversation`, `content`), `edit` (`key`, `conversation`, `message`, `content`), `remove` (`key`,
  `conversation`, `message`): the program prints `settled` when the operation has an outcome.
- `read` (`conversation`, `seq`), `typing` (`conversation`).
- `report` (`number`).

Lines of the program:

- `ready`: it takes commands.
- `changed`: something has changed since the last report, perhaps.
- `settled` (the key), `error` (null, or the code), `seq`.
- `report` (the number), `state`, `isIdle` (it is online, and no request and no message of its own is under way), `list`
  (conversation → the fields that it shows), `histories` (conversation → `[seq, content]`, oldest first), `gaps`,
  `faults` (what must never happen, in words: an event that came twice, an error of a wrong type).

A client of another language takes part with a program that speaks this.
"""

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import trio

CHUNK: Final = 65_536


@dataclass
class Sent:
    """A message that the program was told to send.

    Attributes:
        conversation: its id.
        content: unique.
        is_settled: the program has its outcome.
        error: the code with which it was rejected.
        is_removed: the program was told to delete it.
    """

    conversation: str
    content: str
    is_settled: bool = False
    error: str | None = None
    is_removed: bool = False


class Program:
    """The driver's end.

    Attributes:
        sent: by key, in the order of the commands.
        errors: codes of the edits and deletions that were rejected.
    """

    def __init__(self, name: str, process: trio.Process) -> None:
        self.name = name
        self.sent: dict[str, Sent] = {}
        self.errors: list[str] = []
        self._process = process
        self._reports: dict[int, dict[str, Any]] = {}
        self._change = trio.Event()
        self._changes = 0
        self._number = 0

    async def do(self, what: str, **fields: Any) -> None:
        """Gives a command."""
        assert self._process.stdin is not None
        with trio.CancelScope(shield=True):  # a part of a line would spoil the next
            await self._process.stdin.send_all(json.dumps({"do": what, **fields}).encode() + b"\n")

    async def send(self, conversation: str, content: str) -> None:
        """Lets it send a message."""
        self._number += 1
        key = f"{self.name} {self._number}"
        self.sent[key] = Sent(conversation, content)
        await self.do("send", key=key, conversation=conversation, content=content)

    async def report(self) -> dict[str, Any]:
        """Returns what it shows now."""
        return await self._ask("report")

    async def frames(self) -> list[str]:
        """Returns the numbers in the last frames that it sent and received."""
        found: list[str] = (await self._ask("frames"))["frames"]
        return found

    async def _ask(self, what: str) -> dict[str, Any]:
        self._number += 1
        number = self._number
        await self.do(what, number=number)
        while number not in self._reports:
            await self._change.wait()
        return self._reports.pop(number)

    @property
    def changes(self) -> int:
        """Returns how often it said that something had changed."""
        return self._changes

    async def wait_change(self, seen: int) -> None:
        """Returns when it has said more often than `seen` times that something has changed."""
        while self._changes <= seen:
            await self._change.wait()

    async def read(self) -> None:
        """Reads its lines until its end, which is an error: only the driver ends it.

        Raises:
            AssertionError: it ended; the text has what it printed last.
        """
        assert self._process.stdout is not None
        rest, others = b"", [""]
        while chunk := await self._process.stdout.receive_some(CHUNK):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.startswith(b"{"):
                    self._take(json.loads(line))
                else:
                    others.append(line.decode())
        raise AssertionError(f"{self.name} ended:" + "\n".join(others[-30:]))

    def _take(self, line: dict[str, Any]) -> None:
        if "report" in line:
            self._reports[line["report"]] = line
        elif "settled" in line and line["settled"] in self.sent:
            sent = self.sent[line["settled"]]
            sent.is_settled, sent.error = True, line["error"]
        elif line.get("error") is not None:
            self.errors.append(line["error"])
        self._changes += 1
        change, self._change = self._change, trio.Event()
        change.set()


@asynccontextmanager
async def open_program(name: str, command: list[str], environment: dict[str, str]) -> AsyncIterator[Program]:
    """Runs a program for the length of the block."""
    async with trio.open_nursery() as nursery:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        start = partial(trio.run_process, command, check=False, env=environment, **pipes)
        process: trio.Process = await nursery.start(start)
        program = Program(name, process)
        nursery.start_soon(program.read)
        try:
            await program.wait_change(0)  # `ready`
            yield program
        finally:
            nursery.cancel_scope.cancel()
