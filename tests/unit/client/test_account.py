"""A token from elsewhere is renewed in time, and what is told of each new one."""

import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
import trio
from trio.testing import MockClock

from pulse_trio.client import Address, AuthenticationFailed, ConnectionLost, ProtocolError, Refused, open_client
from pulse_trio.client.verdicts import Verdict, verdict_of
from pulse_trio.client.wire import Ending
from pulse_trio.protocol import CloseCode
from tests.unit.client.scripted import TEAM, TOKEN_SECONDS, ScriptedServer

NOW = datetime(2026, 2, 4, 12, tzinfo=UTC)


def token_of(**claims: float) -> str:
    payload = urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"header.{payload}.signature"


@pytest.mark.parametrize(("age", "due"), [(0, 1_800), (1_200, 600), (3_000, 0)])
async def test_a_given_token_is_renewed_at_half_its_life(autojump_clock: MockClock, age: float, due: float) -> None:
    issued = (NOW - timedelta(seconds=age)).timestamp()
    tokens: list[tuple[float, str]] = []
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(nursery)
        began = trio.current_time()
        async with open_client(
            "http://chat.example",
            token=token_of(iat=issued, exp=issued + 3_600),
            network=server,
            clock=lambda: NOW,
            on_token=lambda token: tokens.append((trio.current_time() - began, token)),
        ) as client:
            await trio.sleep(due + 1 + TOKEN_SECONDS / 2)
            assert client.token == "token-2"
    assert [token for _, token in tokens] == ["token-1", "token-2"]
    assert tokens[0][0] == pytest.approx(due, abs=1)


async def test_a_token_that_says_nothing_is_left_alone(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(nursery)
        async with open_client("http://chat.example", token="opaque", network=server) as client:
            await trio.sleep(80_000)
            assert client.token == "opaque"
    assert ("POST", "/api/auth/renew") not in server.asked


class SleepyClock:
    """A wall clock that goes on while the machine sleeps, when Trio's stands still."""

    def __init__(self) -> None:
        self.slept = 0.0

    def __call__(self) -> datetime:
        return NOW + timedelta(seconds=trio.current_time() + self.slept)


@pytest.mark.parametrize("asks", [True, False])
async def test_a_token_is_renewed_soon_after_the_machine_slept(autojump_clock: MockClock, asks: bool) -> None:
    """By a request or a reconnection at once, else by the next look at the wall clock."""
    clock = SleepyClock()
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(nursery)
        server.answers["GET", "/api/chat/conversations"] = 200, {"conversations": []}
        async with open_client(
            "http://chat.example", username="a", password="b", network=server, clock=clock
        ) as client:
            await trio.sleep(300)
            clock.slept += TOKEN_SECONDS * 2 / 3
            if asks:
                await client.conversations()
            await trio.sleep(1 if asks else 31)
            assert client.token == "token-2"


async def test_a_room_that_reconnects_after_sleep_renews_the_token(autojump_clock: MockClock) -> None:
    clock = SleepyClock()
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(nursery)
        async with open_client("http://chat.example", token="opaque", network=server, clock=clock) as client:
            await client.sign_in("a", "b")
            nursery.start_soon(server.accept_greeted)
            async with client.join(TEAM):
                clock.slept += TOKEN_SECONDS * 2 / 3
                server.last_peer.cut()
                peer = await server.accept_greeted()
                assert (await peer.receive("auth", seconds=5))["token"] == client.token == "token-2"


async def test_a_wall_clock_that_is_set_back_delays_no_renewal(autojump_clock: MockClock) -> None:
    clock = SleepyClock()
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(nursery)
        async with open_client(
            "http://chat.example", username="a", password="b", network=server, clock=clock
        ) as client:
            clock.slept -= 86_400
            await trio.sleep(TOKEN_SECONDS / 2 + 1)
            assert client.token == "token-2"


async def test_a_server_that_is_away_is_asked_again_for_a_token(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(nursery)
        async with open_client("http://chat.example", username="a", password="b", network=server) as client:
            server.is_down = True
            await trio.sleep(TOKEN_SECONDS / 2 + 60)
            assert client.token == "token-1"
            with pytest.raises(ConnectionLost):
                await client.conversations()
            server.is_down = False
            await trio.sleep(60)
            assert client.token == "token-2"


async def test_a_request_whose_token_has_ended_is_made_again_with_another(autojump_clock: MockClock) -> None:
    answers: list[tuple[int, Any]] = [
        (401, {"code": "invalid_token", "message": "Expired"}),
        (200, {"conversations": []}),
    ]
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(nursery)
        server.answers["GET", "/api/chat/conversations"] = lambda _body: answers.pop(0)
        async with open_client("http://chat.example", username="a", password="b", network=server) as client:
            assert await client.conversations() == []
            assert client.token == "token-2"


async def test_errors_of_requests(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(nursery)
        async with open_client("http://chat.example", username="a", password="b", network=server) as client:
            server.answers["GET", "/api/users"] = (
                429,
                {"code": "rate_limited", "message": "Slow down", "field": "query"},
            )
            with pytest.raises(Refused, match="Slow down") as refused:
                await client.search_users("x")
            assert (refused.value.code, refused.value.status, refused.value.field) == ("rate_limited", 429, "query")
            server.answers["GET", "/api/users"] = 502, "no JSON of ours"
            with pytest.raises(Refused, match="502"):
                await client.search_users("x")
        async with open_client("http://chat.example", network=server) as client:
            with pytest.raises(AuthenticationFailed):
                await client.me()


@pytest.mark.parametrize("code", CloseCode)
def test_every_close_code_has_a_verdict_of_its_own(code: CloseCode) -> None:
    plain = {CloseCode.NORMAL, CloseCode.UNFINISHED, CloseCode.INTERNAL_ERROR, CloseCode.TOO_SLOW}
    assert (verdict_of(Ending("because", code=code)) == Verdict()) == (code in plain)


# --- no secret in an error's text --------------------------------------------------------------

SECRET = "a-secret"
UNSENDABLE = [
    "",
    f"{SECRET}\n",
    f" {SECRET}",
    f"{SECRET}\r\nX-Other: 1",
    f"{SECRET}\x00",
    f"{SECRET}\x7f",
    f"{SECRET}é",
]


@pytest.mark.parametrize("token", UNSENDABLE, ids=ascii)
async def test_a_token_that_cannot_be_sent_is_refused_before_anything_is_asked(
    autojump_clock: MockClock, token: str
) -> None:
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(nursery)
        with pytest.raises(ValueError, match="the token") as refused:
            async with open_client("http://chat.example", token=token, network=server):
                raise AssertionError
        nursery.cancel_scope.cancel()
    assert SECRET not in repr(refused.value)
    assert server.asked == []


@pytest.mark.parametrize("token", UNSENDABLE, ids=ascii)
async def test_a_token_that_cannot_be_sent_is_not_taken_from_a_server_either(
    autojump_clock: MockClock, token: str
) -> None:
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(nursery)
        async with open_client("http://chat.example", username="a", password="b", network=server) as client:
            answer = {"access_token": token, "expires_in": TOKEN_SECONDS}
            server.answers["POST", "/api/auth/login"] = server.answers["POST", "/api/auth/renew"] = 200, answer
            with pytest.raises(ProtocolError) as failed:
                await client.sign_in("a", "b")
            assert SECRET not in repr(failed.value)
            await trio.sleep(TOKEN_SECONDS)
            assert client.token == "token-1"


async def test_a_text_that_no_request_can_hold_is_refused_without_the_text(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(nursery)
        async with open_client("http://chat.example", network=server) as client:
            for ask in (client.register, client.sign_in):
                with pytest.raises(Refused, match="surrogate") as refused:
                    await ask("alice", f"{SECRET}\ud800")
                assert SECRET not in repr(refused.value)
                assert refused.value.code == "invalid_text"
            await client.sign_in("alice", "hers")
            asked = len(server.asked)
            with pytest.raises(Refused, match="surrogate"):
                await client.search_users("\ud800")
            with pytest.raises(Refused, match="surrogate"):
                await client.create_group("\ud800")
            assert len(server.asked) == asked


async def test_what_the_http_library_says_of_a_request_is_not_told(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(nursery)
        async with open_client("http://chat.example", network=server) as client:

            def illegal(_body: Any) -> Any:
                raise httpx2.LocalProtocolError(f"Illegal header value b'Bearer {SECRET}'")

            server.answers["POST", "/api/auth/login"] = illegal
            with pytest.raises(ConnectionLost, match="LocalProtocolError") as lost:
                await client.sign_in("a", "b")
            assert SECRET not in repr(lost.value)


@pytest.mark.parametrize(
    "url", [f"http://alice:{SECRET}", f"http://alice:{SECRET}@[chat", f"http://alice:{SECRET}@chat", "http://a..b"]
)
def test_a_url_that_is_none_is_refused_without_what_it_says(url: str) -> None:
    with pytest.raises(ValueError, match="the server's URL must") as refused:
        Address.parse(url)
    assert SECRET not in repr(refused.value)
    assert not isinstance(refused.value, UnicodeError)
