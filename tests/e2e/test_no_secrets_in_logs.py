"""No token, ticket, password or message text is in any output, at the level `debug`, whatever goes wrong.

Each test walks through REST and WebSocket with words of its own in every secret place, makes things fail, and then
looks for these words in all that the process wrote.
"""

import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from uuid import UUID

import jwt
import psycopg
import pytest
import trio
import trio_websocket
from psycopg import sql

from pulse_trio import logs
from pulse_trio.app import PulseApp, create_app
from pulse_trio.edge.server import install
from pulse_trio.ids import IdSource
from pulse_trio.model import Command, Edit, Post, User
from pulse_trio.settings import Settings
from pulse_trio.store.base import Account, Outcome
from pulse_trio.store.memory import MemoryStore
from pulse_trio.store.protections import UsedTicket
from tests.support.client import Api, Chat, Person
from tests.support.cluster import Cluster
from tests.support.raw import open_raw, upgrade_request
from tests.support.server import SECRET, Server
from tests.support.signals import signalled

REGISTER, LOGIN, CONVERSATIONS = "/api/auth/register", "/api/auth/login", "/api/chat/conversations"
ROOT = Path(__file__).resolve().parents[2]
HYPERCORN = str(Path(sys.executable).with_name("hypercorn"))

PASSWORD, WRONG_PASSWORD = "canary-password-5d1f", "canary-wrong-77b1"
CONTENT, CRASH_CONTENT = "canary-message-8a2c", "canary-crash-31e7"
NAME = "canary-name-90fe"
CRASH = "crash"  # the beginning of the names of which the store below breaks

JSON_TYPE = {"Content-Type": "application/json"}


def token_for(subject: str, seconds: float) -> str:
    now = time.time()
    return jwt.encode({"sub": subject, "iat": now - 1_000, "exp": now + seconds}, SECRET, algorithm="HS256")


async def draw(person: Person, conversation: str | None) -> str:
    drawn = await person.api.post(
        "/api/chat/ws-ticket", json={} if conversation is None else {"conversation_id": conversation}
    )
    return str(drawn.json()["ticket"])


async def connect_in_every_way(server: Server, path: str, token: str, ticket: str) -> None:
    """Good or bad: with the token in each place, without a good key, with a byte too much, elsewhere."""
    requests = [
        upgrade_request(f"{path}?token={token}"),
        upgrade_request(path, [("Authorization", f"Bearer {token}")]),
        upgrade_request(path, [("Sec-WebSocket-Protocol", f"pulse.v1, bearer.{token}")]),
        upgrade_request(f"{path}?ticket={ticket}"),
        upgrade_request(f"{path}?ticket={ticket}"),
        upgrade_request(f"{path}?token={token}&ticket={ticket}"),
        upgrade_request(f"/no/such/path?token={token}&ticket={ticket}"),
        upgrade_request(f"{path}?token={token}&after=x"),
        upgrade_request(f"{path}?token={token}", key="bad"),
        upgrade_request(f"{path}?token={token}", version="8"),
    ]
    for data in requests:
        async with open_raw(server.port) as client:
            await client.request(data)
    for extra in (b"\x00\xff\x00", b"GET /?token=" + token.encode()):
        async with open_raw(server.port) as client:
            await client.send(upgrade_request(f"{path}?token={token}") + extra)
            await client.wait_gone()


async def talk(chat: Chat, conversation: str, others_token: str, content: str = CONTENT) -> str:
    """Good frames and bad ones; the id of a message of it."""
    about = {"conversation_id": conversation}
    await chat.send({"type": "message", "content": content, **about})
    message = str((await chat.receive_type("message"))["message_id"])
    for bad in (
        {"type": "nonsense", "content": content},
        {"type": "message", "content": content + "\x00", **about},
        {"type": "message", "content": content, "client_id": content * 10, **about},
        {"type": "message", "content": content * 500, **about},
        {"type": "edit", "message_id": str(IdSource()()), "content": content, **about},
        {"type": "auth", "token": others_token},
        {"type": "auth", "token": token_for("nobody", 60)},
        {"type": "auth", "token": [others_token]},
        {"type": "message", "content": content, "conversation_id": str(IdSource()())},
        "{" + content,
        content.encode(),
    ):
        await chat.send(bad)
        assert (await chat.receive_type("error"))["code"]
    return message


async def walk(server: Server) -> tuple[Person, str, str, list[str]]:
    """A person, their conversation, a message of it, and all the secrets that were used."""
    ada = await Person.register(server.base_url, "ada", PASSWORD)
    eve = await Person.register(server.base_url, "eve", PASSWORD)
    group = await ada.create_group(name=NAME)
    tokens = [ada.token, eve.token, token_for(ada.id, -1), token_for(str(IdSource()()), 60), ada.token + "x"]
    tickets = [await draw(ada, group), await draw(eve, group), await draw(ada, None)]

    for token in tokens:
        for path in (f"/api/chat/ws/{group}", "/api/chat/ws"):
            await connect_in_every_way(server, path, token, tickets[0])
            await connect_in_every_way(server, path, token, tickets[1])
        api = Api(server.base_url, {"Authorization": f"Bearer {token}"})
        for path in ("/api/auth/me", CONVERSATIONS, f"/api/chat/ws/{group}", "/nothing"):
            await api.get(path, params={"token": token, "ticket": tickets[0]})
        await Api(server.base_url).get(f"/{token}")

    async with ada.connect(group) as chat:
        message = await talk(chat, group, eve.token)
    url = f"{server.base_url.replace('http', 'ws', 1)}/api/chat/ws?ticket={tickets[2]}"
    async with trio_websocket.open_websocket_url(url) as connection:
        await talk(Chat(connection, "session"), group, eve.token)

    api = ada.api
    await api.get(f"{CONVERSATIONS}/{group}/messages")
    await api.patch(f"{CONVERSATIONS}/{group}/messages/{message}", json={"content": CONTENT + " edited"})
    for body in (
        {"username": "ada", "password": WRONG_PASSWORD},
        {"username": "nobody", "password": WRONG_PASSWORD},
        {"username": PASSWORD * 20, "password": [WRONG_PASSWORD]},
        {"username": "ada", "password": PASSWORD + "\x00"},
        {"username": "ada", "password": PASSWORD * 50},
        {"username": PASSWORD},
    ):
        for path in (LOGIN, REGISTER):
            await api.post(path, json=body)
    await api.post(CONVERSATIONS, content=CONTENT.encode(), headers=JSON_TYPE)
    await api.post(CONVERSATIONS, json={"participant_ids": [CONTENT, ada.token]})
    await api.get("/api/users", params={"query": CONTENT, "limit": CONTENT})
    return ada, group, message, [*tokens, *tickets]


def assert_silent(output: str, secrets: Sequence[str]) -> None:
    """None of the secrets is in it; of a token neither what it says nor its signature, which makes it one."""
    assert output, "nothing was written: this shows nothing"
    words = [PASSWORD, WRONG_PASSWORD, CONTENT, CRASH_CONTENT, SECRET]
    for secret in secrets:
        words += [secret, *secret.split(".")[1:]]
    # Of long ones a piece is too much already.
    found = [word for word in words if word[:40] in output or word[-12:] in output]
    assert not found


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_of_a_walk_with_failures(start_server: Callable[..., Server], database: str, log_format: str) -> None:
    server = start_server(PULSE_LOG_FORMAT=log_format)  # at the level debug, as all servers of the tests
    with trio.fail_after(120):
        ada, group, message, secrets = await walk(server)
        secrets += stored_secrets(database)
        with psycopg.connect(database, autocommit=True) as connection:  # and with faults that are logged
            connection.execute("ALTER TABLE messages ADD CHECK (content NOT LIKE '%crash%') NOT VALID")
        async with ada.connect(group) as chat:
            await chat.send({"type": "message", "content": CRASH_CONTENT, "client_id": CRASH_CONTENT})
            assert (await chat.receive_type("error"))["code"] == "not_stored"
        path = f"{CONVERSATIONS}/{group}/messages"
        refused = await ada.api.patch(f"{path}/{message}", json={"content": CRASH_CONTENT})
        assert refused.status_code == 503
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("ALTER TABLE messages RENAME TO elsewhere")
        for query in ("", f"?token={ada.token}"):
            assert (await ada.api.get(path + query)).status_code == 503
        await ada.api.patch(f"{path}/{message}", json={"content": CONTENT})
    assert server.stop() == 0
    assert "CheckViolation" in server.output, "the faults were logged"
    assert_silent(server.output, secrets)


def stored_secrets(database: str) -> list[str]:
    """Returns the password hashes in the database, which has no tokens, tickets or passwords."""
    with psycopg.connect(database) as connection:
        tables = [
            name
            for (name,) in connection.execute(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
            )
        ]
        rows = {
            name: str(connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(name))).fetchall())
            for name in tables
        }
        hashes = [row[0] for row in connection.execute("SELECT password_hash FROM users")]
    assert CONTENT in rows["messages"], "the messages are there: it was looked in the right place"
    text = str(rows)
    assert len(hashes) == 3
    assert all(one.startswith("$argon2id$") for one in hashes)
    for word in (PASSWORD, WRONG_PASSWORD, SECRET, "eyJhbGciOi"):  # which is how every token begins
        assert word not in text
    return hashes


async def test_of_the_embedded_database_too(own_cluster: Cluster, start_server: Callable[..., Server]) -> None:
    """Its log is a file in the data folder; PostgreSQL would write rows that it refuses into it."""
    database = own_cluster.new_database()
    server = start_server(DATABASE_URL=database)
    with trio.fail_after(60):
        ada = await Person.register(server.base_url, "ada", PASSWORD)
        group = await ada.create_group()
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("ALTER TABLE messages ADD CHECK (content NOT LIKE '%crash%')")
            connection.execute("ALTER TABLE users ADD CHECK (username NOT LIKE '%crash%')")
        async with ada.connect(group) as chat:
            await chat.send({"type": "message", "content": CRASH_CONTENT, "client_id": CRASH_CONTENT})
            assert (await chat.receive_type("error"))["code"] == "not_stored"
        refused = await Api(server.base_url).post(REGISTER, json={"username": CRASH, "password": PASSWORD})
        assert refused.status_code == 503
    assert server.stop() == 0
    written = (own_cluster.folder / "data" / "postgres.log").read_text()
    assert "violates check constraint" in written, "the faults were logged"
    assert_silent(written + server.output, [ada.token])
    assert "$argon2id$" not in written


# --- Exceptions that nobody expected: their tracebacks are logged, with no values in them ---


class FailingStore(MemoryStore):
    """A store with faults that no contract allows, in every place where a secret is under way."""

    async def create_user(
        self, user: User, *, password_hash: str | None, subject: str | None, created_at: datetime
    ) -> None:
        if user.username.startswith(CRASH):
            raise RuntimeError("planted in create_user")
        await super().create_user(user, password_hash=password_hash, subject=subject, created_at=created_at)

    async def find_account(self, username: str) -> Account | None:
        if username.startswith(CRASH):
            raise RuntimeError("planted in find_account")
        return await super().find_account(username)

    async def membership(self, conversation_id: UUID, user_id: UUID) -> int | None:
        found = self._conversations.get(conversation_id)
        if found is not None and (found.new.name or "").startswith(CRASH):
            raise RuntimeError("planted in membership")
        return await super().membership(conversation_id, user_id)

    async def use_ticket(self, digest: bytes) -> UsedTicket | None:
        used = await super().use_ticket(digest)
        if used is not None and used.conversation_id is not None:
            await self.membership(used.conversation_id, used.user.id)
        return used

    async def apply(self, commands: Sequence[Command]) -> list[Outcome]:
        for command in commands:
            if isinstance(command, Post | Edit) and command.content == CRASH_CONTENT:
                raise RuntimeError(f"planted in {type(command).__name__}")
        return await super().apply(commands)


def make_app() -> PulseApp:
    """The app on that store, for Hypercorn."""

    @asynccontextmanager
    async def open_store() -> AsyncIterator[FailingStore]:
        yield FailingStore()

    settings = Settings.load()
    logs.configure(settings)
    install(settings, stop=signalled)
    return create_app(settings, open_store)


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_of_exceptions(tmp_path: Path, log_format: str) -> None:
    config = tmp_path / "hypercorn.toml"
    lines = (ROOT / "hypercorn.toml").read_text().splitlines()
    config.write_text("\n".join(['bind = ["127.0.0.1:0"]', *(line for line in lines if not line.startswith("bind"))]))
    command = [HYPERCORN, "--config", str(config), f"{__name__}:make_app()"]
    server = Server({"SECRET_KEY": SECRET, "PULSE_LOG_FORMAT": log_format}, command=command, cwd=ROOT)
    try:
        server.wait_ready()
        with trio.fail_after(120):
            ada, group, message, secrets = await walk(server)
            api = ada.api
            for path in (LOGIN, REGISTER):
                failed = await api.post(path, json={"username": CRASH, "password": PASSWORD})
                assert failed.status_code == 500
            broken = await ada.create_group(name=f"{CRASH} {NAME}")
            ticket = await draw(ada, broken)
            path = f"/api/chat/ws/{broken}"
            for data in (
                upgrade_request(f"{path}?token={ada.token}"),
                upgrade_request(path, [("Authorization", f"Bearer {ada.token}")]),
                upgrade_request(path, [("Sec-WebSocket-Protocol", f"pulse.v1, bearer.{ada.token}")]),
                upgrade_request(f"{path}?ticket={ticket}"),
            ):
                async with open_raw(server.port) as client:
                    assert (await client.request(data)).status == 500
            for frame in (
                {"type": "message", "content": CRASH_CONTENT, "client_id": "c-1"},
                {"type": "edit", "message_id": message, "content": CRASH_CONTENT},
            ):
                async with ada.connect(group) as chat:
                    await chat.receive_type("system")
                    await chat.send(frame)
                    assert await chat.wait_closed() == 1011
    finally:
        code = server.stop()
    assert code == 0
    for place in ("create_user", "find_account", "membership", "Post", "Edit"):
        assert f"planted in {place}" in server.output, "or this shows nothing"
    assert "Traceback" in server.output
    assert_silent(server.output, [*secrets, ticket])
