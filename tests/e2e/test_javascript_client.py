"""The JavaScript client in Node.js: its unit tests, and the client against the real process."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import jwt
import pytest
import trio

from tests.support.client import Person
from tests.support.programs import Running, node
from tests.support.server import SECRET, Server

ROOT = Path(__file__).parent.parent.parent
CLIENT = ROOT / "pulse_trio" / "web" / "pulse-client"
JS = ROOT / "tests" / "js"


def node_20(*, with_websocket: bool = True) -> list[str]:
    """Returns the command of Node.js 20 or newer; skips the test without one."""
    command = (
        node() if with_websocket else [shutil.which("node") or pytest.skip("no Node.js here: apt-get install nodejs")]
    )
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < 20:
        pytest.skip(f"the JavaScript client needs Node.js 20 or newer; this is {version}")
    return command


@asynccontextmanager
async def part(name: str, server: Server, **environment: str) -> AsyncIterator[Running]:
    """Runs a part of tests/js/against_server.mjs for the length of the block."""
    command = [*node_20(), str(JS / "against_server.mjs"), name]
    env = {**os.environ, "PULSE_URL": server.base_url, **environment}
    async with trio.open_nursery() as nursery:
        start = partial(
            trio.run_process,
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            env=env,
        )
        process: trio.Process = await nursery.start(start)
        yield Running(process)
        process.kill()


def token_for(user_id: str, seconds: float, **claims: float) -> str:
    now = time.time()
    return jwt.encode({"sub": user_id, "iat": int(now), "exp": now + seconds, **claims}, SECRET, algorithm="HS256")


async def test_its_unit_tests_pass() -> None:
    command = node_20(with_websocket=False)
    files = [str(file) for file in sorted(JS.glob("*.test.mjs"))]
    assert files
    with trio.fail_after(120):
        result = await trio.run_process(
            [*command, "--test", *files], capture_stdout=True, stderr=subprocess.STDOUT, check=False
        )
    assert result.returncode == 0, result.stdout.decode()
    passed = re.search(r"^\S+ pass (\d+)$", result.stdout.decode(), re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) >= len(files)


async def test_two_people_chat(server: Server) -> None:
    with trio.fail_after(60):
        async with part("walk", server) as program:
            await program.wait_line("done")


async def test_a_killed_service_loses_and_doubles_nothing(start_server: Callable[..., Server]) -> None:
    server = start_server()
    with trio.fail_after(90):
        async with part("kill", server) as program:
            await program.wait_line("kill it")
            assert program.process.stdin is not None
            await trio.to_thread.run_sync(server.stop, signal.SIGKILL)
            await program.process.stdin.send_all(b"\n")
            await trio.to_thread.run_sync(start_server, "--port", str(server.port))
            await program.wait_line("done")


async def test_a_token_is_renewed_before_it_ends(server: Server) -> None:
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        conversation = await alice.create_group()
        environment = {
            "PULSE_TOKEN": token_for(alice.id, 5),
            "PULSE_TOKEN_SECONDS": "5",
            "PULSE_CONVERSATION": conversation,
        }
        async with part("renewal", server, **environment) as program:
            await program.wait_line("done")


async def test_an_expired_token_signs_out(server: Server) -> None:
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        old = time.time() - 31 * 86_400
        async with part("signed_out", server, PULSE_TOKEN=token_for(alice.id, 4, auth_time=old)) as program:
            await program.wait_line("done")


async def test_rate_limited_messages_arrive_in_order(start_server: Callable[..., Server]) -> None:
    limits = {"PULSE_FRAMES_PER_SECOND": "40", "PULSE_FRAMES_BURST": "15", "PULSE_MAX_FRAME_BYTES": "2048"}
    server = start_server(**limits)
    with trio.fail_after(60):
        async with part("limits", server) as program:
            await program.wait_line("done")


# --- docs/javascript.md ---


async def test_options_methods_and_events_are_documented() -> None:
    source = (CLIENT / "client.js").read_text()
    document = (ROOT / "docs" / "javascript.md").read_text()
    options = re.findall(r"@property {.*} \[(\w+)\]", (CLIENT / "types.js").read_text())
    classes = (CLIENT / "endpoints.js").read_text() + source[source.index("export class PulseClient") :]
    methods = re.findall(r"^  (?:async |get )?([a-z]\w*)\(.*\) {$", classes, re.MULTILINE)
    events = re.findall(r"^      case \"(\w+)\":", source, re.MULTILINE)
    events += re.findall(r"this\.#emit\(\"(\w+)\"", source)
    assert len(options) > 10
    assert {"send", "connect", "history", "state"} <= set(methods)
    assert {"reload", "message_deleted", "signed_out"} <= set(events)
    hidden = {"constructor", "session", "auth"}
    for name in {*options, *methods, *events} - hidden:
        assert re.search(rf"`{name}[`(]", document), name
