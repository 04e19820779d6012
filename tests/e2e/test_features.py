"""Features on the real process: one order of messages, members and properties, and each user's own sequence."""

import uuid
from typing import Any

from tests.support.client import Chat, Person
from tests.support.server import Server

ALL = "members,conversation,me"


async def post(person: Person, conversation_id: str, content: str) -> dict[str, Any]:
    """Posts a message over REST; returns it."""
    answer = await person.api.post(f"/api/chat/conversations/{conversation_id}/messages", json={"content": content})
    assert answer.status_code == 201
    message: dict[str, Any] = answer.json()
    return message


async def add(person: Person, conversation_id: str, *others: Person) -> None:
    path = f"/api/chat/conversations/{conversation_id}/members"
    answer = await person.api.post(path, json={"user_ids": [other.id for other in others]})
    assert answer.status_code == 200


async def remove(person: Person, conversation_id: str, other: Person) -> None:
    answer = await person.api.delete(f"/api/chat/conversations/{conversation_id}/members/{other.id}")
    assert answer.status_code == 204


async def rename(person: Person, conversation_id: str, name: str) -> None:
    answer = await person.api.patch(f"/api/chat/conversations/{conversation_id}", json={"name": name})
    assert answer.status_code == 200


async def changes_until(chat: Chat, rev: int) -> list[dict[str, Any]]:
    """Receives changes up to one with this rev."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["rev"] < rev:
        found.append(await chat.receive_type("message", "message_updated", "member", "conversation"))
    return found


async def act(alice: Person, team: str, bob: Person, carol: Person) -> int:
    """Changes a conversation in each way; returns the rev of the last change."""
    message = await post(alice, team, "one")
    await add(alice, team, carol)
    await rename(alice, team, "Crew")
    path = f"/api/chat/conversations/{team}/messages/{message['id']}"
    assert (await alice.api.patch(path, json={"content": "uno"})).status_code == 200
    await remove(alice, team, carol)
    last = await post(bob, team, "two")
    return int(last["rev"])


async def people(server: Server, *names: str) -> list[Person]:
    return [await Person.register(server.base_url, f"{name}{uuid.uuid4().hex[:6]}") for name in names]


async def test_all_kinds_have_one_order_live_and_resumed(server: Server) -> None:
    alice, bob, carol = await people(server, "alice", "bob", "carol")
    team = await alice.create_group(bob)
    async with bob.connect(team, features="members,conversation") as own, bob.session(features=ALL) as session:
        joined = await own.receive_type("system")
        assert (joined["features"], joined["last_rev"]) == (["conversation", "members"], 0)
        last = await act(alice, team, bob, carol)
        assert last == 6
        for chat in (own, session):
            seen = await changes_until(chat, last)
            assert [frame["rev"] for frame in seen] == [1, 2, 3, 4, 5, 6]
            assert [frame["prev_rev"] for frame in seen] == [0, 1, 2, 3, 4, 5]
            kinds = [frame["type"] for frame in seen]
            assert kinds == ["message", "member", "conversation", "message_updated", "member", "message"]
            added, left = seen[1]["members"][0], seen[4]["members"][0]
            assert (added["user_id"], added["is_member"], seen[1]["member_count"]) == (carol.id, True, 3)
            assert (left["user_id"], left["is_member"], seen[4]["member_count"]) == (carol.id, False, 2)
            assert (added["actor_id"], seen[2]["name"]) == (alice.id, "Crew")
    async with bob.connect(team, after=0, features="members,conversation") as own:
        seen = await changes_until(own, last)
        assert [(frame["type"], frame["rev"], frame["prev_rev"]) for frame in seen] == [
            ("conversation", 3, 0),
            ("message_updated", 4, 3),
            ("member", 5, 4),
            ("message", 6, 5),
        ]
    async with bob.session({team: 4}, features="members") as session:
        seen = await changes_until(session, last)
        assert [(frame["type"], frame["rev"], frame["prev_rev"]) for frame in seen] == [
            ("member", 5, 4),
            ("message", 6, 5),
        ]


async def test_a_client_that_asks_for_nothing_sees_the_protocol_of_before(server: Server) -> None:
    alice, bob, carol = await people(server, "alice", "bob", "carol")
    team = await alice.create_group(bob)
    async with bob.connect(team) as own, bob.connect(team, features="unknown") as asked:
        joined = await own.receive_type("system")
        assert "features" not in joined
        assert (await asked.receive_type("system"))["features"] == []
        await act(alice, team, bob, carol)
        seen = [await own.receive_type("message", "message_updated", "system") for _ in range(6)]
        assert [(frame.get("event"), frame.get("rev"), frame.get("last_rev")) for frame in seen] == [
            (None, 1, None),
            ("added", None, 1),
            ("renamed", None, 1),
            (None, 4, None),
            ("removed", None, 4),
            (None, 6, None),
        ]
        assert not [frame for frame in seen if "prev_rev" in frame]
        assert seen[1]["content"] == f"User {carol.username} was added by {alice.username}"
        assert seen[2]["content"] == f"User {alice.username} renamed the conversation"
        assert seen[4]["content"] == f"User {carol.username} was removed by {alice.username}"
        assert [frame["prev_rev"] for frame in await changes_until(asked, 6)] == [0, 1, 4]


async def test_a_session_that_was_away_ends_as_one_that_never_left(server: Server) -> None:
    """Memberships and read positions come by `me`, so no list is loaded again."""
    alice, bob = await people(server, "alice", "bob")
    keep, leave, back, unread = [await alice.create_group(bob, name=name) for name in ("k", "l", "b", "u")]
    async with bob.session(features=ALL) as stays:
        first = (await bob.api.get("/api/chat/conversations")).json()
        async with bob.session(features=ALL):
            pass
        await remove(alice, leave, bob)
        await remove(alice, back, bob)
        await add(alice, back, bob)
        new = await alice.create_group(bob, name="new")
        gone = await alice.create_group(bob, name="gone")
        await remove(alice, gone, bob)
        seq = (await post(alice, unread, "read this"))["seq"]
        assert (await bob.api.put(f"/api/chat/conversations/{unread}/read", json={"seq": seq})).status_code == 200

        async with bob._open("/api/chat/ws", {"features": ALL}) as returns:
            session = await returns.receive()
            assert session["features"] == ["conversation", "me", "members"]
            me_rev = session["me_rev"]
            began = me_rev - 7  # two removals, an addition, two creations, a removal, a read position
            await returns.send({"type": "resume", "revs": {}, "me": began})
            away = [await returns.receive_type("membership") for _ in range(5)]
        stayed = []
        while not stayed or stayed[-1]["me_rev"] < me_rev:
            stayed.append(await stays.receive_type("membership"))

    def state(frames: list[dict[str, Any]]) -> dict[str, tuple[bool, int]]:
        known = {each["id"]: (True, each["read_seq"]) for each in first["conversations"]}
        for frame in frames:
            known[frame["conversation_id"]] = (frame["is_member"], frame["read_seq"])
        return {key: value for key, value in known.items() if value[0]}

    assert [frame["me_rev"] for frame in stayed] == list(range(began + 1, me_rev + 1))
    assert [frame["prev_me_rev"] for frame in stayed] == list(range(began, me_rev))
    assert away[0]["prev_me_rev"] == began
    listed = (await bob.api.get("/api/chat/conversations")).json()["conversations"]
    truth = {each["id"]: (True, each["read_seq"]) for each in listed}
    assert state(stayed) == state(away) == truth
    assert set(truth) == {keep, back, unread, new}


async def test_features_in_resume_and_bad_values(server: Server) -> None:
    alice, bob = await people(server, "alice", "bob")
    team = await alice.create_group(bob)
    async with bob._open("/api/chat/ws", {}) as chat:
        assert "features" not in await chat.receive()
        resume = {"type": "resume", "revs": {team: 0}, "features": ["me", "members", "later"], "me": 10**6}
        await chat.send(resume)
        answer = await chat.receive()
        assert (answer["type"], answer["features"]) == ("features", ["me", "members"])
        refused = await chat.receive()
        assert (refused["code"], refused["field"]) == ("cannot_resume", "me")
        assert "conversation_id" not in refused
        await post(alice, team, "all else goes on")
        frame = await chat.receive_type("message")
        assert (frame["content"], frame["prev_rev"]) == ("all else goes on", 0)
    for field, value in (("features", "members"), ("features", [1]), ("me", -1), ("me", "1"), ("me", 1.5)):
        async with bob._open("/api/chat/ws", {}) as chat:
            await chat.receive()
            await chat.send({"type": "resume", "revs": {}, field: value})
            error = await chat.receive()
            assert (error["code"], error["field"]) == ("invalid_frame", field)


async def test_a_stale_edit_is_refused_with_the_message_as_it_is(server: Server) -> None:
    (alice,) = await people(server, "alice")
    team = await alice.create_group()
    message = await post(alice, team, "one")
    path = f"/api/chat/conversations/{team}/messages/{message['id']}"
    edited = await alice.api.patch(path, json={"content": "two", "if_rev": message["rev"]})
    assert (edited.status_code, edited.json()["rev"]) == (200, 2)
    stale = await alice.api.patch(path, json={"content": "three", "if_rev": message["rev"]})
    assert stale.status_code == 409
    body = stale.json()
    assert (body["code"], body["field"]) == ("conflict", "if_rev")
    assert (body["current"]["content"], body["current"]["rev"]) == ("two", 2)


async def test_lists_are_paged_by_cursor_while_they_move(server: Server) -> None:
    alice, bob = await people(server, "alice", "bob")
    keys = [await alice.create_group(bob, name=f"{number}") for number in range(7)]
    path = "/api/chat/conversations"
    page = (await alice.api.get(path, params={"limit": 3})).json()
    assert [each["id"] for each in page["conversations"]] == keys[:3:-1]
    await post(alice, keys[0], "moves to the top")
    seen = [each["id"] for each in page["conversations"]]
    while page["next_cursor"] is not None:
        page = (await alice.api.get(path, params={"limit": 3, "cursor": page["next_cursor"]})).json()
        seen += [each["id"] for each in page["conversations"]]
    assert seen == keys[:0:-1]  # all but the one that moved, each once
    assert (await alice.api.get(path)).json()["conversations"][0]["id"] == keys[0]

    cursor = (await alice.api.get(path, params={"limit": 3})).json()["next_cursor"]
    for bad in (cursor[:-2] + "AA", "", "=", "é", cursor + "A"):
        refused = await alice.api.get(path, params={"cursor": bad})
        assert (refused.status_code, refused.json()["field"]) == (422, "cursor"), bad
    foreign = await bob.api.get(path, params={"cursor": cursor})
    assert (foreign.status_code, foreign.json()["field"]) == (422, "cursor")
    both = await alice.api.get(path, params={"cursor": cursor, "offset": 1})
    assert (both.status_code, both.json()["field"]) == (422, "offset")


async def test_users_are_paged_by_cursor(server: Server) -> None:
    prefix = f"p{uuid.uuid4().hex[:6]}"
    everybody = [await Person.register(server.base_url, f"{prefix}{number}") for number in range(5)]
    page: dict[str, Any] = {"next_cursor": ""}
    seen: list[str] = []
    while page["next_cursor"] is not None:
        query = {"query": prefix, "limit": 2} | ({"cursor": page["next_cursor"]} if page["next_cursor"] else {})
        page = (await everybody[0].api.get("/api/users", params=query)).json()
        seen += [each["username"] for each in page["users"]]
    assert seen == [person.username for person in everybody]
    first = (await everybody[0].api.get("/api/users", params={"query": prefix, "limit": 2})).json()
    other = {"query": prefix[:-1], "cursor": first["next_cursor"]}
    refused = await everybody[0].api.get("/api/users", params=other)
    assert (refused.status_code, refused.json()["field"]) == (422, "cursor")
