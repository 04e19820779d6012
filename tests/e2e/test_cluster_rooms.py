"""Two processes on one database: nobody notices which of them they are on."""

import itertools
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
import trio

from tests.e2e.test_features import ALL, add, changes_until, post, remove, rename
from tests.e2e.test_session import say
from tests.e2e.test_tickets import assert_refused, draw, show
from tests.support.client import Chat, Person
from tests.support.cluster import Cluster
from tests.support.cluster_processes import ENGINES, Processes, at
from tests.support.raw import open_raw, upgrade_request

_numbers = itertools.count()


@pytest.fixture(scope="module", params=ENGINES)
def pair(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Processes]:
    """Two processes for tests that leave them as they are."""
    with Processes(cluster, request.param) as made:
        yield made
        assert [server.stop() for server in made.servers] == [0, 0]
        assert "Traceback" not in "".join(server.output for server in made.servers)


async def people(pair: Processes, *names: str) -> list[Person]:
    """Registers users, the first on the first process, the second on the second, and so on."""
    found = []
    for number, name in enumerate(names):
        url = pair.servers[number % 2].base_url
        found.append(await Person.register(url, f"{name}{next(_numbers)}{uuid.uuid4().hex[:6]}"))
    return found


async def until(chat: Chat, **wanted: object) -> dict[str, Any]:
    """Receives frames until one has these values; returns it."""
    while True:
        frame = await chat.receive()
        if all(frame.get(name) == value for name, value in wanted.items()):
            return frame


async def active(person: Person, team: str) -> set[str]:
    """The users that a process shows as connected."""
    answer = await person.api.get(f"/api/chat/conversations/{team}/active")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["active_count"] == len(body["active_users"])
    return set(body["active_users"])


async def everywhere(pair: Processes, person: Person, team: str, expected: set[str]) -> None:
    """Returns when each process shows these users as connected."""
    for server in pair.servers:
        while await active(at(server, person), team) != expected:  # noqa: ASYNC110  # another process
            await trio.sleep(0.05)


@asynccontextmanager
async def in_order(team: str, *persons: Person) -> AsyncIterator[list[Chat]]:
    """Opens own connections, one after the other; each has read all `joined` when this begins."""
    async with AsyncExitStack() as stack:
        chats: list[Chat] = []
        for person in persons:
            chats.append(await stack.enter_async_context(person.connect(team)))
            for chat in chats:
                joined = await chat.receive()
                assert (joined["event"], joined["sender_id"]) == ("joined", person.id)
        yield chats


async def test_one_order_for_own_connections_and_sessions_on_both(pair: Processes) -> None:
    with trio.fail_after(60):
        alice, bob = await people(pair, "alice", "bob")
        team = await alice.create_group(bob)
        async with AsyncExitStack() as stack:
            chats = []
            for person, server in itertools.product((alice, bob), pair.servers):
                here = at(server, person)
                chats.append(await stack.enter_async_context(here.connect(team, features="members,conversation")))
                chats.append(await stack.enter_async_context(here.session(features=ALL)))
            count = 40

            async def talk(person: Person) -> None:
                for number in range(count):
                    await post(person, team, f"{person.username} {number}")

            async with trio.open_nursery() as nursery:
                for person, server in itertools.product((alice, bob), pair.servers):
                    nursery.start_soon(talk, at(server, person))
            for chat in chats:
                seen = await changes_until(chat, 4 * count)
                assert [frame["rev"] for frame in seen] == list(range(1, 4 * count + 1))
                assert [frame["prev_rev"] for frame in seen] == list(range(4 * count))


async def test_a_session_hears_a_quiet_conversation_and_its_changes(pair: Processes) -> None:
    """No room is open where the session is when the other process commits."""
    with trio.fail_after(60):
        alice, bob = await people(pair, "alice", "bob")
        team = await alice.create_group(bob)
        async with bob.session() as b:
            message = await post(alice, team, "one")
            assert (await b.receive_type("message"))["content"] == "one"
            path = f"/api/chat/conversations/{team}/messages/{message['id']}"
            assert (await alice.api.patch(path, json={"content": "uno"})).status_code == 200
            assert (await b.receive_type("message_updated"))["content"] == "uno"
            await rename(alice, team, "Crew")
            assert (await b.receive_type("system"))["event"] == "renamed"
            assert (await alice.api.delete(path)).status_code == 204
            assert (await b.receive_type("message_deleted"))["message_id"] == message["id"]
            answer = await bob.api.get(f"/api/chat/conversations/{team}")
            assert (answer.json()["name"], answer.json()["last_rev"]) == ("Crew", 4)


async def test_additions_and_removals_reach_the_other_process(pair: Processes) -> None:
    with trio.fail_after(60):
        alice, bob = await people(pair, "alice", "bob")
        async with bob.session() as b, bob.session(features=ALL) as all_of_b, alice.session() as a:
            team = await alice.create_group(bob)
            assert await a.receive() == {"type": "conversation_added", "conversation_id": team}
            assert await b.receive() == {"type": "conversation_added", "conversation_id": team}
            added = await all_of_b.receive_type("membership")
            assert (added["conversation_id"], added["is_member"]) == (team, True)
            await post(alice, team, "hello")
            assert (await b.receive())["content"] == "hello"
            assert (await all_of_b.receive_type("message"))["content"] == "hello"

            await remove(alice, team, bob)
            await post(alice, team, "without bob")
            assert await b.receive() == {"type": "conversation_removed", "conversation_id": team}
            gone = await all_of_b.receive_type("membership", "message")
            assert (gone["is_member"], gone["prev_me_rev"]) == (False, added["me_rev"])
            await b.send({"type": "message", "conversation_id": team, "content": "am I here?", "client_id": "c"})
            assert (await b.receive())["code"] == "not_a_member"

            await add(alice, team, bob)
            assert (await b.receive())["type"] == "conversation_added"
            back = await all_of_b.receive_type("membership")
            assert (back["is_member"], back["prev_me_rev"]) == (True, gone["me_rev"])
            await say(a, team, "welcome back")
            assert (await until(b, type="message"))["content"] == "welcome back"
            assert (await all_of_b.receive_type("message"))["content"] == "welcome back"


async def test_a_removal_is_answered_when_the_other_process_has_ended_it(pair: Processes) -> None:
    with trio.fail_after(60):
        alice, bob = await people(pair, "alice", "bob")
        for number in range(10):
            team = await alice.create_group(bob)
            async with bob.connect(team) as own, bob.session() as session, alice.session() as a:
                await own.receive()
                began = trio.current_time()
                await remove(alice, team, bob)
                if number:  # none is answered in the first term of a process
                    assert trio.current_time() - began < 1, "confirmed, not waited out"
                await say(a, team, "secret")
                assert await own.wait_closed() == 4403
                assert (await session.receive_type("message", "conversation_removed"))["type"] == "conversation_removed"


async def test_read_positions_and_typing_cross(pair: Processes) -> None:
    with trio.fail_after(60):
        alice, bob = await people(pair, "alice", "bob")
        team = await alice.create_group(bob)
        async with bob.connect(team) as own, bob.session(features=ALL) as session, alice.session() as a:
            await say(a, team, "read this")
            await a.send({"type": "read", "conversation_id": team, "seq": 1})
            for chat in (own, session):
                assert await until(chat, type="read") == {
                    "type": "read",
                    "conversation_id": team,
                    "positions": [{"user_id": alice.id, "seq": 1}],
                }
            await a.send({"type": "typing", "conversation_id": team})
            for chat in (own, session):
                assert (await until(chat, type="typing"))["sender_id"] == alice.id
            # on another device of one's own, and on another process
            there = at(pair.servers[0], bob)
            answer = await there.api.put(f"/api/chat/conversations/{team}/read", json={"seq": 1})
            assert answer.status_code == 200
            mine = await until(session, type="membership", conversation_id=team, read_seq=1)
            assert mine["is_member"]
            assert (await until(a, type="read"))["positions"] == [{"user_id": alice.id, "seq": 1}]
            assert (await until(a, type="read"))["positions"] == [{"user_id": bob.id, "seq": 1}]


async def test_a_users_own_sequence_has_no_gap(pair: Processes) -> None:
    with trio.fail_after(60):
        alice, bob = await people(pair, "alice", "bob")
        async with AsyncExitStack() as stack:
            sessions = [
                await stack.enter_async_context(at(server, bob).session(features="me")) for server in pair.servers
            ]
            teams = [await at(server, alice).create_group(bob) for server in [*pair.servers] * 3]
            for number, team in enumerate(teams):
                here = at(pair.servers[number % 2], alice)
                await post(here, team, "read this")
                await at(pair.servers[number % 2], bob).api.put(f"/api/chat/conversations/{team}/read", json={"seq": 1})
                await remove(here, team, bob)
            for chat in sessions:
                seen = [await chat.receive_type("membership")]
                while seen[-1]["me_rev"] < 18:
                    seen.append(await chat.receive_type("membership"))
                assert [frame["prev_me_rev"] for frame in seen[1:]] == [frame["me_rev"] for frame in seen[:-1]]
                state = {frame["conversation_id"]: frame["is_member"] for frame in seen}
                assert state == dict.fromkeys(teams, False)


async def test_presence_is_the_union_and_each_event_comes_once(pair: Processes) -> None:
    with trio.fail_after(60):
        alice, bob, carol = await people(pair, "alice", "bob", "carol")
        team = await alice.create_group(bob, carol)
        async with in_order(team, alice, bob, carol) as (a, b, c):
            await everywhere(pair, alice, team, {alice.id, bob.id, carol.id})
            async with at(pair.servers[0], bob).connect(team) as second:
                own = await second.receive()
                assert set(own["active_users"]) == {alice.id, bob.id, carol.id}
                await say_own(second, "on both")
                for chat in (a, b, c, second):
                    assert (await chat.receive())["type"] == "message", "no second `joined`"
            await say_own(a, "still here")
            for chat in (a, b, c):
                assert (await chat.receive())["type"] == "message", "no `left`: one connection is there"
            # bob's last one closes
            await b.connection.aclose()
            for chat in (a, c):
                left = await chat.receive()
                assert (left["event"], left["sender_id"]) == ("left", bob.id)
                assert set(left["active_users"]) == {alice.id, carol.id}
            await everywhere(pair, alice, team, {alice.id, carol.id})
            async with bob.session():
                for chat in (a, c):
                    joined = await chat.receive()
                    assert (joined["event"], joined["sender_id"]) == ("joined", bob.id)
                    assert set(joined["active_users"]) == {alice.id, bob.id, carol.id}
                await everywhere(pair, alice, team, {alice.id, bob.id, carol.id})
            for chat in (a, c):
                left = await chat.receive()
                assert (left["event"], left["sender_id"]) == ("left", bob.id)
            await say_own(c, "the end")
            for chat in (a, c):
                assert (await chat.receive())["type"] == "message", "each event came once"


async def say_own(chat: Chat, content: str) -> None:
    await chat.send({"type": "message", "content": content})


async def test_watches_and_presence_over_rest(pair: Processes) -> None:
    with trio.fail_after(60):
        alice, bob = await people(pair, "alice", "bob")
        await alice.create_group(bob)
        async with alice.session() as a:
            await a.send({"type": "watch", "user_ids": [bob.id]})
            first = (await until(a, type="users"))["users"]
            assert first == [{"user_id": bob.id, "is_online": False, "last_seen_at": None}]
            for _ in range(3):
                async with bob.session():
                    (now,) = (await until(a, type="users"))["users"]
                    assert (now["user_id"], now["is_online"]) == (bob.id, True)
                    for server in pair.servers:
                        assert (await presence(at(server, alice), bob))["is_online"]
                (now,) = (await until(a, type="users"))["users"]
                assert not now["is_online"]
                for server in pair.servers:  # each has its own clock of the day
                    there = await presence(at(server, alice), bob)
                    assert not there["is_online"]
                    apart = moment(there["last_seen_at"]) - moment(now["last_seen_at"])
                    assert abs(apart.total_seconds()) < 0.5, apart


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def presence(person: Person, other: Person) -> dict[str, Any]:
    answer = await person.api.get(f"/api/chat/users/{other.id}/presence")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_resume_goes_on_at_the_other_process(pair: Processes) -> None:
    with trio.fail_after(60):
        alice, bob = await people(pair, "alice", "bob")
        team = await alice.create_group(bob)
        known = 0
        for turn in range(10):
            here = at(pair.servers[turn % 2], bob)
            await post(alice, team, "while away")
            async with here.connect(team, after=known, features="members,conversation") as chat:
                await post(alice, team, "live")
                seen = await changes_until(chat, known + 2)
                assert [frame["rev"] for frame in seen] == [known + 1, known + 2]
            known += 2
            await post(alice, team, "while away")
            async with here.session({team: known}) as chat:
                await post(alice, team, "live")
                assert [(await chat.receive_type("message"))["rev"] for _ in range(2)] == [known + 1, known + 2]
            known += 2


async def test_a_ticket_of_one_process_opens_one_connection_of_the_other(pair: Processes) -> None:
    with trio.fail_after(60):
        alice, bob = await people(pair, "alice", "bob")
        team = await alice.create_group(bob)
        one, two = pair.servers
        for conversation, path in ((team, f"/api/chat/ws/{team}"), (None, "/api/chat/ws")):
            ticket = await draw(alice, conversation)
            async with open_raw(two.port) as client:
                assert (await client.request(upgrade_request(f"{path}?ticket={ticket}"))).status == 101
                for server in pair.servers:
                    assert_refused(await show(server, conversation, ticket))
        ticket = await draw(alice, team)
        answers = []

        async def attempt(port: int) -> None:
            async with open_raw(port) as client:
                path = f"/api/chat/ws/{team}?ticket={ticket}"
                answers.append((await client.request(upgrade_request(path))).status)

        async with trio.open_nursery() as nursery:
            for server in (one, two) * 4:
                nursery.start_soon(attempt, server.port)
        assert sorted(answers) == [101] + [401] * 7


async def test_a_resend_on_the_other_process_is_no_second_message(pair: Processes) -> None:
    with trio.fail_after(60):
        alice, bob = await people(pair, "alice", "bob")
        team = await alice.create_group(bob)
        body = {"content": "once", "client_id": "the same"}
        async with bob.session() as b:
            statuses = []

            async def send(person: Person) -> None:
                answer = await person.api.post(f"/api/chat/conversations/{team}/messages", json=body)
                statuses.append(answer.status_code)

            async with trio.open_nursery() as nursery:
                for server in pair.servers * 3:
                    nursery.start_soon(send, at(server, alice))
            assert sorted(statuses) == [200] * 5 + [201]
            await post(alice, team, "next")
            assert [(await b.receive_type("message"))["seq"] for _ in range(2)] == [1, 2]
