"""Groups of many members: what lists and conversations carry of them, and their pages, on the real process."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import trio

from pulse_trio.client import open_client
from tests.support.client import Person
from tests.support.crowds import add_groups, add_users, conversation_id, join_groups, prepare, user_id
from tests.support.server import Server

CONVERSATIONS = "/api/chat/conversations"
GROUPS, CROWD = 100, 1_000


def fill(database: str, person: Person, groups: int, crowd: int) -> None:
    """Groups of so many members, of whom `person` is the newest."""
    with psycopg.connect(database) as connection:
        prepare(connection)
        add_users(connection, 1, crowd - 1)
        add_groups(connection, 1, groups, range(1, crowd))
        join_groups(connection, 1, groups, person.id)


async def get(person: Person, path: str, **query: object) -> dict[str, Any]:
    answer = await person.api.get(f"{CONVERSATIONS}{path}", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_list_of_large_groups_is_small(database: str, start_server: Callable[..., Server]) -> None:
    server = start_server()
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        await trio.to_thread.run_sync(fill, database, alice, GROUPS, CROWD)
        answer = await alice.api.get(CONVERSATIONS, params={"limit": 200})
        listed = answer.json()["conversations"]
        assert len(listed) == GROUPS
        assert {group["member_count"] for group in listed} == {CROWD}
        first = [{"id": str(user_id(n)), "username": f"user{n}"} for n in range(1, 101)]
        assert all(group["users"] == first[:10] for group in listed)
        assert len(answer.content) < 400_000
        # A conversation alone shows more, whichever operation answers with it.
        path = f"{CONVERSATIONS}/{conversation_id(1)}"
        answers = [
            await alice.api.get(path),
            await alice.api.patch(path, json={"name": "New"}),
            await alice.api.post(f"{path}/members", json={"user_ids": [str(user_id(1))]}),
        ]
        for single in answers:
            assert (single.json()["users"], single.json()["member_count"]) == (first, CROWD)


async def test_all_members_are_found_by_page(database: str, start_server: Callable[..., Server]) -> None:
    server = start_server()
    size = 1_234
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        await trio.to_thread.run_sync(fill, database, alice, 1, size)
        expected = [*(str(user_id(n)) for n in range(1, size)), alice.id]
        group = conversation_id(1)
        for path, key, name, limit, default in (
            ("members", "members", "id", 200, 100),
            ("read", "positions", "user_id", 1_000, 1_000),
        ):
            found: list[str] = []
            query: dict[str, object] = {"limit": limit}
            sizes = []
            while True:
                page = await get(alice, f"/{group}/{path}", **query)
                found += [entry[name] for entry in page[key]]
                sizes.append(len(page[key]))
                if page["next_cursor"] is None:
                    break
                query["cursor"] = page["next_cursor"]
            assert found == expected
            assert max(sizes) == limit
            assert len((await get(alice, f"/{group}/{path}"))[key]) == default
        page = await get(alice, f"/{group}/members", limit=1)
        assert page.keys() == {"members", "total", "limit", "next_cursor"}
        assert page["members"] == [{"id": expected[0], "username": "user1"}]
        assert (page["total"], page["limit"]) == (size, 1)


@pytest.mark.parametrize(("path", "key"), [("members", "members"), ("read", "positions")])
async def test_only_cursors_of_the_same_list_are_taken(server: Server, path: str, key: str) -> None:
    with trio.fail_after(60):
        alice, bob, eve = [await Person.register(server.base_url, name) for name in ("alice", "bob", "eve")]
        team, other = await alice.create_group(bob), await alice.create_group(bob)
        cursor = (await get(alice, f"/{team}/{path}", limit=1))["next_cursor"]
        (second,) = (await get(bob, f"/{team}/{path}", cursor=cursor))[key]
        assert bob.id in second.values()
        changed = [cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :] for at in range(len(cursor))]
        bad = [*changed, "", "A", cursor + "A", cursor + "=", cursor + "==", f" {cursor}", cursor[:-1], "-1", "ü" * 22]
        for tampered in [*bad, "A" * 65]:
            answer = await alice.api.get(f"{CONVERSATIONS}/{team}/{path}", params={"cursor": tampered})
            assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (
                422,
                "invalid_field",
                "cursor",
            ), tampered
        answer = await alice.api.get(f"{CONVERSATIONS}/{other}/{path}", params={"cursor": cursor})
        assert (answer.status_code, answer.json()["field"]) == (422, "cursor"), "it is another list's"
        for limit in ("0", "-1", "1001", "x"):
            answer = await alice.api.get(f"{CONVERSATIONS}/{team}/{path}", params={"limit": limit})
            assert (answer.status_code, answer.json()["field"]) == (422, "limit")
        for person, where in ((eve, team), (alice, str(uuid4())), (alice, "no-id")):
            answer = await person.api.get(f"{CONVERSATIONS}/{where}/{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_the_python_client_reads_all_pages(database: str, start_server: Callable[..., Server]) -> None:
    server = start_server()
    size = 1_234
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        await trio.to_thread.run_sync(fill, database, alice, 1, size)
        expected = [*(user_id(n) for n in range(1, size)), UUID(alice.id)]
        async with open_client(server.base_url, token=alice.token) as client:
            (listed,) = await client.conversations()
            alone = await client.conversation(listed)
            assert [(len(each.users), each.member_count) for each in (listed, alone)] == [(10, size), (100, size)]
            members = [user async for user in client.members(listed)]
            assert [user.id for user in members] == expected
            assert (members[0].username, members[-1].username) == ("user1", "alice")
            async with client.join(listed) as room:
                message = await room.send("from the last member")
                assert (message.sender_username, room.name_of(message.sender_id)) == ("alice", "alice")
            await client.mark_read(listed, message.seq)
            positions = await client.read_positions(listed)
            assert positions == dict.fromkeys(expected, 0) | {UUID(alice.id): 1}
