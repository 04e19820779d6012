"""The WebSocket handshake on the real process: who is let in, and what those are told who are not."""

import base64
import time
from collections.abc import Callable
from itertools import count

import jwt
import pytest
import trio

from pulse_trio.ids import IdSource
from tests.support.client import Api, Person
from tests.support.raw import GOOD_KEY, Answer, open_raw, upgrade_request
from tests.support.server import SECRET, Server


def _token(subject: str, *, key: str = SECRET, expires_in: float = 600, **claims: object) -> str:
    now = time.time()
    return jwt.encode({"sub": subject, "iat": now - 1_000, "exp": now + expires_in, **claims}, key, algorithm="HS256")


async def _handshake(server: Server, path: str, *headers: tuple[str, str], **options: str | None) -> Answer:
    async with open_raw(server.port) as client:
        return await client.request(upgrade_request(path, headers, **options))


_numbers = count(1)  # of accounts on the shared server


async def _alice_alone(server: Server) -> tuple[Person, str, str]:
    alice = await Person.register(server.base_url, f"alice{next(_numbers)}")
    conversation = await alice.create_group()
    return alice, conversation, f"/api/chat/ws/{conversation}"


def _check_error(answer: Answer, status: int, code: str) -> None:
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body["code"] == code
    assert isinstance(body["message"], str)
    assert body["message"]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["features", "after", "epoch", "token", "ticket"])
async def test_a_parameter_that_is_repeated_is_refused(shared_server: Server, name: str) -> None:
    with trio.fail_after(60):
        alice, _, path = await _alice_alone(shared_server)
        for own in ("", "/" + path.rpartition("/")[2]):
            if own or name not in {"after", "epoch"}:
                query = f"token={alice.token}" if name in {"features", "after", "epoch"} else "after=0"
                answer = await _handshake(shared_server, f"/api/chat/ws{own}?{query}&{name}=0&{name}=1")
                _check_error(answer, 422, "invalid_field")
                assert answer.json()["field"] == name
                assert "once" in answer.json()["message"]


async def test_a_token_is_taken_from_the_url_a_header_or_a_subprotocol(server: Server) -> None:
    with trio.fail_after(60):
        alice, _, path = await _alice_alone(server)

        by_query = await _handshake(server, f"{path}?token={alice.token}")
        by_header = await _handshake(server, path, ("Authorization", f"Bearer {alice.token}"))
        by_entry = await _handshake(server, path, ("Sec-WebSocket-Protocol", f"pulse.v1, bearer.{alice.token}"))
        by_entry_first = await _handshake(server, path, ("Sec-WebSocket-Protocol", f"bearer.{alice.token}, pulse.v1"))
        by_entry_alone = await _handshake(server, path, ("Sec-WebSocket-Protocol", f"bearer.{alice.token}"))

    for answer in (by_query, by_header, by_entry, by_entry_first, by_entry_alone):
        assert answer.status == 101
        # RFC 6455, section 1.3: the key and the GUID, hashed.
        assert answer.headers["sec-websocket-accept"] == "fQ3o+jvWDUlmTKhqvCVM0B9D/fo="
    for answer in (by_entry, by_entry_first):
        assert answer.headers["sec-websocket-protocol"] == "pulse.v1"
    for answer in (by_query, by_header, by_entry_alone):
        assert "sec-websocket-protocol" not in answer.headers


async def test_without_a_good_token_the_handshake_is_refused_with_401(server: Server) -> None:
    with trio.fail_after(60):
        alice, _, path = await _alice_alone(server)
        head, payload, _ = alice.token.split(".")
        unsigned_head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
        bad_tokens = {
            "nonsense": "nonsense",
            "altered": f"{alice.token[:-4]}AAAA",
            "expired": _token(alice.id, expires_in=-1),
            "other key": _token(alice.id, key="another key, which is as long as it must be"),
            "no signature": f"{head}.{payload}.",
            "alg none": f"{unsigned_head}.{payload}.",
            "not yet": _token(alice.id, nbf=time.time() + 300),
            "no such user": _token(str(IdSource()())),
            "no user id": _token("alice"),
            "long": "x" * 9_000,
        }

        nothing = await _handshake(server, path)
        empty = await _handshake(server, f"{path}?token=")
        refused = {name: await _handshake(server, f"{path}?token={token}") for name, token in bad_tokens.items()}
        by_header = await _handshake(server, path, ("Authorization", "Bearer nonsense"))
        by_entry = await _handshake(server, path, ("Sec-WebSocket-Protocol", "pulse.v1, bearer.nonsense"))
        # The header goes first: a bad one is not mended by a good token elsewhere.
        both = await _handshake(server, f"{path}?token={alice.token}", ("Authorization", "Bearer nonsense"))
        good = await _handshake(server, f"{path}?token={_token(alice.id)}")

    _check_error(nothing, 401, "not_authenticated")
    for answer in (empty, *refused.values(), by_header, by_entry, both):
        assert answer.status == 401, refused
        _check_error(answer, 401, answer.json()["code"])
    assert {answer.json()["code"] for answer in refused.values()} == {"invalid_token"}
    for answer in (nothing, *refused.values()):
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert good.status == 101


async def test_no_stranger_learns_whether_a_conversation_exists(server: Server) -> None:
    with trio.fail_after(60):
        _, conversation, path = await _alice_alone(server)
        mallory = await Person.register(server.base_url, "mallory")
        query = f"?token={mallory.token}"

        not_a_member = await _handshake(server, path + query)
        unknown = await _handshake(server, f"/api/chat/ws/{IdSource()()}{query}")
        malformed = [
            await _handshake(server, f"/api/chat/ws/{text}{query}")
            for text in ("conv-123", "%00", "%ED%A0%80", "0", "'%20OR%201=1", "a" * 5_000, "{" + conversation + "}")
        ]

    _check_error(not_a_member, 403, "not_a_member")

    ids = {"date", "x-request-id"}

    def without_date(answer: Answer) -> Answer:
        return Answer(answer.status, {k: v for k, v in answer.headers.items() if k not in ids}, answer.body)

    for answer in (unknown, *malformed):
        assert without_date(answer) == without_date(not_a_member)


@pytest.mark.parametrize("token", ["", "nonsense"])
async def test_who_has_no_token_learns_nothing_of_conversations_either(server: Server, token: str) -> None:
    with trio.fail_after(60):
        _, conversation, _ = await _alice_alone(server)
        answers = [
            await _handshake(server, f"/api/chat/ws/{text}?token={token}")
            for text in (conversation, str(IdSource()()), "conv-123")
        ]
    assert len({(answer.status, answer.body) for answer in answers}) == 1
    assert answers[0].status == 401


async def test_pages_of_the_own_and_of_listed_origins_may_connect_and_no_others(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(PULSE_ALLOWED_ORIGINS="https://app.example, http://other.example:8080")
    host = f"127.0.0.1:{server.port}"
    allowed = [
        f"http://{host}",
        f"https://{host}",  # a proxy may have ended TLS
        "https://app.example",
        "http://other.example:8080",
        "HTTPS://APP.example",
    ]
    refused = [
        "null",
        "",
        "https://evil.example",
        "https://app.example.evil.example",
        "https://evil-app.example",
        "https://app.example:8443",
        "http://app.example",
        "http://other.example",
        "https://app.example/",
        "https://app.example@evil.example",
        f"http://127.0.0.1:{server.port + 1}",
        f"http://127.0.0.1:{server.port}.evil.example",
        f"http://evil.example/{host}",
        f"http://user@{host}",
        f"file://{host}",
        f"http://{host}/",
        f"http://{host} https://evil.example",
        "http://[",
    ]
    with trio.fail_after(60):
        alice, _, path = await _alice_alone(server)
        url = f"{path}?token={alice.token}"
        for origin in allowed:
            answer = await _handshake(server, url, ("Host", host), ("Origin", origin))
            assert answer.status == 101, origin
        for origin in refused:
            answer = await _handshake(server, url, ("Host", host), ("Origin", origin))
            assert answer.status == 403, origin
            _check_error(answer, 403, "origin_not_allowed")
        no_browser = await _handshake(server, url, ("Host", host))
        assert no_browser.status == 101
        # A stranger's page does not even learn whether a token is good.
        answer = await _handshake(server, path, ("Host", host), ("Origin", "https://evil.example"))
        assert answer.status == 403


async def test_two_origin_headers_are_refused(server: Server) -> None:
    host = f"127.0.0.1:{server.port}"
    with trio.fail_after(60):
        alice, _, path = await _alice_alone(server)
        for origins in (("https://evil.example", f"http://{host}"), (f"http://{host}", "https://evil.example")):
            headers = [("Host", host), *(("Origin", origin) for origin in origins)]
            answer = await _handshake(server, f"{path}?token={alice.token}", *headers)
            assert answer.status in {400, 403}, origins


@pytest.mark.parametrize(
    "key",
    [
        None,
        "",
        "abc",
        "not base64 at all!",
        base64.b64encode(b"fifteen bytes!!").decode(),
        base64.b64encode(b"seventeen bytes!!").decode(),
        GOOD_KEY.rstrip("="),
        GOOD_KEY + "====",
        "\xe9" * 24,
    ],
)
async def test_a_bad_key_is_refused_with_400(shared_server: Server, key: str | None) -> None:
    with trio.fail_after(60):
        alice, _, path = await _alice_alone(shared_server)
        answer = await _handshake(shared_server, f"{path}?token={alice.token}", key=key)
    assert answer.status == 400


@pytest.mark.parametrize("version", [None, "", "8", "12", "14", "13, 8", "13x"])
async def test_another_version_is_refused_with_400_and_told_the_right_one(
    shared_server: Server, version: str | None
) -> None:
    with trio.fail_after(60):
        alice, _, path = await _alice_alone(shared_server)
        answer = await _handshake(shared_server, f"{path}?token={alice.token}", version=version)
    assert answer.status == 400
    assert answer.headers["sec-websocket-version"] == "13"


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("POST {path} HTTP/1.1", {400, 404, 405, 426}),
        ("GET {path} HTTP/1.0", {400, 404, 426}),
    ],
)
async def test_an_upgrade_that_is_no_get_of_http_1_1_is_refused(
    shared_server: Server, request_line: str, status: set[int]
) -> None:
    with trio.fail_after(60):
        alice, _, path = await _alice_alone(shared_server)
        data = upgrade_request(f"{path}?token={alice.token}")
        _, _, rest = data.partition(b"\r\n")
        first = request_line.format(path=f"{path}?token={alice.token}").encode()
        async with open_raw(shared_server.port) as client:
            answer = await client.request(first + b"\r\n" + rest)
    assert answer.status in status


async def test_huge_headers_are_refused(server: Server) -> None:
    with trio.fail_after(60):
        alice, _, path = await _alice_alone(server)
        url = f"{path}?token={alice.token}"
        for headers in ([("X-Padding", "x" * 40_000)], [(f"X-Padding-{n}", "x" * 100) for n in range(400)]):
            async with open_raw(server.port) as client:
                await client.send_some(upgrade_request(url, headers))
                answer = await client.read_answer()
            assert answer.status in {400, 431}
            assert set(answer.json()) == {"code", "message"}
        assert (await _handshake(server, url)).status == 101


async def test_a_plain_request_to_a_websocket_route_gets_a_json_error(server: Server) -> None:
    with trio.fail_after(60):
        alice, conversation, path = await _alice_alone(server)
        for address in (path, "/api/chat/ws"):
            answer = await alice.api.get(address)
            assert (answer.status_code, answer.json()["code"]) == (426, "upgrade_required")
            assert answer.headers["Upgrade"] == "websocket"
            assert "proxy" in answer.json()["message"]
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            answer = await alice.api.request(method, path)
            assert answer.status_code in {400, 404, 405, 426}, method
            assert set(answer.json()) >= {"code", "message"}, method
        elsewhere = await _handshake(server, f"/api/chat/{conversation}")
        rest_route = await _handshake(server, "/api/auth/me", ("Authorization", f"Bearer {alice.token}"))
    for refused in (elsewhere, rest_route):
        assert refused.status in {400, 404, 405}
        assert set(refused.json()) >= {"code", "message"}


async def test_a_session_does_not_pass_over_where_a_client_wants_to_go_on(server: Server) -> None:
    with trio.fail_after(60):
        alice, _, _ = await _alice_alone(server)
        for name in ("after", "epoch"):
            answer = await _handshake(server, f"/api/chat/ws?token={alice.token}&{name}=3")
            assert (answer.status, answer.json()["code"], answer.json()["field"]) == (422, "invalid_field", name)
            assert "resume" in answer.json()["message"]


async def test_no_token_is_ever_in_the_log(server: Server) -> None:
    with trio.fail_after(60):
        alice, conversation, path = await _alice_alone(server)
        mallory = await Person.register(server.base_url, "mallory")
        tokens = [alice.token, mallory.token, _token(alice.id, expires_in=-1), _token(str(IdSource()()))]
        for token in tokens:
            await _handshake(server, f"{path}?token={token}")
            await _handshake(server, path, ("Authorization", f"Bearer {token}"))
            await _handshake(server, path, ("Sec-WebSocket-Protocol", f"pulse.v1, bearer.{token}"))
            await _handshake(server, f"/no/such/path?token={token}")
            await _handshake(server, f"{path}?token={token}", key="bad")
            await Api(server.base_url, {"Authorization": f"Bearer {token}"}).get(
                f"/api/chat/conversations?token={token}"
            )
            async with open_raw(server.port) as client:  # one that fails in the middle
                await client.send(upgrade_request(f"{path}?token={token}") + b"\x00\xff\x00")
                await client.wait_gone()
        async with alice.connect(conversation) as chat:
            await chat.send({"type": "message", "content": "hello"})
            await chat.receive_type("message")
    server.stop()
    for token in tokens:
        assert token not in server.output
        assert token.rpartition(".")[2] not in server.output  # the signature, which makes it one
