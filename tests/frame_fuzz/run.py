"""A run: two people chat, a third visits with everything that bytes may be, and what goes wrong is collected."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any, Final

import trio

from pulse_trio.protocol import CloseCode
from tests.frame_fuzz.inputs import Ids, Inputs
from tests.support.client import Api, Person
from tests.support.raw import CLOSE, TEXT, RawClient, frame, open_raw, resident_bytes, upgrade_request
from tests.support.server import Server

SETTINGS: Final = {  # all visits come from one address and one user: no limit may keep them out
    "PULSE_REQUESTS_PER_SECOND": "0",
    "PULSE_FRAMES_PER_SECOND": "0",
    "PULSE_BYTES_PER_SECOND": "0",
    "PULSE_PIECES_PER_SECOND": "0",
    "PULSE_EDITS_PER_SECOND": "0",
    "PULSE_GROUP_CHANGES_PER_SECOND": "0",
    "PULSE_MESSAGE_TIMEOUT": "5",
    "PULSE_BODY_TIMEOUT": "5",
    "PULSE_LOG_FORMAT": "json",
}
PATIENCE: Final = 60  # seconds that a visit may take: its timeouts take five
CANARY_PAUSE: Final = 0.05  # seconds between two messages of the others
AT_ONCE: Final = 8
WARM_UP: Final = 8_000  # visits, in which is made what is made once, such as compressed files
MAX_GROWTH: Final = 8 << 20  # bytes
EXPECTED_STATUSES: Final = frozenset({501, 505})  # above 499, of requests that HTTP itself says are not supported
UNEXPECTED_CLOSES: Final = frozenset({CloseCode.INTERNAL_ERROR, CloseCode.RESTART, CloseCode.TOO_SLOW})


class Finding(Exception):
    """A promise that a visit found broken."""


class Run:
    """One run of the fuzz against a server.

    Args:
        server: a running one, with `SETTINGS`.
        seed: the visits follow from it.

    Attributes:
        findings: a sentence for each promise that was broken.
        counters: visits by kind, and what came back.
    """

    def __init__(self, server: Server, seed: int) -> None:
        self._server = server
        self._seed = seed
        self.findings: list[str] = []
        self.counters: Counter[str] = Counter()
        self._sent: list[str] = []
        self._memory = 0

    async def set_up(self) -> None:
        """Registers the three, and makes conversations and messages for the inputs to name."""
        base_url = self._server.base_url
        self._alice, self._bob, self._mallory = [
            await Person.register(base_url, f"{name}{self._seed}") for name in ("alice", "bob", "mallory")
        ]
        self._canary = await self._alice.create_group(self._bob, name="canary")
        own = await self._mallory.create_group(self._bob, name="own")
        messages = []
        for person, conversation in ((self._mallory, own), (self._bob, own), (self._alice, self._canary)):
            path = f"/api/chat/conversations/{conversation}/messages"
            answer = await person.api.post(path, json={"content": "first"})
            messages.append(answer.json()["id"])
        async with self._mallory._open("/api/chat/ws", {}) as chat:
            epoch = (await chat.receive())["epoch"]
        users = [person.id for person in (self._bob, self._alice)]  # without mallory, who would leave her own group
        self._ids = Ids([own, self._canary], messages, users, self._mallory.token, epoch)
        document = (await Api(base_url).get("/openapi.json")).json()
        # A login costs 20 ms of a core, and registrations would fill the database: tests of their own flood them.
        self._paths = [
            (method.upper(), path)
            for path, item in document["paths"].items()
            for method in item
            if path not in {"/api/auth/login", "/api/auth/register"}
        ]
        self._paths += [("GET", path) for path in ("/", "/docs", "/healthz", "/openapi.json", "/pulse-client.js", "/x")]

    async def run(self, seconds: float, *, visits: int | None = None, only: int | None = None) -> None:
        """Visits until the time is over, or so many times; then looks at what was kept."""
        numbers: Iterator[int] = count() if visits is None else iter(range(visits))
        if only is not None:
            numbers = iter([only])
        async with trio.open_nursery() as canary:
            await canary.start(self._chat)
            with trio.move_on_after(seconds):
                async with trio.open_nursery() as nursery:
                    for _ in range(AT_ONCE):
                        nursery.start_soon(self._visit_on, numbers)
            canary.cancel_scope.cancel()
        await self._look_back()

    # --- the others ---

    async def _chat(self, *, task_status: trio.TaskStatus[None]) -> None:
        """One message after the other reaches its sender and its reader, in order."""
        async with self._alice.connect(self._canary) as alice, self._bob.session() as bob:
            task_status.started()
            for number in count():
                content = f"canary {number}"
                await alice.send({"type": "message", "content": content})
                for chat in (alice, bob):
                    try:
                        while True:
                            came = await chat.receive_type("message")
                            if came.get("conversation_id", self._canary) == self._canary:
                                break
                    except Exception as error:
                        self.findings.append(f"the others: {content} did not come: {error!r}")
                        raise
                    if came["content"] != content:
                        self.findings.append(f"the others: {came['content']} came in place of {content}")
                self._sent.append(content)
                await trio.sleep(CANARY_PAUSE)

    async def _look_back(self) -> None:
        kept: list[str] = []
        before: dict[str, int] = {}
        while page := (await self._alice.history(self._canary, limit=100, **before))["messages"]:
            kept += [message["content"] for message in page if message["content"] != "first"]
            before = {"before_seq": min(message["seq"] for message in page)}
        if sorted(kept[-len(self._sent) :]) != sorted(self._sent):
            self.findings.append(f"the others: {len(self._sent)} messages came, {len(kept)} are kept")
        self.counters["messages of the others"] = len(self._sent)
        if self._memory:
            growth = resident_bytes(self._server.process.pid) - self._memory
            self.counters["KiB of growth after the first visits"] = growth // 1024
            if growth > MAX_GROWTH:
                self.findings.append(f"the server grew by {growth} bytes after {WARM_UP} visits")
        for line in self._server.output.splitlines():
            if "Traceback" in line or (line.startswith("{") and json.loads(line).get("level") in {"error", "critical"}):
                self.findings.append(f"log: {line[:2_000]}")
        if self._server.process.poll() is not None:
            self.findings.append("the server ended")

    # --- visits ---

    async def _visit_on(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            if number == WARM_UP:
                self._memory = resident_bytes(self._server.process.pid)
            rand = random.Random(f"{self._seed} {number}")
            visit = rand.choice((self._request, self._handshake, self._broken_frames, self._session, self._member))
            self.counters[visit.__name__.removeprefix("_")] += 1
            try:
                with trio.fail_after(PATIENCE):
                    async with open_raw(self._server.port) as client:
                        await visit(client, Inputs(rand, self._ids, self._paths), rand)
            except (Finding, trio.TooSlowError, AssertionError, ValueError) as error:
                self.findings.append(f"visit {number}, {visit.__name__.removeprefix('_')}: {error!r}")

    async def _request(self, client: RawClient, inputs: Inputs, rand: random.Random) -> None:
        await self._ask(client, inputs, inputs.request(), rand)

    async def _handshake(self, client: RawClient, inputs: Inputs, rand: random.Random) -> None:
        path = rand.choice(("/api/chat/ws", f"/api/chat/ws/{self._ids.conversations[0]}", "/api/chat/ws/x", "/x"))
        token = rand.choice((self._ids.token, self._ids.token[:-2], "", "a.b.c"))
        await self._ask(client, inputs, inputs.handshake(f"{path}?token={token}"), rand)

    async def _ask(self, client: RawClient, inputs: Inputs, data: bytes, rand: random.Random) -> None:
        """Sends what may be a request, and half-closes: the server answers and ends the connection, or only ends it."""
        for piece in inputs.pieces(data):
            if not await client.send_some(piece):
                break
        if rand.random() < 0.1:
            client.reset()
            return
        try:
            await client.stream.send_eof()
        except (trio.BrokenResourceError, OSError):
            return
        wire = await _read_all(client)
        if not wire:
            self.counters["no answer"] += 1
            return
        first = wire.split(b"\r\n", 1)[0].split(b" ")
        if first[0] not in {b"HTTP/1.1", b"HTTP/1.0"} or not first[1].isdigit():
            raise Finding(f"no answer of HTTP: {wire[:200]!r}")
        status = int(first[1])
        self.counters[f"status {status}"] += 1
        if status >= 500 and status not in EXPECTED_STATUSES:
            raise Finding(f"status {status} to {data[:300]!r}: {wire[-300:]!r}")

    async def _broken_frames(self, client: RawClient, inputs: Inputs, rand: random.Random) -> None:
        await self._open(client, rand)
        for piece in inputs.pieces(inputs.broken_frames()):
            await client.send_some(piece)
        try:
            await client.stream.send_eof()
        except (trio.BrokenResourceError, OSError):
            return
        await self._read_to_the_end(client)

    async def _session(self, client: RawClient, inputs: Inputs, rand: random.Random) -> None:
        await self._say(client, inputs, rand, "/api/chat/ws")

    async def _member(self, client: RawClient, inputs: Inputs, rand: random.Random) -> None:
        await self._say(client, inputs, rand, f"/api/chat/ws/{self._ids.conversations[0]}")

    async def _open(self, client: RawClient, rand: random.Random, path: str = "/api/chat/ws") -> None:
        features = rand.choice(("", "&features=me", "&features=members,conversation,me", "&features=x"))
        answer = await client.request(upgrade_request(f"{path}?token={self._ids.token}{features}"))
        if answer.status != 101:
            raise Finding(f"a valid handshake got {answer.status}: {answer.body!r}")

    async def _say(self, client: RawClient, inputs: Inputs, rand: random.Random, path: str) -> None:
        """Sends frames that keep the WebSocket protocol: each is answered or ignored, and the connection goes on."""
        await self._open(client, rand, path)
        for _ in range(rand.choice((1, 3, 10))):
            for piece in inputs.pieces(inputs.whole_message(inputs.text())):
                if not await client.send_some(piece):
                    break
        await client.send_some(frame({"type": "ping"}))
        await self._read_to_the_end(client, until="pong")

    async def _read_to_the_end(self, client: RawClient, until: str = "") -> None:
        """Reads the frames of the server until one of this type, a close frame, or the end of the connection."""
        try:
            while True:
                opcode, payload = await client.read_frame()
                if opcode == CLOSE:
                    code = int.from_bytes(payload[:2], "big")
                    self.counters[f"close {code}"] += 1
                    # An application's own code (RFC 6455, section 7.4.2) that is not ours is the client's, come back.
                    is_echo = 3_000 <= code < 5_000 and code not in list(CloseCode) and len(payload) == 2
                    is_known = code in list(CloseCode) and code not in UNEXPECTED_CLOSES
                    if payload and not (is_known or is_echo):
                        raise Finding(f"closed with {code}: {payload[2:]!r}")
                    return
                if opcode == TEXT:
                    came: dict[str, Any] = json.loads(payload)
                    self.counters[f"frame {came['type']} {came.get('code', '')}".rstrip()] += 1
                    if came["type"] == until:
                        return
        except EOFError:
            if until:
                raise Finding("the connection ended without a close frame") from None


async def _read_all(client: RawClient) -> bytes:
    wire = bytes(client._buffer)
    try:
        while data := await client.stream.receive_some(65_536):
            wire += data
    except trio.BrokenResourceError:
        pass
    return wire
