"""`tail` and `chat` while the history is restored from a backup."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pulse_trio.client import Client, Event, Message, Reset, Room
from pulse_trio.terminal import chat as chat_module
from pulse_trio.terminal.chat import Chat, _plainly
from pulse_trio.terminal.streams import Output
from pulse_trio.terminal.tail import Range, _follow
from tests.unit.client.scripted import ALICE, BOB, NOW, TEAM, Peer, ScriptedServer, message_frame, own_frame, scripted

HISTORY = "GET", f"/api/chat/conversations/{TEAM}/messages"


class Printed:
    """In place of standard output."""

    def __init__(self) -> None:
        self.text = ""
        self._written = trio.Event()

    async def write(self, text: str) -> None:
        self.text += text
        self._written.set()

    async def wait(self, text: str) -> None:
        with trio.fail_after(100):
            while text not in self.text:
                self._written = trio.Event()
                await self._written.wait()

    @property
    def output(self) -> Output:
        return cast("Output", self)


def stored(seq: int, content: str, **fields: Any) -> dict[str, Any]:
    """A message of Bob's, as history has it."""
    message = {"id": TEAM, "conversation_id": TEAM, "sender_id": BOB, "sender_username": "bob", "seq": seq, "rev": seq}
    kept = {"content": content, "is_edited": False, "is_deleted": False, "created_at": NOW, "updated_at": NOW}
    return {**message, **kept, **fields}


@asynccontextmanager
async def joined(*history: dict[str, Any], rev: int) -> AsyncIterator[tuple[ScriptedServer, Client, Room, Peer]]:
    """A room of a conversation with this history, the oldest message first, and its connection."""
    async with scripted() as (server, client), trio.open_nursery() as nursery:
        server.answers[HISTORY] = 200, {"messages": list(reversed(history))}
        nursery.start_soon(server.accept_greeted, rev)
        async with client.join(TEAM) as room:
            yield server, client, room, server.last_peer


async def restore(server: ScriptedServer, peer: Peer, rev: int) -> Peer:
    """The history now ends at this rev; returns the next connection."""
    await peer.close(4409)
    peer = await server.accept()
    await peer.greet(rev, epoch="another")
    return peer


async def test_tail_prints_what_is_new_in_the_restored_history(autojump_clock: MockClock) -> None:
    history = [stored(46, "46"), stored(47, "47", rev=60)]
    printed = Printed()
    async with joined(*history, rev=60) as (server, client, room, peer), trio.open_nursery() as nursery:
        nursery.start_soon(_follow, client, room, printed.output, Range(history=2))
        await printed.wait('"47"')
        peer = await restore(server, peer, 45)
        await peer.send(message_frame(46, "new 46"), message_frame(47, "new 47"))
        await printed.wait("new 47")
        nursery.cancel_scope.cancel()
    lines = [json.loads(line) for line in printed.text.splitlines()]
    assert [line.get("content", line["type"]) for line in lines] == ["46", "47", "reset", "new 46", "new 47"]


async def test_chat_shows_what_is_new_in_the_restored_history(autojump_clock: MockClock) -> None:
    history = [stored(46, "46"), stored(47, "47", rev=60, sender_id=ALICE)]
    printed = Printed()
    async with joined(*history, rev=60) as (server, client, room, peer):
        chat = Chat(client, room, printed.output)
        await chat._show_history()
        peer = await restore(server, peer, 45)
        await peer.send(message_frame(46, "new 46"), message_frame(47, "new 47"))
        assert "restored" in chat._take(await _event(room, Reset))[-1]
        for content in ("new 46", "new 47"):
            assert content in chat._take(await _event(room, Message))[-1]
        await chat._command("/delete")
        assert "your latest message; there is none" in printed.text, "that one may be lost, or another's"
        server.answers[HISTORY] = 200, {"messages": [stored(45, "as it was at 45")]}
        await chat._command("/older")
        assert "as it was at 45" in printed.text


@pytest.mark.parametrize("is_used_again", [False, True])
async def test_plain_chat_ends_with_its_input_also_when_what_it_sent_is_lost(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, is_used_again: bool
) -> None:
    typing, typed = trio.open_memory_channel[str](0)

    async def read_lines(_fd: int) -> AsyncIterator[str]:
        async for line in typed:
            yield line

    monkeypatch.setattr(chat_module, "read_lines", read_lines)
    printed = Printed()
    async with joined(rev=60) as (server, client, room, peer), trio.open_nursery() as nursery:
        nursery.start_soon(_plainly, client, room, printed.output)
        await typing.send("lost")
        await peer.send(own_frame(61, await peer.receive()))
        await printed.wait("alice lost")
        peer = await restore(server, peer, 45)
        await printed.wait("restored")
        if is_used_again:
            await typing.send("kept")
            sent = await peer.receive()
            typing.close()
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(own_frame(46, sent))
        typing.close()
        with trio.fail_after(100):
            while nursery.child_tasks:  # noqa: ASYNC110
                await trio.sleep(1)
    assert ("alice kept" in printed.text) == is_used_again


async def _event(room: Room, kind: type[Event]) -> Event:
    with trio.fail_after(100):
        event = await room.receive()
    assert isinstance(event, kind), event
    return event
