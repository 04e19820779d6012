"""Conversations and their history over REST on the real process."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
import trio

from tests.support.client import Person
from tests.support.server import Server

CONVERSATIONS = "/api/chat/conversations"
FIELDS = {
    "id", "name", "description", "is_group", "owner_id", "created_at", "updated_at", "users", "member_count",
    "has_more_users", "last_message", "total_messages", "last_seq", "last_rev", "read_seq", "unread_count", "epoch",
}  # fmt: skip
MESSAGE_FIELDS = {
    "id", "conversation_id", "sender_id", "sender_username", "content", "is_edited", "is_deleted", "created_at",
    "updated_at", "seq", "rev",
}  # fmt: skip


async def people(server: Server, *names: str) -> list[Person]:
    return [await Person.register(server.base_url, name) for name in names]


def refused(answer: Any, status: int, code: str, field: str | None = None) -> str:
    """Checks an error; returns its message."""
    assert answer.status_code == status, answer.text
    assert answer.json()["code"] == code
    assert answer.json().get("field") == field
    message: str = answer.json()["message"]
    return message


async def say(person: Person, conversation: str, *texts: str) -> None:
    """Sends messages, and waits until each is stored."""
    async with person.connect(conversation) as chat:
        for text in texts:
            await chat.send({"type": "message", "content": text})
            assert (await chat.receive_type("message"))["content"] == text


async def test_the_creator_of_a_group_is_a_member(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, carol = await people(server, "alice", "bob", "carol")
        body = {
            "name": "Team",
            "description": "All of us",
            "is_group": True,
            "participant_ids": [alice.id, bob.id.upper(), carol.id],
        }
        answer = await alice.api.post(CONVERSATIONS, json=body)
        assert answer.status_code == 201
        made = answer.json()
        assert set(made) == FIELDS
        assert (made["name"], made["description"], made["is_group"]) == ("Team", "All of us", True)
        assert made["owner_id"] == alice.id
        assert {user["id"] for user in made["users"]} == {alice.id, bob.id, carol.id}
        assert all(set(user) == {"id", "username"} for user in made["users"])
        assert (made["last_message"], made["total_messages"], made["last_seq"], made["last_rev"]) == (None, 0, 0, 0)
        for member in (alice, bob, carol):
            assert (await member.api.get(f"{CONVERSATIONS}/{made['id']}")).json() == made

        alone = await bob.api.post(CONVERSATIONS, json={"is_group": True})
        assert alone.status_code == 201
        assert alone.json()["users"] == [{"id": bob.id, "username": "bob"}]
        assert (alone.json()["name"], alone.json()["description"]) == (None, None)


async def test_two_users_have_one_one_to_one_conversation(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, carol = await people(server, "alice", "bob", "carol")
        made = await alice.api.post(CONVERSATIONS, json={"participant_ids": [bob.id]})
        assert (made.status_code, made.json()["is_group"]) == (201, False)
        for who, ids in ((alice, [bob.id]), (bob, [alice.id]), (alice, [alice.id, bob.id]), (bob, [alice.id.upper()])):
            again = await who.api.post(CONVERSATIONS, json={"participant_ids": ids, "name": "Another"})
            assert (again.status_code, again.json()) == (200, made.json())
        other = await alice.api.post(CONVERSATIONS, json={"participant_ids": [carol.id]})
        assert other.status_code == 201
        # Neither without another user, nor with oneself or several.
        for ids in ([], [alice.id], [bob.id, carol.id]):
            answer = await alice.api.post(CONVERSATIONS, json={"participant_ids": ids})
            refused(answer, 422, "invalid_field", "participant_ids")

        # Its members and its name cannot change.
        path = f"{CONVERSATIONS}/{made.json()['id']}"
        refused(await alice.api.patch(path, json={"name": "x"}), 409, "not_a_group")
        refused(await alice.api.post(f"{path}/members", json={"user_ids": [carol.id]}), 409, "not_a_group")
        refused(await alice.api.delete(f"{path}/members/me"), 409, "not_a_group")
        refused(await alice.api.delete(f"{path}/members/{bob.id}"), 409, "not_a_group")
        assert (await bob.api.get(path)).json() == made.json()


async def test_parallel_requests_for_a_one_to_one_get_the_same(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob = await people(server, "alice", "bob")
        answers: list[tuple[int, str]] = []

        async def ask(who: Person, other: Person) -> None:
            answer = await who.api.post(CONVERSATIONS, json={"participant_ids": [other.id]})
            answers.append((answer.status_code, answer.json()["id"]))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask, alice, bob)
                nursery.start_soon(ask, bob, alice)
        assert sorted(status for status, _ in answers) == [200] * 7 + [201]
        assert len({found for _, found in answers}) == 1


async def test_repeated_unknown_and_malformed_ids_are_named(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob = await people(server, "alice", "bob")
        group = await alice.create_group()
        unknown = [str(uuid4()), str(uuid4())]
        for path, field, more in (
            (CONVERSATIONS, "participant_ids", {"is_group": True}),
            (f"{CONVERSATIONS}/{group}/members", "user_ids", {}),
        ):

            async def ask(*ids: object, path: str = path, field: str = field, more: dict[str, bool] = more) -> Any:
                return await alice.api.post(path, json={**more, field: list(ids)})

            assert bob.id in refused(await ask(bob.id, bob.id), 422, "invalid_field", field)
            assert bob.id in refused(await ask(bob.id, bob.id.upper()), 422, "invalid_field", field)
            message = refused(await ask(bob.id, *unknown), 422, "unknown_user", field)
            assert all(one in message for one in unknown)
            assert bob.id not in message
            for malformed in ("nobody", "{" + bob.id + "}", bob.id.replace("-", ""), f"{bob.id} ", "", "' OR 1=1 --"):
                message = refused(await ask(bob.id, malformed), 422, "unknown_user", field)
                assert malformed in message
            # A long list of long ids gets a short answer.
            answer = await ask(*(f"{n:04}" + "x" * 100 for n in range(400)))
            assert len(refused(answer, 422, "unknown_user", field)) < 1_000
            for wrong in ([7], [None], [[bob.id]], [{"id": bob.id}]):
                answer = await ask(*wrong)
                assert (answer.status_code, answer.json()["code"]) == (422, "invalid_field")
                assert answer.json()["field"].startswith(field)
        # None of these requests changed anything.
        assert (await bob.api.get(CONVERSATIONS)).json()["total"] == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"is_group": "yes"}, "is_group"),
        ({"is_group": 1}, "is_group"),
        ({"is_group": True, "name": 7}, "name"),
        ({"is_group": True, "name": "x" * 101}, "name"),
        ({"is_group": True, "description": "x" * 1_001}, "description"),
        ({"is_group": True, "participant_ids": "abc"}, "participant_ids"),
        ({"is_group": True, "participant_ids": None}, "participant_ids"),
        ({"is_group": True, "participant_ids": ["x"] * 1_001}, "participant_ids"),
    ],
)
async def test_an_invalid_field_of_a_new_conversation_is_named(server: Server, body: Any, field: str) -> None:
    with trio.fail_after(60):
        (alice,) = await people(server, "alice")
        refused(await alice.api.post(CONVERSATIONS, json=body), 422, "invalid_field", field)


async def test_a_group_has_no_more_members_than_the_settings_allow(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_MAX_GROUP_MEMBERS="3")
    with trio.fail_after(60):
        alice, bob, carol, dave = await people(server, "alice", "bob", "carol", "dave")
        ids = [bob.id, carol.id, dave.id]
        answer = await alice.api.post(CONVERSATIONS, json={"is_group": True, "participant_ids": ids})
        refused(answer, 422, "too_many_members", "participant_ids")
        group = await alice.create_group(bob)
        path = f"{CONVERSATIONS}/{group}/members"
        refused(await alice.api.post(path, json={"user_ids": [carol.id, dave.id]}), 422, "too_many_members", "user_ids")
        assert (await alice.api.post(path, json={"user_ids": [carol.id]})).status_code == 200
        # Members who are named again do not count twice.
        assert (await alice.api.post(path, json={"user_ids": [bob.id, carol.id]})).status_code == 200


async def test_conversations_are_listed_by_latest_activity_in_pages(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, carol = await people(server, "alice", "bob", "carol")
        groups = [await alice.create_group(bob, name=f"Group {n}") for n in range(4)]
        await carol.create_group(bob)

        async def listed(**query: int) -> dict[str, Any]:
            answer = await alice.api.get(CONVERSATIONS, params=query)
            assert answer.status_code == 200
            found: dict[str, Any] = answer.json()
            assert set(found) == {"conversations", "total", "limit", "offset", "next_cursor"}
            return found

        first = await listed()
        assert [one["id"] for one in first["conversations"]] == groups[::-1]
        assert (first["total"], first["limit"], first["offset"]) == (4, 50, 0)
        assert all(set(one) == FIELDS for one in first["conversations"])

        await say(bob, groups[1], "one", "two")
        after = await listed()
        assert [one["id"] for one in after["conversations"]] == [groups[1], groups[3], groups[2], groups[0]]
        top = after["conversations"][0]
        assert (top["total_messages"], top["last_seq"]) == (2, 2)
        assert set(top["last_message"]) == MESSAGE_FIELDS
        assert (top["last_message"]["content"], top["last_message"]["sender_username"]) == ("two", "bob")
        assert {user["username"] for user in top["users"]} == {"alice", "bob"}

        page = await listed(limit=2, offset=1)
        assert [one["id"] for one in page["conversations"]] == [groups[3], groups[2]]
        assert (page["total"], page["limit"], page["offset"]) == (4, 2, 1)
        past = await listed(offset=100)
        assert (past["conversations"], past["total"]) == ([], 4)


async def test_any_member_may_change_each_field_of_a_group(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob = await people(server, "alice", "bob")
        path = f"{CONVERSATIONS}/{await alice.create_group(bob, name='Old')}"
        before = (await alice.api.get(path)).json()
        renamed = await bob.api.patch(path, json={"name": "New"})
        assert (renamed.status_code, renamed.json()["name"], renamed.json()["description"]) == (200, "New", None)
        described = await alice.api.patch(path, json={"description": "Why"})
        assert (described.json()["name"], described.json()["description"]) == ("New", "Why")
        nameless = await alice.api.patch(path, json={"name": None})
        assert (nameless.json()["name"], nameless.json()["description"]) == (None, "Why")
        same = await alice.api.patch(path, json={})
        assert (same.status_code, same.json()) == (200, nameless.json())
        assert (await bob.api.get(path)).json() == same.json()
        assert same.json()["created_at"] == before["created_at"]
        refused(await bob.api.patch(path, json={"name": "x" * 101}), 422, "invalid_field", "name")


async def test_any_member_adds_members_and_only_the_owner_removes_them(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, carol, dave = await people(server, "alice", "bob", "carol", "dave")
        group = await alice.create_group(bob)
        path = f"{CONVERSATIONS}/{group}"
        refused(await bob.api.post(f"{path}/members", json={"user_ids": []}), 422, "invalid_field", "user_ids")
        added = await bob.api.post(f"{path}/members", json={"user_ids": [carol.id, dave.id, alice.id]})
        assert added.status_code == 200
        assert [user["username"] for user in added.json()["users"]] == ["alice", "bob", "carol", "dave"]
        assert (await carol.api.get(path)).json() == added.json()

        refused(await bob.api.delete(f"{path}/members/{carol.id}"), 403, "owner_only")
        refused(await bob.api.delete(f"{path}/members/{alice.id}"), 403, "owner_only")
        removed = await alice.api.delete(f"{path}/members/{carol.id.upper()}")
        assert (removed.status_code, removed.content) == (204, b"")
        refused(await carol.api.get(path), 404, "not_found")
        for nobody in (carol.id, str(uuid4()), "nobody", "ME", "%00"):
            refused(await alice.api.delete(f"{path}/members/{nobody}"), 404, "not_found")

        # Users leave by `me` and by their own id.
        assert (await dave.api.delete(f"{path}/members/me")).status_code == 204
        refused(await dave.api.delete(f"{path}/members/me"), 404, "not_found")
        assert (await alice.api.delete(f"{path}/members/{alice.id}")).status_code == 204
        left = (await bob.api.get(path)).json()
        assert (left["owner_id"], left["users"]) == (bob.id, [{"id": bob.id, "username": "bob"}])
        back = await bob.api.post(f"{path}/members", json={"user_ids": [alice.id]})
        assert back.json()["owner_id"] == bob.id
        assert (await bob.api.delete(f"{path}/members/{alice.id}")).status_code == 204


async def test_removing_a_member_closes_their_connections_first(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob = await people(server, "alice", "bob")
        group = await alice.create_group(bob)
        async with alice.connect(group) as mine, bob.connect(group) as first, bob.connect(group) as second:
            for chat in (first, second):
                await chat.receive_type("system")
            assert (await alice.api.delete(f"{CONVERSATIONS}/{group}/members/{bob.id}")).status_code == 204
            assert {await first.wait_closed(), await second.wait_closed()} == {4403}
            while (await mine.receive_type("system"))["event"] != "removed":
                pass


async def test_history_is_read_newest_first_by_offset_and_by_seq(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob = await people(server, "alice", "bob")
        group = await alice.create_group(bob)
        empty = await bob.history(group)
        assert empty == {"messages": [], "total": 0, "limit": 50, "offset": 0, "has_more": False}
        await say(alice, group, *(f"message {n}" for n in range(1, 8)))

        async def seqs(**query: int) -> list[int]:
            found = await bob.history(group, **query)
            assert found["total"] == 7
            assert all(message["content"] == f"message {message['seq']}" for message in found["messages"])
            return [message["seq"] for message in found["messages"]]

        everything = await bob.history(group)
        assert all(set(message) == MESSAGE_FIELDS for message in everything["messages"])
        newest = everything["messages"][0]
        assert (newest["conversation_id"], newest["sender_id"]) == (group, alice.id)
        assert (newest["sender_username"], newest["is_edited"], newest["is_deleted"]) == ("alice", False, False)
        assert await seqs() == [7, 6, 5, 4, 3, 2, 1]
        assert await seqs(limit=2) == [7, 6]
        assert await seqs(limit=2, offset=2) == [5, 4]
        assert await seqs(offset=6) == [1]
        assert await seqs(offset=7) == await seqs(offset=2**31 - 1) == []
        assert await seqs(before_seq=4) == [3, 2, 1]
        assert await seqs(before_seq=4, limit=2) == [3, 2]
        assert await seqs(before_seq=1) == []
        assert await seqs(before_seq=2**53 - 1, limit=1) == [7]
        assert await seqs(after_seq=5) == [7, 6]
        assert await seqs(after_seq=0, limit=2) == [2, 1]
        assert await seqs(after_seq=7) == await seqs(after_seq=2**53 - 1) == []
        assert await seqs(after_seq=2, before_seq=5) == [4, 3]
        for query in ({"before_seq": 3}, {"after_seq": 3}):
            answer = await bob.api.get(f"{CONVERSATIONS}/{group}/messages", params={**query, "offset": 1})
            refused(answer, 422, "invalid_field", "offset")


BAD = {
    "limit": ["-1", "0", "201", "1000000000", str(10**18), str(2**63), str(2**64), "abc", "", "1.5",  "0x10",
              "null", "true", "NaN", "٣x", "9" * 5_000],
    "offset": ["-1", str(2**31), str(10**18), str(2**63), "abc", "", "1.5", "null", "-0x1"],
    "before_seq": ["-1", "0", str(2**53), str(2**63), "abc", "", "null"],
    "after_seq": ["-1", str(2**53), str(2**63), "abc", "", "null"],
}  # fmt: skip


async def test_an_invalid_query_value_is_named(server: Server) -> None:
    with trio.fail_after(120):
        (alice,) = await people(server, "alice")
        history = f"{CONVERSATIONS}/{await alice.create_group()}/messages"
        paged = [CONVERSATIONS, history, "/api/users"]
        for name, values in BAD.items():
            for path in paged if name in {"limit", "offset"} else [history]:
                for value in values:
                    answer = await alice.api.get(path, params={name: value})
                    assert refused(answer, 422, "invalid_field", name), (path, name, value[:30])
                repeated = await alice.api.get(f"{path}?{name}=1&{name}=1")
                refused(repeated, 422, "invalid_field", name)
        # Unknown parameters are ignored.
        assert (await alice.api.get(history, params={"utm_source": "x"})).status_code == 200


async def test_messages_are_edited_and_deleted_over_rest(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, carol = await people(server, "alice", "bob", "carol")
        group = await alice.create_group(bob)
        await say(bob, group, "first", "second")
        second, first = (await bob.history(group))["messages"]
        path = f"{CONVERSATIONS}/{group}/messages"
        edited = await bob.api.patch(f"{path}/{first['id'].upper()}", json={"content": "changed"})
        assert edited.status_code == 200
        assert set(edited.json()) == MESSAGE_FIELDS
        assert (edited.json()["content"], edited.json()["is_edited"], edited.json()["seq"]) == ("changed", True, 1)
        refused(await alice.api.patch(f"{path}/{first['id']}", json={"content": "x"}), 403, "not_your_message")
        for nothing in ("", " \n\t"):
            refused(
                await bob.api.patch(f"{path}/{first['id']}", json={"content": nothing}), 422, "empty_content", "content"
            )
        answer = await bob.api.patch(f"{path}/{first['id']}", json={"content": "x" * 4_001})
        refused(answer, 422, "content_too_long", "content")
        # A message is not found in another conversation.
        elsewhere = f"{CONVERSATIONS}/{await bob.create_group(carol)}/messages"
        refused(await bob.api.patch(f"{elsewhere}/{first['id']}", json={"content": "x"}), 404, "no_such_message")
        refused(await bob.api.delete(f"{elsewhere}/{first['id']}"), 404, "no_such_message")
        # The owner may delete.
        assert (await alice.api.delete(f"{path}/{second['id']}")).status_code == 204
        tombstone, now = (await bob.history(group))["messages"]
        assert (tombstone["content"], tombstone["is_deleted"], tombstone["seq"]) == ("", True, 2)
        assert now == edited.json()


async def test_messages_are_posted_over_rest(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob = await people(server, "alice", "bob")
        group = await alice.create_group(bob)
        path = f"{CONVERSATIONS}/{group}/messages"
        async with bob.connect(group) as chat, alice.session() as session:
            posted = await alice.api.post(path, json={"content": "by a program", "client_id": "p-1"})
            assert posted.status_code == 201
            message = posted.json()
            assert set(message) == MESSAGE_FIELDS | {"client_id"}
            assert message["client_id"] == "p-1"
            assert (message["content"], message["seq"], message["sender_id"]) == ("by a program", 1, alice.id)
            for live in (chat, session):
                frame = await live.receive_type("message")
                assert (frame["message_id"], frame["seq"]) == (message["id"], 1)
            again = await alice.api.post(path, json={"content": "by a program", "client_id": "p-1"})
            assert (again.status_code, again.json()) == (200, message)
            other = await alice.api.post(path, json={"content": "something else", "client_id": "p-1"})
            refused(other, 409, "client_id_reused", "client_id")
            # A client_id belongs to its sender; each request without one stores a new message.
            for number, body in enumerate(({"client_id": "p-1"}, {}, {"client_id": None})):
                posted = await bob.api.post(path, json={"content": "by a program", **body})
                assert (posted.status_code, posted.json()["seq"]) == (201, number + 2)
        messages = (await alice.history(group))["messages"]
        assert [(m["seq"], m.get("client_id")) for m in messages] == [(4, None), (3, None), (2, "p-1"), (1, "p-1")]


async def test_a_rejected_post_names_the_error_and_the_field(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, carol = await people(server, "alice", "bob", "carol")
        group = await alice.create_group(bob)
        path = f"{CONVERSATIONS}/{group}/messages"
        for bad, code, field in (
            ({}, "invalid_field", "content"),
            ({"content": None}, "invalid_field", "content"),
            ({"content": ""}, "empty_content", "content"),
            ({"content": " \n\t"}, "empty_content", "content"),
            ({"content": "x" * 4_001}, "content_too_long", "content"),
            ({"content": "a\0b"}, "invalid_field", "content"),
            ({"content": "x", "client_id": ""}, "invalid_field", "client_id"),
            ({"content": "x", "client_id": "x" * 65}, "invalid_field", "client_id"),
            ({"content": "x", "client_id": 7}, "invalid_field", "client_id"),
            ({"content": "x", "client_id": "a\0b"}, "invalid_field", "client_id"),
        ):
            refused(await alice.api.post(path, json=bad), 422, code, field)
        refused(await carol.api.post(path, json={"content": "x"}), 404, "not_found")
        assert (await alice.history(group))["total"] == 0
