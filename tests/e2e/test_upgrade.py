"""A data folder of version 0.1.0 under today's `serve`, doctor, backup and restore."""

import shutil
import uuid
from pathlib import Path
from typing import Final

import psycopg
import trio

from pulse_trio.auth.passwords import Passwords
from pulse_trio.database.schema import migrate
from pulse_trio.database.service_role import DATABASE, SERVICE_ROLE, SUPERUSER
from tests.e2e.test_cli import answer
from tests.e2e.test_doctor import findings
from tests.integration.database.test_schema import take_back
from tests.support.client import PASSWORD, Api, Person
from tests.support.cluster import Cluster
from tests.support.server import Server

SCHEMA: Final = "0002"  # of 0.1.0
MESSAGES: Final = 250
ALICE, BOB, GROUP = (str(uuid.UUID(int=number)) for number in (1, 2, 3))


def fill(cluster: Cluster) -> None:
    """Makes the cluster's database what 0.1.0 left: its schema and rows, all of the superuser's."""
    migrate(cluster.conninfo)
    take_back(cluster.conninfo, SCHEMA)
    hashed = trio.run(Passwords(1).hash, PASSWORD)
    with psycopg.connect(cluster.conninfo, autocommit=True) as connection:
        for name, key in (("alice", ALICE), ("bob", BOB)):
            connection.execute(
                "INSERT INTO users (id, username, username_key, password_hash, created_at, updated_at) "
                "VALUES (%s, %s, %s, %s, now(), now())",
                (key, name, name, hashed),
            )
        connection.execute(
            "INSERT INTO conversations (id, name, is_group, owner_id, created_at, updated_at, last_seq, last_rev) "
            "VALUES (%s, 'Team', true, %s, now(), now(), %s, %s)",
            (GROUP, ALICE, MESSAGES, MESSAGES + 1),
        )
        for member in (ALICE, BOB):
            connection.execute(
                "INSERT INTO conversation_users (conversation_id, user_id, joined_at, read_seq) "
                "VALUES (%s, %s, now(), 200)",
                (GROUP, member),
            )
        connection.execute(
            "INSERT INTO messages (id, conversation_id, sender_id, content, is_edited, created_at, updated_at, seq, "
            "rev, client_id) SELECT gen_random_uuid(), %s, %s, 'message ' || n, n = 7, now(), now(), n,"
            " CASE n WHEN 7 THEN %s + 1 ELSE n END, 'c' || n FROM generate_series(1, %s) n",
            (GROUP, ALICE, MESSAGES, MESSAGES),
        )
        connection.execute("INSERT INTO history (epoch, server) VALUES ('of 0.1.0', 'unknown')")
        connection.execute(f"ALTER DATABASE {DATABASE} OWNER TO {SUPERUSER}")
        connection.execute(f"DROP ROLE {SERVICE_ROLE}")


async def sign_in(server: Server, name: str, key: str) -> Person:
    login = await Api(server.base_url).post("/api/auth/login", json={"username": name, "password": PASSWORD})
    assert login.status_code == 200, login.text
    return Person(server.base_url, name, key, login.json()["access_token"])


async def contents(person: Person) -> list[str]:
    """The texts of the whole history, the oldest first."""
    found: list[str] = []
    while page := (await person.history(GROUP, limit=100, after_seq=len(found)))["messages"]:
        found += [message["content"] for message in sorted(page, key=lambda message: message["seq"])]
    return found


def test_the_data_of_0_1_0_is_served_backed_up_and_restored(own_cluster: Cluster) -> None:
    fill(own_cluster)
    own_cluster.stop()
    settings = {"PULSE_DATA_DIR": str(own_cluster.folder / "data")}
    expected = [f"message {number}" for number in range(1, MESSAGES + 1)]

    async def use(server: Server, *more: str) -> None:
        with trio.fail_after(60):
            alice, bob = await sign_in(server, "alice", ALICE), await sign_in(server, "bob", BOB)
            assert await contents(bob) == [*expected, *more]
            async with bob.connect(GROUP) as chat:
                await chat.receive()
                # A resend from before the upgrade is still the same message.
                async with alice.connect(GROUP) as sender:
                    await sender.send({"type": "message", "content": "message 3", "client_id": "c3"})
                    assert (await sender.receive_type("message"))["seq"] == 3
                    await sender.send({"type": "message", "content": "after"})
                assert (await chat.receive_type("message"))["seq"] == MESSAGES + len(more) + 1

    server = Server(settings).wait_ready()
    try:
        trio.run(use, server)
    finally:
        assert server.stop() == 0
    assert "Traceback" not in server.output
    found = findings(**settings)
    assert "failed" not in {check["status"] for check in found.values()}, found
    assert "no superuser" in found["role"]["text"]

    dump = own_cluster.folder / "pulse.dump"
    answer("backup", str(dump), **settings)
    restored = {"PULSE_DATA_DIR": str(own_cluster.folder / "restored")}
    assert answer("restore", str(dump), **restored) == "Restored."
    shutil.copy(Path(settings["PULSE_DATA_DIR"]) / "secret_key", restored["PULSE_DATA_DIR"])
    server = Server(restored).wait_ready()
    try:
        trio.run(use, server, "after")
    finally:
        assert server.stop() == 0
