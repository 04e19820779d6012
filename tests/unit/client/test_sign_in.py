"""Somebody else signs in: their token and their name are taken together or not at all, and nothing goes out as theirs
that the one before them wrote."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pulse_trio.client import AuthenticationFailed, Client, ClientError, ConnectionLost, Message, Room, open_client
from tests.unit.client.scripted import (
    ALICE,
    BOB,
    NOW,
    TEAM,
    TOKEN_SECONDS,
    Answer,
    Peer,
    ScriptedServer,
    message_frame,
)

NAMES = {ALICE: "alice", BOB: "bob"}
STORED = {
    "id": message_frame(1)["message_id"],
    "conversation_id": TEAM,
    "sender_id": ALICE,
    "sender_username": "alice",
    "content": "hello",
    "created_at": NOW,
    "updated_at": NOW,
    "seq": 1,
    "rev": 1,
}


class TwoPeople(ScriptedServer):
    """A service that Alice and Bob sign in to; a token says whose it is.

    Attributes:
        holds: what `GET /api/auth/me` waits for, when it is asked with a token of Bob's.
        is_cut: what it does then: no answer.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(nursery)
        self.holds = trio.Event()
        self.holds.set()
        self.is_cut = False
        self._given = 0
        self.answers["POST", "/api/auth/login"] = lambda body: self.token_of(body["username"])
        self.answers["POST", "/api/auth/renew"] = lambda _body: self.token_of(self.whose(self.tokens[-1]))
        self.answers["GET", "/api/auth/me"] = lambda _body: self._me(self.whose(self.tokens[-1]))

    def token_of(self, username: str) -> Answer:
        self._given += 1
        return 200, {"access_token": f"{username}-{self._given}", "expires_in": TOKEN_SECONDS}

    @staticmethod
    def whose(token: str | None) -> str:
        assert token is not None
        return token.partition("-")[0]

    async def _me(self, username: str) -> Answer:
        if username == "bob":
            await self.holds.wait()
            if self.is_cut:
                self.is_down = True
                raise httpx2.ReadError("cut")
        user_id = next(user_id for user_id, name in NAMES.items() if name == username)
        return 200, {"id": user_id, "username": username}

    async def accept_forever(self) -> None:
        while True:
            await (await self.accept(float("inf"))).greet()


async def drain(room: Room) -> None:
    while True:
        await room.receive()


@pytest.fixture
async def alice() -> AsyncIterator[tuple[Client, TwoPeople, Room, Peer]]:
    """Alice's client, with a room that is open."""
    async with trio.open_nursery() as nursery:
        server = TwoPeople(nursery)
        async with open_client("http://chat.example", username="alice", password="hers", network=server) as client:
            nursery.start_soon(server.accept_greeted)
            async with client.join(TEAM) as room:
                yield client, server, room, server.last_peer
        nursery.cancel_scope.cancel()


Alice = tuple[Client, TwoPeople, Room, Peer]


async def outcome_of(call: Callable[[], Awaitable[Any]], found: list[Any]) -> None:
    try:
        found.append(await call())
    except ClientError as error:
        found.append(error)


def whoever(server: TwoPeople, method: str, path: str) -> list[str]:
    """Returns the owner of the token of each such request."""
    return [
        server.whose(token) for asked, token in zip(server.asked, server.tokens, strict=True) if asked == (method, path)
    ]


async def test_rooms_end_before_the_token_changes(autojump_clock: MockClock, alice: Alice) -> None:
    client, server, room, peer = alice
    found: list[Any] = []
    server.holds = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outcome_of, lambda: room.send("alice's secret draft"), found)
        sent = await peer.receive()
        peer.cut()
        nursery.start_soon(outcome_of, lambda: client.sign_in("bob", "his"), found)
        await trio.testing.wait_all_tasks_blocked()
        assert client.user.username == "alice", "bob is not known yet"
        again = await server.accept_greeted()
        assert server.whose(again.token) == "alice"
        assert await again.receive() == sent
        server.holds.set()
        await again.wait_closed()
    bob, error = sorted(found, key=lambda item: isinstance(item, Exception))
    assert bob.username == client.user.username == "bob"
    assert isinstance(error, AuthenticationFailed)
    with pytest.raises(AuthenticationFailed, match="another user"):
        await drain(room)
    with pytest.raises(AuthenticationFailed, match="another user"):
        await room.send("too late")
    dials = len(server.dials)
    await trio.sleep(500)
    assert len(server.dials) == dials


async def test_a_room_that_has_ended_says_nothing_more_with_the_other_ones_token(
    autojump_clock: MockClock, alice: Alice
) -> None:
    client, _, room, peer = alice
    room.mark_read(3)
    await client.sign_in("bob", "his")
    room.typing()
    room.mark_read(4)
    assert await peer.wait_closed() in ([], ["read"]), "what was on its way is hers; no `auth`"


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_sign_in_that_fails_halfway_leaves_everything_as_it_was(
    autojump_clock: MockClock, alice: Alice, is_cancelled: bool
) -> None:
    client, server, room, peer = alice
    before = client.token
    if is_cancelled:
        server.holds = trio.Event()
        with trio.move_on_after(3):
            await client.sign_in("bob", "his")
    else:
        server.is_cut = True
        with pytest.raises(ConnectionLost):
            await client.sign_in("bob", "his")
        server.is_down = False
    assert (client.user.username, client.token) == ("alice", before)
    await peer.send(message_frame(1))
    assert isinstance(await room.receive(), Message)
    peer.cut()
    assert server.whose((await server.accept_greeted()).token) == "alice"
    await trio.sleep(TOKEN_SECONDS)  # the password that is kept is hers, too
    server.answers["POST", "/api/auth/renew"] = 401, {"code": "invalid_token", "message": "No"}
    await trio.sleep(TOKEN_SECONDS)
    assert client.token is not None
    assert server.whose(client.token) == "alice"


async def test_signing_in_again_as_oneself_leaves_rooms_open(autojump_clock: MockClock, alice: Alice) -> None:
    client, _, room, peer = alice
    await client.sign_in("alice", "hers")
    assert (await peer.receive("auth"))["token"] == client.token
    await peer.send(message_frame(1))
    assert isinstance(await room.receive(), Message)


async def test_a_renewal_that_is_under_way_does_not_bring_the_old_token_back(
    autojump_clock: MockClock, alice: Alice
) -> None:
    client, server, _, _ = alice
    renewing = trio.Event()
    go_on = trio.Event()

    async def renew(_body: Any) -> Answer:
        whose = server.whose(server.tokens[-1])
        renewing.set()
        await go_on.wait()
        return server.token_of(whose)

    server.answers["POST", "/api/auth/renew"] = renew
    await renewing.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.sign_in, "bob", "his")
        await trio.sleep(1)
        go_on.set()
    await trio.sleep(5)
    assert client.user.username == "bob"
    assert client.token is not None
    assert server.whose(client.token) == "bob"


async def test_a_message_that_is_asked_to_be_stored_again_is_not_stored_as_the_others(
    autojump_clock: MockClock, alice: Alice
) -> None:
    client, server, _, _ = alice
    path = f"/api/chat/conversations/{TEAM}/messages"
    server.answers["POST", path] = 503, {"code": "unavailable", "message": "Not now"}
    found: list[Any] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outcome_of, lambda: client.send(TEAM, "alice's secret"), found)
        await trio.sleep(1)
        await client.sign_in("bob", "his")
        server.answers["POST", path] = 201, STORED
    assert isinstance(found[0], AuthenticationFailed)
    assert set(whoever(server, "POST", path)) == {"alice"}


async def test_a_request_whose_token_has_ended_is_not_made_again_as_somebody_else(
    autojump_clock: MockClock, alice: Alice
) -> None:
    client, server, _, _ = alice
    path = f"/api/chat/conversations/{TEAM}/members/me"
    answer = trio.Event()

    async def expired(_body: Any) -> Answer:
        await answer.wait()
        return 401, {"code": "invalid_token", "message": "Expired"}

    server.answers["DELETE", path] = expired
    found: list[Any] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outcome_of, lambda: client.leave(TEAM), found)
        await trio.sleep(1)
        await client.sign_in("bob", "his")
        answer.set()
    assert isinstance(found[0], AuthenticationFailed)
    assert whoever(server, "DELETE", path) == ["alice"]


async def test_pages_of_a_history_are_of_one_user(autojump_clock: MockClock, alice: Alice) -> None:
    client, server, _, _ = alice
    path = f"/api/chat/conversations/{TEAM}/messages"
    server.answers["GET", path] = 200, {"messages": [STORED] * 100}
    history = client.history(TEAM)
    await anext(history)
    await client.sign_in("bob", "his")
    with pytest.raises(AuthenticationFailed, match="another user"):
        async for _ in history:
            pass
    assert whoever(server, "GET", path) == ["alice"]


async def test_pages_of_members_and_of_read_positions_are_of_one_user(autojump_clock: MockClock, alice: Alice) -> None:
    client, server, _, _ = alice
    path = f"/api/chat/conversations/{TEAM}"
    server.answers["GET", f"{path}/members"] = (
        200,
        {"members": [{"id": ALICE, "username": "alice"}], "next_cursor": "next"},
    )

    async def positions(_body: Any) -> Answer:
        is_first = client.user.username == "alice"
        await client.sign_in("bob", "his")
        return 200, {"positions": [{"user_id": ALICE, "seq": 1}], "next_cursor": "next" if is_first else None}

    members = client.members(TEAM)
    await anext(members)
    server.answers["GET", f"{path}/read"] = positions
    with pytest.raises(AuthenticationFailed, match="another user"):
        await client.read_positions(TEAM)
    with pytest.raises(AuthenticationFailed, match="another user"):
        await anext(members)
    assert whoever(server, "GET", f"{path}/read") == ["alice"]
    assert whoever(server, "GET", f"{path}/members") == ["alice"]


async def test_an_old_answer_does_not_say_who_is_signed_in(autojump_clock: MockClock, alice: Alice) -> None:
    client, server, _, _ = alice
    answer = trio.Event()
    me = server.answers["GET", "/api/auth/me"]

    async def slow(_body: Any) -> Answer:
        await answer.wait()
        return 200, {"id": ALICE, "username": "alice"}

    server.answers["GET", "/api/auth/me"] = slow
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.me)
        await trio.sleep(1)
        server.answers["GET", "/api/auth/me"] = me
        await client.sign_in("bob", "his")
        answer.set()
    assert client.user.username == "bob"


async def test_a_conversation_that_is_being_joined_is_not_joined_as_somebody_else(
    autojump_clock: MockClock, alice: Alice
) -> None:
    client, server, _, _ = alice
    path = f"/api/chat/conversations/{TEAM}"
    found, answer = server.answers["GET", path], trio.Event()

    async def slow(_body: Any) -> Answer:
        await answer.wait()
        assert isinstance(found, tuple)
        return found

    server.answers["GET", path] = slow
    dials = len(server.dials)

    async def join() -> None:
        with pytest.raises(AuthenticationFailed, match="another user"):
            async with client.join(TEAM):
                raise AssertionError

    async with trio.open_nursery() as nursery:
        nursery.start_soon(join)
        await trio.sleep(1)
        await client.sign_in("bob", "his")
        answer.set()
    assert len(server.dials) == dials


async def test_a_program_is_told_of_the_token_when_its_user_is_known(autojump_clock: MockClock) -> None:
    told: list[tuple[str, str]] = []
    async with trio.open_nursery() as nursery:
        server = TwoPeople(nursery)
        opened = open_client(
            "http://chat.example", network=server, on_token=lambda token: told.append((token, client.user.username))
        )
        async with opened as client:
            await client.sign_in("alice", "hers")
            await client.sign_in("bob", "his")
        nursery.cancel_scope.cancel()
    assert told == [("alice-1", "alice"), ("bob-2", "bob")]
