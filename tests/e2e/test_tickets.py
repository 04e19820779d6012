"""Tickets for the WebSocket: drawn over REST, shown in the URL, good for one connection."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import jwt
import pytest
import trio
from quart.testing.connections import WebsocketResponseError

from pulse_trio.app import create_app, open_service
from pulse_trio.settings import Settings
from pulse_trio.store.memory import MemoryStore
from tests.support.client import PASSWORD, Api, Person
from tests.support.raw import Answer, RawClient, open_raw, upgrade_request
from tests.support.server import SECRET, Server

PATH = "/api/chat/ws-ticket"


async def draw(person: Person, conversation: str | None = None) -> str:
    answer = await person.api.post(PATH, json={} if conversation is None else {"conversation_id": conversation})
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"ticket", "expires_in"}
    assert answer.headers["Cache-Control"] == "no-store"
    return str(answer.json()["ticket"])


def address(conversation: str | None) -> str:
    return "/api/chat/ws" + ("" if conversation is None else f"/{conversation}")


async def show(server: Server, conversation: str | None, ticket: str, *headers: tuple[str, str]) -> Answer:
    async with open_raw(server.port) as client:
        return await client.request(upgrade_request(f"{address(conversation)}?ticket={ticket}", headers))


def assert_refused(answer: Answer) -> None:
    assert (answer.status, answer.json()["code"]) == (401, "invalid_token"), answer
    assert answer.headers["www-authenticate"] == "Bearer"


async def people(server: Server) -> tuple[Person, Person, str]:
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    return alice, bob, await alice.create_group(bob)


async def test_a_ticket_opens_its_conversation_once_as_its_user(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, conversation = await people(server)
        ticket = await draw(bob, conversation)
        async with open_raw(server.port) as client:
            assert (await client.request(upgrade_request(f"{address(conversation)}?ticket={ticket}"))).status == 101
            joined = await client.read_json()
            assert (joined["event"], joined["sender_id"]) == ("joined", bob.id)
            assert_refused(await show(server, conversation, ticket))
        assert_refused(await show(server, conversation, ticket))
        # In capitals it is the same conversation.
        assert (await show(server, conversation.upper(), await draw(alice, conversation))).status == 101


async def test_a_ticket_opens_a_session_once_and_no_conversation(server: Server) -> None:
    with trio.fail_after(60):
        alice, _, conversation = await people(server)
        ticket = await draw(alice)
        assert (await show(server, None, ticket)).status == 101
        assert_refused(await show(server, None, ticket))
        assert_refused(await show(server, conversation, await draw(alice)))
        of_conversation = await draw(alice, conversation)
        assert_refused(await show(server, None, of_conversation))
        assert_refused(await show(server, conversation, of_conversation))


async def test_a_ticket_is_no_good_elsewhere_and_for_nobody_who_is_no_member(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, conversation = await people(server)
        other = await alice.create_group()
        ticket = await draw(alice, other)
        assert_refused(await show(server, conversation, ticket))
        assert_refused(await show(server, other, ticket))
        # Anybody draws one for anything: it says nothing, and opens nothing to who is no member.
        for wanted in (other, str(uuid4())):
            answer = await show(server, wanted, await draw(bob, wanted))
            assert (answer.status, answer.json()["code"]) == (403, "not_a_member")
        # Who is removed after drawing it does not get in.
        ticket = await draw(bob, conversation)
        gone = await alice.api.delete(f"/api/chat/conversations/{conversation}/members/{bob.id}")
        assert gone.status_code == 204
        assert (await show(server, conversation, ticket)).status == 403
        for nonsense in ("", "nonsense", "x" * 4_000, "%00", "%ED%A0%80", alice.token):
            assert_refused(await show(server, conversation, nonsense))


async def test_of_two_who_show_a_ticket_at_once_one_gets_in(server: Server) -> None:
    with trio.fail_after(60):
        alice, _, conversation = await people(server)
        for _ in range(10):
            ticket = await draw(alice, conversation)
            request = upgrade_request(f"{address(conversation)}?ticket={ticket}")
            statuses: list[int] = []

            async def ask(client: RawClient, request: bytes = request, statuses: list[int] = statuses) -> None:
                statuses.append((await client.request(request)).status)

            async with open_raw(server.port) as one, open_raw(server.port) as two, trio.open_nursery() as nursery:
                nursery.start_soon(ask, one)
                nursery.start_soon(ask, two)
            assert sorted(statuses) == [101, 401]


async def test_a_page_of_another_site_does_not_use_a_ticket_up(server: Server) -> None:
    with trio.fail_after(60):
        alice, _, conversation = await people(server)
        ticket = await draw(alice, conversation)
        foreign = await show(server, conversation, ticket, ("Origin", "https://evil.example"))
        assert (foreign.status, foreign.json()["code"]) == (403, "origin_not_allowed")
        assert (await show(server, conversation, ticket)).status == 101


async def test_a_ticket_that_is_no_good_is_not_mended_by_a_token(server: Server) -> None:
    with trio.fail_after(60):
        alice, _, conversation = await people(server)
        answer = await show(server, conversation, "nonsense", ("Authorization", f"Bearer {alice.token}"))
        assert_refused(answer)
        assert_refused(await show(server, conversation, f"nonsense&token={alice.token}"))


async def test_tickets_are_no_tokens(server: Server) -> None:
    with trio.fail_after(60):
        alice, _, conversation = await people(server)
        ticket = await draw(alice, conversation)
        refused = await Api(server.base_url, {"Authorization": f"Bearer {ticket}"}).get("/api/auth/me")
        assert (refused.status_code, refused.json()["code"]) == (401, "invalid_token")
        async with open_raw(server.port) as client:
            assert_refused(await client.request(upgrade_request(f"{address(conversation)}?token={ticket}")))
        # And none of that used it up.
        assert (await show(server, conversation, ticket)).status == 101


async def test_a_ticket_is_drawn_with_a_token_only_and_for_an_id(server: Server) -> None:
    with trio.fail_after(60):
        alice, _, conversation = await people(server)
        anonymous = await Api(server.base_url).post(PATH, json={"conversation_id": conversation})
        assert (anonymous.status_code, anonymous.json()["code"]) == (401, "not_authenticated")
        for wrong in ("conv-123", "", 7, [conversation], f"{{{conversation}}}", conversation.replace("-", ""), "\0"):
            answer = await alice.api.post(PATH, json={"conversation_id": wrong})
            assert (answer.status_code, answer.json()["field"]) == (422, "conversation_id"), wrong
        nothing = await alice.api.post(PATH, json={"conversation_id": None})
        assert (nothing.status_code, nothing.json()["expires_in"]) == (200, 30)


async def test_a_connection_by_ticket_ends_with_the_token_that_drew_it(server: Server) -> None:
    with trio.fail_after(60):
        alice, _, conversation = await people(server)
        now = time.time()
        token = jwt.encode({"sub": alice.id, "iat": int(now), "exp": now + 3}, SECRET, algorithm="HS256")
        brief = Person(server.base_url, "alice", alice.id, token)
        drawn = await brief.api.post(PATH, json={"conversation_id": conversation})
        assert drawn.json()["expires_in"] <= 3
        async with open_raw(server.port) as client:
            path = f"{address(conversation)}?ticket={drawn.json()['ticket']}"
            assert (await client.request(upgrade_request(path))).status == 101
            assert await client.read_close() == 4401
        assert now + 2.5 < time.time() < now + 12, "with the token: neither at once nor for ever"


async def test_a_token_in_the_url_can_be_switched_off(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_TOKEN_IN_URL="false")
    with trio.fail_after(60):
        alice, _, conversation = await people(server)
        path = address(conversation)

        async def ask(where: str, *headers: tuple[str, str]) -> Answer:
            async with open_raw(server.port) as client:
                return await client.request(upgrade_request(where, headers))

        for wanted in (path, address(None)):
            refused = await ask(f"{wanted}?token={alice.token}")
            assert (refused.status, refused.json()["code"]) == (401, "not_authenticated")
            assert "ticket" in refused.json()["message"], "it says what to do instead"
        assert (await ask(path, ("Authorization", f"Bearer {alice.token}"))).status == 101
        assert (await ask(path, ("Sec-WebSocket-Protocol", f"pulse.v1, bearer.{alice.token}"))).status == 101
        assert (await show(server, conversation, await draw(alice, conversation))).status == 101


# --- When it is too late: on a virtual clock, through the routes ---


@pytest.mark.parametrize(("waited", "is_good"), [(0, True), (29, True), (30, False), (31, False)])
async def test_a_late_ticket_is_refused(autojump_clock: object, waited: int, is_good: bool) -> None:
    @asynccontextmanager
    async def open_store() -> AsyncIterator[MemoryStore]:
        yield MemoryStore()

    app = create_app(Settings.load(secret_key=SECRET), open_store)
    async with open_service(app) as parts:
        client = app.test_client()
        body = {"username": "ada", "password": PASSWORD}
        assert (await client.post("/api/auth/register", json=body)).status_code == 201
        token = (await (await client.post("/api/auth/login", json=body)).get_json())["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        group = await (
            await client.post("/api/chat/conversations", json={"is_group": True}, headers=headers)
        ).get_json()
        drawn = await (await client.post(PATH, json={"conversation_id": group["id"]}, headers=headers)).get_json()
        assert drawn["expires_in"] == 30
        await trio.sleep(waited)
        path = f"{address(group['id'])}?ticket={drawn['ticket']}"
        if is_good:
            async with client.websocket(path) as socket:
                assert (await socket.receive_json())["event"] == "joined"
        else:
            async with client.websocket(path) as socket:
                with pytest.raises(WebsocketResponseError) as caught:
                    await socket.receive()
            assert caught.value.response.status_code == 401
        assert not vars(parts.store)["_tickets"], "a ticket is used up, also when it is rejected"
