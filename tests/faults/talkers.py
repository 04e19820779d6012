"""Clients that go on through every fault, and what they must have seen when it is over."""

import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

import trio
import trio_websocket

from tests.support.client import Chat, Person

WINDOW = 6  # messages that a client sends before the first of them is answered
RETRY = 0.05  # seconds


class Talker:
    """Sends messages without end, each until it is acknowledged, and comes back from wherever it was cut off.

    What it saw is kept as it came: `in_order` has each frame that took the conversation one rev further.
    """

    def __init__(self, group: "Group", person: Person) -> None:
        self.person = person
        self.acknowledged: dict[str, int] = {}  # client_id → seq
        self.in_order: list[dict[str, Any]] = []
        self.connections = 0
        self.refused: Counter[str] = Counter()
        self.is_done = trio.Event()
        self._group = group
        self._open: dict[str, str] = {}  # client_id → content
        self._resent: set[str] = set()
        self._number = 0
        self._may_send = trio.Event()

    async def run(self) -> None:
        """Talks until `Group.finish` and every message of its own has been acknowledged."""
        while not self.is_done.is_set():
            try:
                await self._talk()
            except* (OSError, trio_websocket.HandshakeError, trio_websocket.ConnectionClosed):
                pass  # refused, or cut off
            await trio.sleep(RETRY * random.uniform(0.5, 1.0))

    async def _talk(self) -> None:
        """One connection, from the handshake to its end. Its socket is closed however it ends, refused or not."""
        after = self.in_order[-1]["rev"] if self.in_order else 0
        query = urlencode({"token": self.person.token, "after": after})
        url = urlsplit(self._group.base_url)
        assert url.hostname is not None
        assert url.port is not None
        stream = await trio.open_tcp_stream(url.hostname, url.port)
        try:
            async with trio.open_nursery() as nursery:
                path = f"/api/chat/ws/{self._group.conversation}?{query}"
                connection = await trio_websocket.wrap_client_stream(nursery, stream, url.netloc, path)
                self.connections += 1
                chat = Chat(connection)
                nursery.start_soon(self._send, chat)
                await self._receive(chat)
                await connection.aclose()
                nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(stream)

    async def _send(self, chat: Chat) -> None:
        for client_id in list(self._open):
            await self._send_one(chat, client_id)
        while True:
            while len(self._open) < WINDOW and not self._group.is_ending:
                self._number += 1
                client_id = f"{self.person.username}-{self._number}"
                self._open[client_id] = f"message {client_id}"
                await self._send_one(chat, client_id)
            self._may_send = trio.Event()
            await self._may_send.wait()

    async def _send_one(self, chat: Chat, client_id: str) -> None:
        if client_id in self._open:
            await chat.send({"type": "message", "content": self._open[client_id], "client_id": client_id})

    async def _receive(self, chat: Chat) -> None:
        self._settle()
        while not self.is_done.is_set():
            frame = json.loads(await chat.connection.get_message())
            if frame["type"] == "message":
                self._take(frame)
            elif frame["type"] == "error":
                assert frame["code"] == "not_stored", frame
                self.refused[frame["code"]] += 1
                self._resent.add(frame["client_id"])
                await self._send_one(chat, frame["client_id"])
            self._settle()
        # Nothing is left to ask: the rest is what the others still send.

    def _take(self, frame: dict[str, Any]) -> None:
        expected = len(self.in_order) + 1
        if frame["rev"] == expected:
            assert frame["seq"] == expected, "no edits here: each rev is a message"
            self.in_order.append(frame)
        else:
            # Only the answer to a resend of its own may come out of the order, and must be what was said before.
            assert frame["sender_id"] == self.person.id, (expected, frame)
            assert frame["client_id"].startswith(f"{self.person.username}-")
            if frame["rev"] < expected:
                assert self.in_order[frame["rev"] - 1]["message_id"] == frame["message_id"]
            else:
                raise AssertionError(f"a hole: rev {expected} is missing before {frame}")
        if frame["sender_id"] == self.person.id:
            known = self.acknowledged.setdefault(frame["client_id"], frame["seq"])
            assert known == frame["seq"], f"{frame['client_id']} was stored twice"
            self._open.pop(frame["client_id"], None)
        self._group.progress(self)

    def _settle(self) -> None:
        if self._group.is_ending and not self._open:
            self.is_done.set()
        self._may_send.set()


class Group:
    """Talkers in one conversation."""

    def __init__(self, base_url: str, conversation: str, people: list[Person]) -> None:
        self.base_url = base_url
        self.conversation = conversation
        self.is_ending = False
        self.talkers = [Talker(self, person) for person in people]
        self._progress = trio.Event()

    def progress(self, _talker: Talker) -> None:
        """Somebody got a frame."""
        self._progress.set()
        self._progress = trio.Event()

    @property
    def acknowledged(self) -> int:
        """Messages whose senders know that they are stored."""
        return sum(len(talker.acknowledged) for talker in self.talkers)

    async def more(self, count: int) -> None:
        """Returns when so many further messages of every talker have been acknowledged."""
        goals = [(talker, len(talker.acknowledged) + count) for talker in self.talkers]
        while any(len(talker.acknowledged) < goal for talker, goal in goals):
            await self._progress.wait()

    async def finish(self) -> None:
        """No new messages; returns when every one that was sent has been acknowledged."""
        self.is_ending = True
        for talker in self.talkers:
            talker._may_send.set()
            talker._settle()
        for talker in self.talkers:
            await talker.is_done.wait()

    async def check(self) -> int:
        """Compares the history with what was acknowledged and what each talker saw; returns its length."""
        stored: list[dict[str, Any]] = []
        reader = self.talkers[0].person
        reader.api.base_url = self.base_url
        while True:
            page = await reader.history(self.conversation, limit=100, after_seq=len(stored))
            if not page["messages"]:
                break
            stored += reversed(page["messages"])
        assert [message["seq"] for message in stored] == list(range(1, len(stored) + 1)), "a hole in the history"
        contents = [message["content"] for message in stored]
        doubled = [content for content, count in Counter(contents).items() if count > 1]
        assert not doubled
        for talker in self.talkers:
            for client_id, seq in talker.acknowledged.items():
                assert contents[seq - 1 : seq] == [f"message {client_id}"], f"{client_id} is lost"
            seen = [(frame["seq"], frame["message_id"], frame["content"]) for frame in talker.in_order]
            assert seen == [(m["seq"], m["id"], m["content"]) for m in stored[: len(seen)]]
        assert len(stored) == self.acknowledged, "nothing is stored that nobody sent or nobody was told of"
        return len(stored)


@asynccontextmanager
async def talking(base_url: str, count: int = 3) -> AsyncIterator[Group]:
    """People who talk while the block runs; afterwards all that they said is checked."""
    people = [await Person.register(base_url, f"talker{number}") for number in range(count)]
    conversation = await people[0].create_group(*people[1:])
    group = Group(base_url, conversation, people)
    async with trio.open_nursery() as nursery:
        for talker in group.talkers:
            nursery.start_soon(talker.run)
        yield group
        await group.finish()
        assert await group.check() > 0
