"""A WebSocket client that may break every rule: bytes on a TCP connection, frames put together by hand."""

import base64
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from tests.support.client import Chat, Person

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0
GOOD_KEY = base64.b64encode(b"sixteen bytes!!!").decode()


def frame(
    payload: bytes | str | dict[str, Any],
    opcode: int = TEXT,
    *,
    fin: bool = True,
    reserved: int = 0,
    masked: bool = True,
    announced: int | None = None,
) -> bytes:
    """One frame as a client sends it (RFC 6455, section 5.2), or as one should not.

    Args:
        payload: bytes, a text, or an object that is sent as JSON.
        opcode: what kind of frame.
        fin: whether it is the last of its message.
        reserved: the three reserved bits, as a number.
        masked: whether it is masked, as a client must.
        announced: the length in the header, if it shall not be that of the payload.
    """
    if isinstance(payload, dict):
        payload = json.dumps(payload)
    if isinstance(payload, str):
        payload = payload.encode()
    length = len(payload) if announced is None else announced
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    mask_bit = 0x80 if masked else 0
    if length < 126:
        head = struct.pack("!BB", first, mask_bit | length)
    elif length < 65_536:
        head = struct.pack("!BBH", first, mask_bit | 126, length)
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, length)
    if not masked:
        return head + payload
    # A mask of zeros is a mask, and leaves the payload as it is.
    return head + bytes(4) + payload


def close_frame(code: int = 1000) -> bytes:
    """A close frame."""
    return frame(struct.pack("!H", code), CLOSE)


def upgrade_request(
    path: str, headers: Sequence[tuple[str, str]] = (), *, key: str | None = GOOD_KEY, version: str | None = "13"
) -> bytes:
    """The request that opens a WebSocket; `headers` are added."""
    lines = [f"GET {path} HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade"]
    if not any(name.lower() == "host" for name, _ in headers):
        lines.append("Host: chat.example")
    if key is not None:
        lines.append(f"Sec-WebSocket-Key: {key}")
    if version is not None:
        lines.append(f"Sec-WebSocket-Version: {version}")
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class RawClient:
    """A TCP connection to the server."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def send_some(self, data: bytes) -> bool:
        """Sends; whether the server still took it."""
        try:
            await self.stream.send_all(data)
        except trio.BrokenResourceError:
            return False
        return True

    async def _more(self) -> None:
        try:
            data = await self.stream.receive_some(65_536)
        except trio.BrokenResourceError:
            raise EOFError from None
        if not data:
            raise EOFError
        self._buffer += data

    async def read_exactly(self, count: int) -> bytes:
        """Raises EOFError when the server ends the connection before."""
        while len(self._buffer) < count:
            await self._more()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def read_answer(self) -> Answer:
        """The next HTTP answer, with the body that its Content-Length announces."""
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer[:] = rest
        first, *lines = head.decode("latin-1").split("\r\n")
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        status = int(first.split(" ")[1])
        body = b"" if status == 101 else await self.read_exactly(int(headers.get("content-length", "0")))
        return Answer(status, headers, body)

    async def request(self, data: bytes) -> Answer:
        """Sends a request; its answer."""
        await self.send(data)
        return await self.read_answer()

    async def read_frame(self) -> tuple[int, bytes]:
        """The next frame of the server: opcode and payload."""
        first, second = await self.read_exactly(2)
        assert second & 0x80 == 0, "a server does not mask"
        assert first & 0x70 == 0, "no extension was negotiated"
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", await self.read_exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self.read_exactly(8))
        return first & 0x0F, await self.read_exactly(length)

    async def read_json(self) -> dict[str, Any]:
        """The next text frame of the server."""
        while True:
            opcode, payload = await self.read_frame()
            if opcode == TEXT:
                found: dict[str, Any] = json.loads(payload)
                return found
            assert opcode in {PING, PONG}, (opcode, payload)

    async def read_json_type(self, *kinds: str) -> dict[str, Any]:
        """The next text frame of one of these types."""
        while True:
            found = await self.read_json()
            if found["type"] in kinds:
                return found

    async def read_close(self) -> int:
        """Passes over frames until the server's close frame; its code."""
        while True:
            opcode, payload = await self.read_frame()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")

    async def wait_gone(self) -> None:
        """Returns when the server has ended the connection."""
        try:
            while True:
                self._buffer.clear()
                await self._more()
        except EOFError:
            return

    def reset(self) -> None:
        """Ends the connection as a crash does: with RST."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()


@asynccontextmanager
async def open_raw(
    port: int, *, receive_buffer: int | None = None, address: str | None = None
) -> AsyncIterator[RawClient]:
    """A TCP connection; `receive_buffer` makes a small window, `address` is where it comes from (127.0.0.2 …)."""
    sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_STREAM)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if address is not None:
        await sock.bind((address, 0))
    await sock.connect(("127.0.0.1", port))
    stream = trio.SocketStream(sock)
    try:
        yield RawClient(stream)
    finally:
        with trio.move_on_after(1, shield=True):
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def open_chat(
    person: Person, conversation_id: str, *, receive_buffer: int | None = None
) -> AsyncIterator[RawClient]:
    """A WebSocket of a person to a conversation, with the server's first frame (`joined`) read."""
    port = int(person.base_url.rpartition(":")[2])
    async with open_raw(port, receive_buffer=receive_buffer) as client:
        path = f"/api/chat/ws/{conversation_id}?token={person.token}"
        answer = await client.request(upgrade_request(path))
        assert answer.status == 101, answer
        assert (await client.read_json())["event"] == "joined"
        yield client


@asynccontextmanager
async def connect_in_order(conversation_id: str, *people: Person) -> AsyncIterator[list[Chat]]:
    """A connection for each of these, one after the other; what they are told of each other's coming is read.

    The handshake is answered before its user is in the room, so two that connect at once come in any order.
    """
    async with AsyncExitStack() as stack:
        chats: list[Chat] = []
        for number, person in enumerate(people):
            chat = await stack.enter_async_context(person.connect(conversation_id))
            told = [chat, *chats] if person not in people[:number] else [chat]
            for other in told:
                joined = await other.receive()
                assert (joined.get("event"), joined["sender_id"]) == ("joined", person.id)
            chats.append(chat)
        yield chats


def resident_bytes(pid: int) -> int:
    """The memory of a process that is in RAM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
