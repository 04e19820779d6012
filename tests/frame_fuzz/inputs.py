"""Inputs of the fuzz: requests, handshakes, WebSocket frames and client frames, first valid, then broken."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, get_args
from uuid import UUID

from pulse_trio.protocol.client_frames import ClientFrame
from tests.support.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame, upgrade_request

FRAMES: Final = get_args(ClientFrame)
NUMBERS: Final = (0, 1, -1, 2, 2**31, 2**53, 2**63 - 1, 2**63, 10**18, 10**40, 0.5, -0.0, 1e308, 30.0)
TEXTS: Final = (
    "",
    " ",
    "\x00",
    "a",
    "é",
    "e\u0301",
    "\u200b",
    "\u202e",
    "🙂",
    "x" * 5_000,
    "null",
    "\ud800",
    "1",
    "\n",
)
BYTES: Final = (b"\x00", b"\xff", b"\r", b"\n", b"\r\n", b" ", b":", b"%", b"\xc0\xaf", b"\xed\xa0\x80", b"\x7f", b'"')
HEADERS: Final = (
    ("Content-Length", "-1"),
    ("Content-Length", "5"),
    ("Content-Length", "99999999999999999999"),
    ("Transfer-Encoding", "chunked"),
    ("Transfer-Encoding", "gzip, chunked"),
    ("Expect", "100-continue"),
    ("Connection", "close"),
    ("Connection", "Upgrade"),
    ("Upgrade", "h2c"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Extensions", "permessage-deflate"),
    ("Sec-WebSocket-Protocol", "a, b"),
    ("Sec-WebSocket-Version", "99"),
    ("Origin", "null"),
    ("Origin", "http://other.example"),
    ("Host", ""),
    ("Host", "a b"),
    ("X-Forwarded-For", "::1, 10.0.0.1, nonsense"),
    ("X-Request-ID", "x" * 500),
    ("Authorization", "Bearer "),
    ("Authorization", "Bearer a.b.c"),
    ("Range", "bytes=0-1"),
    ("If-None-Match", "*"),
    ("Accept-Encoding", "br;q=1.0, gzip;q=0.5, *;q=0"),
    ("X", "y" * 20_000),
)


class Ids:
    """Values that the service knows, for inputs that reach far.

    Args:
        conversations: ids of conversations, one's own first.
        messages: ids of messages.
        users: ids of users.
        token: a valid token of the user who sends.
        epoch: that of the history.
    """

    def __init__(
        self, conversations: Sequence[str], messages: Sequence[str], users: Sequence[str], token: str, epoch: str
    ) -> None:
        self.conversations = conversations
        self.messages = messages
        self.users = users
        self.token = token
        self.epoch = epoch


class Inputs:
    """Inputs drawn from one source of random numbers."""

    def __init__(self, rand: random.Random, ids: Ids, paths: Sequence[tuple[str, str]]) -> None:
        self._random = rand
        self._ids = ids
        self._paths = paths

    # --- client frames ---

    def text(self) -> bytes:
        """Returns the text of a client frame: valid, nearly valid, or any JSON."""
        rand = self._random
        kind = rand.choice(FRAMES)
        fields: dict[str, Any] = {"type": kind.__struct_config__.tag}
        for name in kind.__struct_fields__:
            if name not in kind.__struct_fields__[-len(kind.__struct_defaults__) :] or rand.random() < 0.6:
                fields[name] = self._valid(name)
        for _ in range(rand.choice((0, 0, 0, 1, 2, 5))):
            self._mutate(fields)
        text = json.dumps(fields, ensure_ascii=rand.random() < 0.5).encode(errors="surrogatepass")
        match rand.randrange(20):
            case 0:
                text = text[: rand.randrange(len(text))]
            case 1:
                text = self._damage(text)
            case 2:  # a member twice
                text = text[:-1] + b', "type": "ping"}'
            case 3:
                text = json.dumps(self.value()).encode(errors="surrogatepass")
            case 4:
                text = b"[" * rand.choice((10, 2_000, 30_000)) + text
        return text

    def _valid(self, name: str) -> Any:
        rand, ids = self._random, self._ids
        values: dict[str, Callable[[], Any]] = {
            "content": lambda: rand.choice(("hello", "🙂", "x" * 4_000)),
            "client_id": lambda: str(rand.randrange(50)),
            "conversation_id": lambda: rand.choice((*ids.conversations, self._uuid())),
            "message_id": lambda: rand.choice((*ids.messages, self._uuid())),
            "seq": lambda: rand.choice((1, 2, 10**9)),
            "token": lambda: ids.token,
            "revs": lambda: {rand.choice((*ids.conversations, self._uuid())): rand.choice((0, 1, 10**9))},
            "epoch": lambda: rand.choice((ids.epoch, "other")),
            "features": lambda: rand.sample(["members", "conversation", "me", "unknown"], 2),
            "me": lambda: rand.choice((0, 1, 10**9)),
            "user_ids": lambda: [rand.choice((*ids.users, self._uuid())) for _ in range(rand.choice((0, 1, 600)))],
        }
        return values[name]()  # a field that is not here is a new one: add it

    def _mutate(self, fields: dict[str, Any]) -> None:
        rand = self._random
        name = rand.choice((*fields, "type", "conversation_id", "other"))
        match rand.randrange(4):
            case 0:
                fields.pop(name, None)
            case 1:
                fields[name] = self.value()
            case 2:
                fields[name] = fields.get(rand.choice(list(fields)) if fields else name)
            case 3:
                fields[self._string()] = self.value()

    def value(self, depth: int = 0) -> Any:
        """Returns any JSON value."""
        rand = self._random
        match rand.randrange(7 if depth < 4 else 4):
            case 0:
                return rand.choice((None, True, False))
            case 1:
                return rand.choice(NUMBERS)
            case 2:
                return self._string()
            case 3:
                return self._uuid()
            case 4:
                return [self.value(depth + 1) for _ in range(rand.choice((0, 1, 3, 50)))]
            case 5:
                return {self._string(): self.value(depth + 1) for _ in range(rand.choice((0, 1, 3)))}
            case _:
                return rand.choice((*self._ids.conversations, *self._ids.messages, *self._ids.users))

    def _string(self) -> str:
        return self._random.choice(TEXTS) + self._random.choice(TEXTS)

    def _uuid(self) -> str:
        return str(UUID(bytes=self._random.randbytes(16)))

    # --- WebSocket ---

    def whole_message(self, text: bytes) -> bytes:
        """Returns a message in frames that keep the protocol: whole or in fragments, with pings between them."""
        rand = self._random
        opcode = TEXT if rand.random() < 0.95 else BINARY
        if rand.random() < 0.7:
            return frame(text, opcode)
        at = sorted(rand.randrange(len(text) + 1) for _ in range(rand.choice((1, 2, 6))))
        parts = [text[a:b] for a, b in zip((0, *at), (*at, len(text)), strict=True)]
        wire = b""
        for number, part in enumerate(parts):
            wire += frame(part, opcode if number == 0 else CONTINUATION, fin=number == len(parts) - 1)
            if rand.random() < 0.3:
                wire += frame(rand.randbytes(rand.choice((0, 1, 125))), rand.choice((PING, PONG)))
        return wire

    def broken_frames(self) -> bytes:
        """Returns frames that may break RFC 6455 in every way."""
        rand = self._random
        wire = b""
        for _ in range(rand.choice((1, 3, 10))):
            payload = rand.choice((b"", self.text(), rand.randbytes(rand.choice((1, 2, 125, 126, 70_000)))))
            announced = rand.choice((None, None, 0, 1, 2**16, 2**32, 2**63 - 1, 2**63))
            wire += frame(
                payload,
                rand.randrange(16) if rand.random() < 0.5 else rand.choice((TEXT, CLOSE, PING, CONTINUATION)),
                fin=rand.random() < 0.8,
                reserved=rand.choice((0, 0, 0, rand.randrange(8))),
                masked=rand.random() < 0.9,
                announced=announced,
            )
        return self._damage(wire) if rand.random() < 0.3 else wire

    # --- HTTP ---

    def handshake(self, path: str) -> bytes:
        """Returns a handshake that may be broken."""
        rand = self._random
        headers = rand.sample(HEADERS, rand.choice((0, 1, 2)))
        key = rand.choice(("c2l4dGVlbiBieXRlcyEhIQ==", "short", None))
        request = upgrade_request(path, headers, key=key, version=rand.choice(("13", "13", "8", None)))
        return self._damage(request) if rand.random() < 0.4 else request

    def request(self) -> bytes:
        """Returns a request, or several, that may be broken."""
        return b"".join(self._one_request() for _ in range(self._random.choice((1, 1, 1, 2, 5))))

    def _one_request(self) -> bytes:
        rand, ids = self._random, self._ids
        method, path = rand.choice(self._paths)
        while "{" in path:
            before, _, rest = path.partition("{")
            name, _, after = rest.partition("}")
            known = ids.messages if "message" in name else ids.users if "user" in name else ids.conversations
            path = before + rand.choice((*known, self._uuid(), "x", "%00", "..", "%ff")) + after
        if rand.random() < 0.3:
            query = rand.choice(("limit", "offset", "before_seq", "after_seq", "cursor", "query", "features", "token"))
            path += f"?{query}={rand.choice(('0', '-1', '1e3', '9' * 40, '%00', 'x', '%ed%a0%80', ''))}"
        method = rand.choice((method,) * 8 + (method.lower(), "OPTIONS", "HEAD", "TRACE", "BREW"))
        headers = [("Host", rand.choice(("chat.example",) * 9 + ("a..b",)))]
        if rand.random() < 0.9:
            headers.append(("Authorization", f"Bearer {ids.token}"))
        body = b""
        if method in {"POST", "PUT", "PATCH"}:
            body = rand.choice((json.dumps(self.value()).encode(errors="surrogatepass"), self.text()))
            headers.append(("Content-Type", rand.choice(("application/json",) * 4 + ("text/plain", "multipart/x"))))
            headers.append(("Content-Length", str(len(body))))
        headers += rand.sample(HEADERS, rand.choice((0, 0, 0, 1, 2)))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers)
        version = rand.choice(("HTTP/1.1",) * 9 + ("HTTP/1.0", "HTTP/2.0", "HTTP/9", ""))
        request = f"{method} {path} {version}\r\n{head}\r\n".encode("latin-1", "replace") + body
        return self._damage(request) if rand.random() < 0.2 else request

    def _damage(self, data: bytes) -> bytes:
        """Changes, removes, adds or repeats a few bytes."""
        rand, changed = self._random, bytearray(data)
        for _ in range(rand.choice((1, 2, 8))):
            at = rand.randrange(len(changed) + 1)
            match rand.randrange(4):
                case 0:
                    changed[at : at + 1] = rand.choice(BYTES)
                case 1:
                    del changed[at : at + rand.choice((1, 2, 20))]
                case 2:
                    changed[at:at] = rand.randbytes(rand.choice((1, 4)))
                case 3:
                    changed[at:at] = changed[at : at + rand.choice((1, 10, 100))]
        return bytes(changed)

    def pieces(self, data: bytes) -> list[bytes]:
        """Splits what is sent into a few writes."""
        rand = self._random
        at = sorted(rand.randrange(len(data) + 1) for _ in range(rand.choice((0, 0, 1, 3))))
        return [data[a:b] for a, b in zip((0, *at), (*at, len(data)), strict=True)]
