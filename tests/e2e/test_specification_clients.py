"""The specification's own client programs, as they stand there, against the real process."""

import signal
import sys
from pathlib import Path

import trio

from tests.support.client import Person
from tests.support.programs import node, running
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
