"""The whole service in this process: a store in memory, one conversation, and connections over socket pairs.

It needs no port and no database, and runs on a virtual clock. Its connections are read by the poller or by their own
tasks, as the test says.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from pulse_trio.app import create_app, open_service
from pulse_trio.edge.server import install, wrap
from pulse_trio.edge.server.poller import Poller, set_poller
from pulse_trio.edge.server.tcp_connection import TcpConnection
from pulse_trio.edge.services import Services
from pulse_trio.model import User
from pulse_trio.settings import Settings
from pulse_trio.store.base import NewConversation
from tests.support.raw import RawClient, upgrade_request
from tests.support.server import SECRET
from tests.unit.rooms.world import FaultyStore

BEGINNING = datetime(2026, 2, 4, 10, 30, tzinfo=UTC)
LIFETIME = 36_000  # seconds of a token
HYPERCORN_TOML = Path(__file__).parents[2] / "hypercorn.toml"


class SmallService:
    """A running service.

    Attributes:
        parts: its parts.
        store: what it stores in; can be held, and fails on command.
        users: alice and bob, the members of the conversation.
        ahead: seconds by which the wall clock is ahead of Trio's.
    """

    def __init__(self, settings: Settings, nursery: trio.Nursery) -> None:
        self.store = FaultyStore()
        self.ahead = 0.0
        self.open = 0  # connections that are served
        self._clients: list[trio.socket.SocketType] = []
        self._nursery = nursery
        self._began = trio.current_time()

        @asynccontextmanager
        async def open_store() -> AsyncIterator[FaultyStore]:
            yield self.store

        self.app = create_app(settings, open_store, clock=self.clock)
        self.users = [User(self.app.ids(), name) for name in ("alice", "bob")]
        self.conversation_id = self.app.ids()
        self.parts: Services
        self._config = Config.from_toml(HYPERCORN_TOML)
        self._config.errorlog = None

    def clock(self) -> datetime:
        """The wall clock."""
        return BEGINNING + timedelta(seconds=trio.current_time() - self._began + self.ahead)

    async def populate(self) -> None:
        for user in self.users:
            await self.store.create_user(user, password_hash=None, subject=None, created_at=BEGINNING)
        members = tuple(user.id for user in self.users)
        new = NewConversation(self.conversation_id, "Team", None, True, members[0], members, BEGINNING)
        await self.store.create_conversation(new)

    @property
    def contents(self) -> list[str]:
        """The messages that are stored, in order."""
        return [message.content for message in self.store.stored(self.conversation_id)]

    async def connect(
        self, *, is_session: bool = False, lifetime: float = LIFETIME, socket: Any = None, user: int = 0
    ) -> RawClient:
        """Connects a user, to the conversation or with a session; the first frame is read.

        `socket`: the server's and the client's end, if they are not to be a socket pair.
        """
        ours, theirs = trio.socket.socketpair() if socket is None else socket
        self._clients.append(theirs)
        self._nursery.start_soon(self._serve, trio.SocketStream(ours))
        expires = int(self.clock().timestamp() + lifetime)
        token = jwt.encode({"sub": str(self.users[user].id), "exp": expires}, SECRET, algorithm="HS256")
        path = "/api/chat/ws" if is_session else f"/api/chat/ws/{self.conversation_id}"
        client = RawClient(trio.SocketStream(theirs))
        answer = await client.request(upgrade_request(f"{path}?token={token}"))
        assert answer.status == 101, answer
        await client.read_json_type("session" if is_session else "system")
        return client

    def cut(self) -> None:
        """Ends all connections."""
        self._nursery.cancel_scope.cancel()
        for theirs in self._clients:
            theirs.close()

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.open += 1
        try:
            await TcpConnection(wrap(self.app), self._config, WorkerContext(None), {}, stream).run()  # type: ignore[arg-type]
        finally:
            self.open -= 1
            await trio.aclose_forcefully(stream)  # as `trio.serve_listeners` does


@asynccontextmanager
async def small_service(*, is_polled: bool, **settings: Any) -> AsyncIterator[SmallService]:
    """Runs a service; `settings` may be beyond what is allowed.

    Connections that are open at the end are cut.
    """
    chosen = Settings(secret_key=SECRET).model_copy(update=settings)
    install(chosen)
    poller = Poller() if is_polled else None
    async with trio.open_nursery() as nursery:
        set_poller(poller)
        if poller is not None:
            nursery.start_soon(poller.run)
        service = SmallService(chosen, nursery)
        await service.populate()
        async with open_service(service.app) as parts:
            service.parts = parts
            async with trio.open_nursery() as service._nursery:
                yield service
                service.cut()
        nursery.cancel_scope.cancel()
    set_poller(None)
    if poller is not None:
        poller.close()
