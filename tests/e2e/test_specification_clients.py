"""The specification's own client programs, as they stand there, against the real process."""

import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.support.client import Person
from tests.support.server import Server

FOLDER = Path(__file__).parent / "specification"


def program(name: str, server: Server, conversation_id: str, token: str) -> str:
    """A client program with the address, the conversation and the token filled in."""
    text = (FOLDER / name).read_text()
    for placeholder, value in (
        ("localhost:8000", f"127.0.0.1:{server.port}"),
        ("conv-123", conversation_id),
        ("your-jwt-token", token),
    ):
        assert placeholder in text
        text = text.replace(placeholder, value)
    return text


class Running:
    """A client program at work, and the lines that it prints."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdout is not None
        self.process = process
        self.lines: list[str] = []
        self._output = process.stdout
        self._rest = b""

    async def wait_line(self, text: str) -> None:
        """Returns when the program prints a line with this text in it."""
        with trio.fail_after(20):
            while not any(text in line for line in self.lines):
                chunk = await self._output.receive_some()
                assert chunk, f"the program ended; it said: {self.lines}"
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                self.lines += [line.decode() for line in lines]


@asynccontextmanager
async def running(*command: str) -> AsyncIterator[Running]:
    """Runs a program for the length of the block."""
    async with trio.open_nursery() as nursery:
        start = partial(trio.run_process, list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        process: trio.Process = await nursery.start(start)
        yield Running(process)
        process.kill()


def node() -> list[str]:
    """How to run JavaScript that uses the WebSocket of browsers.

    Node.js has it since version 22, behind a flag since 20.10; for older ones Debian's package node-ws does.
    """
    found = shutil.which("node")
    if found is None:
        pytest.skip("no Node.js here: apt-get install nodejs node-ws")
    for options in ([], ["--experimental-websocket"], ["--require", str(FOLDER / "with_ws.cjs")]):
        check = [found, *options, "--eval", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]
        if subprocess.run(check, capture_output=True, check=False).returncode == 0:
            return [found, *options]
    pytest.skip("this Node.js has no WebSocket: apt-get install node-ws, or use Node.js 22")


async def test_python_program_as_it_stands(server: Server) -> None:
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    conversation = await alice.create_group(bob)
    async with (
        alice.connect(conversation) as chat,
        running(sys.executable, "-u", "-c", program("client.py.txt", server, conversation, bob.token)) as bobs,
    ):
        await bobs.wait_line("Connected to conversation")
        await bobs.wait_line("[System] User bob joined the conversation")
        await chat.send({"type": "message", "content": "Hello, everyone!"})
        await bobs.wait_line("alice: Hello, everyone!")
        server.process.send_signal(signal.SIGTERM)
        await bobs.wait_line("Disconnected from conversation")
        with trio.fail_after(20):
            assert await bobs.process.wait() == 0


async def test_python_class_sends(server: Server) -> None:
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    conversation = await alice.create_group(bob)
    text = program("client.py.txt", server, conversation, bob.token)
    text = text.removesuffix("asyncio.run(main())\n")
    text += """
async def chat():
    client = ChatClient('CONVERSATION', 'TOKEN')
    listening = asyncio.create_task(client.connect())
    while client.ws is None:
        await asyncio.sleep(0.01)
    await client.send_message('Hello from the class')
    await listening

asyncio.run(chat())
""".replace("CONVERSATION", conversation).replace("TOKEN", bob.token)
    async with alice.connect(conversation) as chat, running(sys.executable, "-u", "-c", text) as bobs:
        message = await chat.receive_type("message")
        assert (message["content"], message["sender_username"]) == ("Hello from the class", "bob")
        await bobs.wait_line("bob: Hello from the class")


async def test_javascript_program_as_it_stands(server: Server) -> None:
    command = node()
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    conversation = await alice.create_group(bob)
    text = program("client.js", server, conversation, bob.token)
    async with alice.connect(conversation) as chat, running(*command, "--eval", text) as bobs:
        await bobs.wait_line("Connected to conversation")
        await bobs.wait_line("[System] User bob joined the conversation")
        await chat.send({"type": "typing"})
        await bobs.wait_line("alice is typing...")
        await chat.send({"type": "message", "content": "Hello, everyone!"})
        await bobs.wait_line("alice: Hello, everyone!")
        server.process.send_signal(signal.SIGTERM)
        await bobs.wait_line("Disconnected from conversation")


async def test_javascript_class_sends_types_and_disconnects(server: Server) -> None:
    command = node()
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    conversation = await alice.create_group(bob)
    text = program("client.js", server, conversation, bob.token)
    # Once the first message is back, the program hangs up.
    text += """
client.ws.addEventListener("open", () => { client.sendTyping(); client.sendMessage("Hello from JavaScript"); });
client.ws.addEventListener("message", (event) => {
  if (JSON.parse(event.data).type === "message") client.disconnect();
});
"""
    async with alice.connect(conversation) as chat, running(*command, "--eval", text) as bobs:
        assert (await chat.receive_type("typing"))["sender_username"] == "bob"
        message = await chat.receive_type("message")
        assert (message["content"], message["sender_id"]) == ("Hello from JavaScript", bob.id)
        left = await chat.receive_type("system")
        assert (left["event"], left["active_users"]) == ("left", [alice.id])
        await bobs.wait_line("Disconnected from conversation")
        with trio.fail_after(20):
            assert await bobs.process.wait() == 0
