"""The town that is attacked: a canary, and attackers with large groups and long histories of their own."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import psycopg
import trio

from tests.fairness.attackers import Attack, Attackers, open_attackers
from tests.fairness.canary import Canary, open_canary
from tests.fairness.largest import CONTENT, Place
from tests.support.client import Person
from tests.support.crowds import add_users, prepare, user_id
from tests.support.raw import open_raw, upgrade_request
from tests.support.server import Server

CROWD: Final = 1_500  # users that attackers add and watch
ATTACKERS: Final = 5
CONNECTIONS: Final = 50
MESSAGES: Final = 100  # long ones, in each attacker's group
CONVERSATIONS: Final = "/api/chat/conversations"


@dataclass(frozen=True)
class Town:
    """The people of a running server."""

    server: Server
    canary: Canary
    attackers: Attackers
    places: Sequence[Place]

    def place(self, number: int) -> Place:
        """Returns what the attacker with this connection may use."""
        return self.places[number % len(self.places)]

    def requests(self, data: Sequence[bytes], **options: float) -> Attack:
        """Returns an attack by requests."""
        return Attack(self.server.port, list(data), **options)  # type: ignore[arg-type]

    def sessions(self, data: Sequence[bytes], **options: float) -> Attack:
        """Returns an attack by frames, on a session for each connection."""
        handshakes = [upgrade_request(f"/api/chat/ws?token={self.place(number).token}") for number in range(len(data))]
        return Attack(self.server.port, list(data), handshakes, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def open_town(
    server: Server, database: str, *, crowd: int = CROWD, messages: int = MESSAGES
) -> AsyncIterator[Town]:
    """Registers everybody; opens the canary's conversation, and starts the attackers' process."""
    await trio.to_thread.run_sync(_fill, database, crowd)
    user_ids = [str(user_id(number)) for number in range(1, crowd + 1)]
    one, other = [await Person.register(server.base_url, name) for name in ("canary1", "canary2")]
    places = [await _place(server, f"attacker{number}", user_ids, messages) for number in range(ATTACKERS)]
    async with open_canary(one, other) as canary, open_attackers() as attackers:
        yield Town(server, canary, attackers, places)


def _fill(database: str, crowd: int) -> None:
    with psycopg.connect(database) as connection:
        prepare(connection)
        add_users(connection, 1, crowd)


async def _place(server: Server, name: str, user_ids: list[str], messages: int) -> Place:
    person = await Person.register(server.base_url, name)
    body = {"name": "n" * 100, "description": "d" * 1_000, "is_group": True, "participant_ids": user_ids[:1_000]}
    made = await person.api.post(CONVERSATIONS, json=body)
    assert made.status_code == 201, made.text
    path = f"{CONVERSATIONS}/{made.json()['id']}/messages"
    body_bytes = json.dumps({"content": CONTENT}, ensure_ascii=False).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: chat.example\r\nAuthorization: Bearer {person.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body_bytes)}\r\n\r\n"
    )
    last = {}
    async with open_raw(server.port) as client:  # one connection: faster than one for each
        for _ in range(messages):
            posted = await client.request(head.encode() + body_bytes)
            assert posted.status == 201, posted
            last = posted.json()
    return Place(person.token, made.json()["id"], last["id"], last["seq"], user_ids[0], user_ids)
