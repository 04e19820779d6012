"""One answer of the database comes late, behind what was asked for after it: fault C4 on real processes."""

from collections.abc import Callable

import psycopg
import pytest
import trio
import trio.testing

from tests.support.client import Person
from tests.support.proxy import open_proxy
from tests.support.server import Server


def members_of(database: str, group: str) -> set[str]:
    """Returns the ids of the members that are stored."""
    query = "SELECT user_id FROM conversation_users WHERE conversation_id = %s"
    with psycopg.connect(database) as connection:
        return {str(row[0]) for row in connection.execute(query, (group,))}


@pytest.mark.parametrize("features", [None, "members,conversation,me"], ids=["no features", "all features"])
async def test_a_late_answer_to_an_addition_lets_nobody_read_on(
    database: str, start_server: Callable[..., Server], features: str | None
) -> None:
    with trio.fail_after(60):
        async with open_proxy(database) as proxy:
            server = await trio.to_thread.run_sync(lambda: start_server(DATABASE_URL=proxy.conninfo))
            alice, bob, dave = [await Person.register(server.base_url, name) for name in ("alice", "bob", "dave")]
            group = await alice.create_group(bob)
            path = f"/api/chat/conversations/{group}"
            query = {} if features is None else {"features": features}
            async with dave.session(**query) as session, bob.connect(group) as chat:
                async with trio.open_nursery() as nursery:
                    proxy.hold = b"INSERT INTO conversation_users"
                    answers: dict[str, int] = {}

                    async def add() -> None:
                        answer = await alice.api.post(f"{path}/members", json={"user_ids": [dave.id]})
                        answers["add"] = answer.status_code

                    async def remove() -> None:
                        answer = await alice.api.delete(f"{path}/members/{dave.id}")
                        answers["remove"] = answer.status_code

                    nursery.start_soon(add)
                    await proxy.held.wait()
                    assert dave.id in members_of(database, group), "committed, and not answered"
                    nursery.start_soon(remove)
                    await trio.testing.wait_all_tasks_blocked(0.2)
                    proxy.let_go()
                assert answers == {"add": 200, "remove": 204}
                assert members_of(database, group) == {alice.id, bob.id}
                sent = await alice.api.post(f"{path}/messages", json={"content": "secret"})
                assert sent.status_code == 201
                assert (await chat.receive_type("message"))["content"] == "secret"
                await session.send({"type": "ping"})
                seen = []
                while (frame := await session.receive())["type"] != "pong":
                    seen.append(frame)
                assert "secret" not in str(seen)
                if features is None:
                    about = [frame["type"] for frame in seen if frame["type"].startswith("conversation_")]
                    assert about == ["conversation_added", "conversation_removed"]
                else:
                    assert [frame["is_member"] for frame in seen if frame["type"] == "membership"] == [True, False]
            assert await trio.to_thread.run_sync(server.stop) == 0
