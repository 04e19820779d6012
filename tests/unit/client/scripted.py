"""The other side of a client, told by the test what to say: REST by a table, WebSockets over streams in memory."""

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import httpx2
import trio
import trio_websocket
from trio_websocket import WebSocketConnection

from pulse_trio.client import Address, Backoff, Client, Network, open_client
from tests.simulation.streams import Connection, End

ALICE = "0190a6c0-7f6e-7c3e-8a3e-3f2b1c0d9e8f"
BOB = "0190a6c0-7f6e-7c3e-8a3e-3f2b1c0d9e90"
CAROL = "0190a6c0-7f6e-7c3e-8a3e-3f2b1c0d9e91"
DAVE = "0190a6c0-7f6e-7c3e-8a3e-3f2b1c0d9e92"
TEAM = "0190a6bf-01aa-7b3c-8d4e-9f8e7d6c5b4a"
NOW = "2026-02-04T10:30:00.123456Z"
EPOCH = "5f1d7a02c4b8e963"
TOKEN_SECONDS = 3_600

Answer = tuple[int, Any]


def message_frame(seq: int, content: str = "hello", *, rev: int | None = None, **fields: Any) -> dict[str, Any]:
    """A `message` of Bob's."""
    return {
        "type": "message",
        "content": content,
        "sender_id": BOB,
        "sender_username": "bob",
        "message_id": str(UUID(int=(0x0190A6C0 << 96) | seq)),
        "timestamp": NOW,
        "is_edited": False,
        "conversation_id": TEAM,
        "seq": seq,
        "rev": seq if rev is None else rev,
        **fields,
    }


def own_frame(seq: int, sent: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The acknowledgement of a frame that the client sent."""
    return message_frame(
        seq, sent["content"], sender_id=ALICE, sender_username="alice", client_id=sent["client_id"], **fields
    )


def entry(
    user_id: str, username: str, rev: int, *, is_member: bool = True, actor_id: str | None = ALICE
) -> dict[str, Any]:
    """A user in a `member` frame."""
    return {"user_id": user_id, "username": username, "is_member": is_member, "rev": rev, "actor_id": actor_id}


def member_frame(*entries: Any, prev_rev: int) -> dict[str, Any]:
    """Users who were added or removed."""
    return {
        "type": "member",
        "conversation_id": TEAM,
        "rev": entries[-1]["rev"],
        "prev_rev": prev_rev,
        "member_count": 3,
        "members": list(entries),
    }


def conversation_frame(rev: int, *, prev_rev: int | None = None, **fields: Any) -> dict[str, Any]:
    """The group as it now is, changed by Bob."""
    details = {"name": "Team", "description": None, "owner_id": ALICE, "actor_id": BOB, **fields}
    prev_rev = rev - 1 if prev_rev is None else prev_rev
    return {"type": "conversation", "conversation_id": TEAM, "rev": rev, "prev_rev": prev_rev, **details}


class Peer:
    """The server's end of a connection.

    Attributes:
        features: those that the client asked for.
        resumes: rev and epoch after which it resumes; None: at the present.
    """

    def __init__(self, socket: WebSocketConnection, path: str, headers: dict[str, str], network: Connection) -> None:
        self._socket = socket
        self._network = network
        parts = urlsplit(path)
        query = dict(parse_qsl(parts.query))
        self.path = parts.path
        self.features = query.get("features")
        self.resumes = (int(query["after"]), query.get("epoch")) if "after" in query else None
        self.token = headers["authorization"].removeprefix("Bearer ")
        self.closed = trio.Event()

    async def send(self, *frames: dict[str, Any]) -> None:
        for frame in frames:
            await self._socket.send_message(json.dumps(frame))

    async def greet(self, rev: int = 0, *, epoch: str = EPOCH, active: tuple[str, ...] = (ALICE,)) -> None:
        """The first frame of a connection."""
        await self.send(self.system("joined", ALICE, rev, epoch=epoch, active=active))

    @staticmethod
    def system(
        event: str, who: str, rev: int, *, epoch: str = EPOCH, active: tuple[str, ...] | None = None
    ) -> dict[str, Any]:
        frame = {
            "type": "system",
            "content": f"User {who} {event} the conversation",
            "sender_id": who,
            "active_count": 1 if active is None else len(active),
            "event": event,
            "conversation_id": TEAM,
            "last_seq": rev,
            "last_rev": rev,
            "epoch": epoch,
        }
        return frame if active is None else {**frame, "active_users": list(active)}

    async def receive(self, kind: str = "message", seconds: float = 100) -> dict[str, Any]:
        """The next frame, which must be of this type."""
        with trio.fail_after(seconds):
            frame: dict[str, Any] = json.loads(await self._socket.get_message())
        assert frame["type"] == kind, frame
        return frame

    async def silence(self, seconds: float) -> None:
        """Nothing comes for so long."""
        with trio.move_on_after(seconds):
            raise AssertionError(await self._socket.get_message())

    async def close(self, code: int, reason: str = "because") -> None:
        await self._socket.aclose(code, reason)

    def cut(self) -> None:
        self._network.cut()

    async def wait_closed(self) -> list[str]:
        """The types of the frames that come until the client has closed it, or cut it."""
        kinds = []
        with trio.fail_after(500):
            try:
                while True:
                    kinds.append(json.loads(await self._socket.get_message())["type"])
            except trio_websocket.ConnectionClosed:
                pass
        return kinds


class ScriptedServer(Network):
    """A service that does what the test says.

    Attributes:
        answers: what REST answers, by method and path; a function is called with the body, or the query if there is
            none, and may be asynchronous.
        asked: the requests that came.
        tokens: the token of each of them; None: it had none.
        refusals: how the next handshakes are refused: status, body, `Retry-After`.
        dials: when a connection was asked for, in seconds of Trio's clock.
        is_down: whether nobody listens.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__()
        self._nursery = nursery
        self._accepted, self._accepting = trio.open_memory_channel[Peer](100)
        self._tokens = 0
        self.refusals: list[tuple[int, dict[str, str], str | None]] = []
        self.dials: list[float] = []
        self.is_down = False
        self.last_network: Connection
        self.last_peer: Peer
        self.asked: list[tuple[str, str]] = []
        self.tokens: list[str | None] = []
        self.answers: dict[tuple[str, str], Answer | Callable[[Any], Answer | Awaitable[Answer]]] = {
            ("GET", "/api/auth/me"): (200, {"id": ALICE, "username": "alice"}),
            ("POST", "/api/auth/login"): self.new_token,
            ("POST", "/api/auth/renew"): self.new_token,
            ("GET", f"/api/chat/conversations/{TEAM}"): (200, CONVERSATION),
        }

    def new_token(self, _body: Any) -> Answer:
        self._tokens += 1
        return 200, {"access_token": f"token-{self._tokens}", "token_type": "bearer", "expires_in": TOKEN_SECONDS}

    async def accept(self, seconds: float = 500) -> Peer:
        """The next connection, not greeted yet."""
        with trio.fail_after(seconds):
            return await self._accepting.receive()

    async def accept_greeted(self, rev: int = 0) -> Peer:
        """The next connection, greeted."""
        peer = await self.accept()
        await peer.greet(rev)
        return peer

    # --- Network ---

    def http_transport(self, _address: Address) -> httpx2.AsyncBaseTransport:
        return httpx2.MockTransport(self._answer)

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        await trio.lowlevel.checkpoint()
        if self.is_down:
            raise httpx2.ConnectError("nobody listens")
        key = request.method, request.url.path
        self.asked.append(key)
        authorization = request.headers.get("Authorization")
        self.tokens.append(None if authorization is None else authorization.removeprefix("Bearer "))
        found = self.answers.get(key, (404, {"code": "not_found", "message": "There is no such thing"}))
        given = json.loads(request.content) if request.content else dict(request.url.params)
        answer = found(given) if callable(found) else found
        status, body = answer if isinstance(answer, tuple) else await answer
        return httpx2.Response(status, json=body)

    async def open_stream(self, _address: Address) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.dials.append(trio.current_time())
        if self.is_down:
            raise ConnectionRefusedError("nobody listens")
        network = Connection(random.Random(4))
        self.last_network = network
        self._nursery.start_soon(self._serve, network)
        return network.client

    async def _serve(self, network: Connection) -> None:
        stream: End = network.server
        request = await trio_websocket.wrap_server_stream(self._nursery, stream, message_queue_size=100)
        if self.refusals:
            status, body, retry_after = self.refusals.pop(0)
            headers = [] if retry_after is None else [(b"Retry-After", retry_after.encode())]
            await request.reject(status, extra_headers=headers, body=json.dumps(body).encode())
            return
        socket = await request.accept()
        headers = {name.decode().lower(): value.decode() for name, value in request.headers}
        self.last_peer = Peer(socket, request.path, headers, network)
        await self._accepted.send(self.last_peer)


CONVERSATION = {
    "id": TEAM,
    "name": "Team",
    "description": None,
    "is_group": True,
    "owner_id": ALICE,
    "created_at": NOW,
    "updated_at": NOW,
    "users": [{"id": ALICE, "username": "alice"}, {"id": BOB, "username": "bob"}],
    "last_message": None,
    "total_messages": 0,
    "last_seq": 0,
    "last_rev": 0,
    "epoch": EPOCH,
}


@asynccontextmanager
async def scripted(
    *, attempts: int | None = 30, password: str | None = "a password", token: str | None = None
) -> AsyncIterator[tuple[ScriptedServer, Client]]:
    """A scripted server and a client that is signed in to it."""
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(nursery)
        backoff = Backoff(attempts=attempts, rand=random.Random(7))
        who = {"token": token} if token else {"username": "alice", "password": password}
        async with open_client("http://chat.example", network=server, backoff=backoff, **who) as client:  # type: ignore[arg-type]
            yield server, client
        nursery.cancel_scope.cancel()
