"""Errors over REST on the real process: one shape, no details of the service, no harm to it."""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import psycopg
import pytest
import trio
import trio.testing

from pulse_trio.app import create_app, open_service
from pulse_trio.errors import ErrorCode
from pulse_trio.settings import Settings
from pulse_trio.store.base import Conversation
from pulse_trio.store.memory import MemoryStore
from tests.support.client import PASSWORD, Api, Person
from tests.support.raw import Answer, open_raw
from tests.support.server import SECRET, Server

REGISTER, LOGIN, CONVERSATIONS = "/api/auth/register", "/api/auth/login", "/api/chat/conversations"
CODES = {code.code: code.status for code in ErrorCode}


@pytest.fixture(scope="module")
def shared(cluster: Any) -> Iterator[Server]:
    """A server for tests that leave nothing behind that affects others."""
    server = Server(
        {
            "DATABASE_URL": cluster.new_database(),
            "PULSE_ALLOWED_ORIGINS": "https://app.example, http://localhost:3000",
            "PULSE_BODY_TIMEOUT": "1.5",
            "PULSE_MAX_BODY_BYTES": "8192",
        }
    )
    try:
        yield server.wait_ready()
    finally:
        server.stop()


@pytest.fixture
async def person(shared: Server) -> Person:
    with trio.fail_after(30):
        return await Person.register(shared.base_url, f"user{uuid4().hex[:12]}")


def check_error(answer: Any, status: int, code: str, field: str | None = None) -> None:
    """Checks the shape and the headers of an error."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"code", "message"} | ({"field"} if field is not None else set())
    assert (body["code"], body.get("field")) == (code, field)
    assert isinstance(body["message"], str)
    assert body["message"]
    assert CODES[code] == status
    assert answer.headers["Content-Type"] == "application/json"
    check_headers(answer)


def check_headers(answer: Any) -> None:
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Origin" in answer.headers["Vary"]
    assert "Set-Cookie" not in answer.headers
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/app", 404, "not_found"),
        ("GET", "/app/nothing.js", 404, "not_found"),
        ("GET", "/app/..%2findex.html", 404, "not_found"),
        ("POST", "/", 405, "method_not_allowed"),
        ("GET", "/api", 404, "not_found"),
        ("POST", "/nothing/here", 404, "not_found"),
        ("GET", "/static/../../etc/passwd", 404, "not_found"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404, "not_found"),
        ("GET", "/docs/../pulse_trio/app.py", 404, "not_found"),
        ("GET", "/api/%00", 404, "not_found"),
        ("GET", "/api/%ff%fe", 404, "not_found"),
        ("GET", "/api/%ED%A0%80", 404, "not_found"),
        ("GET", "/" + "a" * 10_000, 404, "not_found"),
        ("GET", REGISTER, 405, "method_not_allowed"),
        ("PUT", "/api/auth/me", 405, "method_not_allowed"),
        ("DELETE", CONVERSATIONS, 405, "method_not_allowed"),
        ("TRACE", LOGIN, 405, "method_not_allowed"),
        ("BREW", LOGIN, 405, "method_not_allowed"),
        ("POST", "/openapi.json", 405, "method_not_allowed"),
    ],
)
async def test_an_unknown_address_or_method_has_the_error_shape(
    shared: Server, method: str, path: str, status: int, code: str
) -> None:
    with trio.fail_after(30):
        answer = await Api(shared.base_url).request(method, path)
        check_error(answer, status, code)
        if status == 405:
            allowed = {name.strip() for name in answer.headers["Allow"].split(",")}
            assert "OPTIONS" in allowed
            assert method not in allowed


async def test_a_websocket_address_without_an_upgrade_has_the_error_shape(shared: Server, person: Person) -> None:
    with trio.fail_after(30):
        answer = await person.api.get(f"/api/chat/ws/{uuid4()}")
        assert 400 <= answer.status_code < 500
        check_error(answer, answer.status_code, answer.json()["code"])


async def test_head_is_accepted(shared: Server, person: Person) -> None:
    with trio.fail_after(30):
        head = await person.api.request("HEAD", "/api/auth/me")
        assert (head.status_code, head.content) == (200, b"")


INVALID_JSON = {
    "empty": b"",
    "space": b" \n",
    "open": b"{",
    "words": b"username=ada&password=x",
    "single quotes": b"{'username': 'ada'}",
    "comma": b'{"username": "ada",}',
    "two": b"{}{}",
    "comment": b"{} // x",
    "not UTF-8": b'{"username": "\xff"}',
    "UTF-16": '{"username": "ada"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"username": "ada"}',
    "NaN": b'{"username": NaN}',
    "Infinity": b'{"username": -Infinity}',
    "huge exponent": b'{"username": 1e999}',
    "5000 digits": b'{"username": ' + b"9" * 5_000 + b"}",
    "repeated name": b'{"username": "a", "username": "b"}',
    "repeated name by escape": b'{"username": "a", "user\\u006eame": "b"}',
    "nested arrays": b"[" * 8_000,
    "nested objects": b'{"a":' * 1_600,
    "raw control character": b'{"username": "a\nb"}',
}


@pytest.mark.parametrize("body", INVALID_JSON.values(), ids=INVALID_JSON.keys())
@pytest.mark.parametrize("path", [REGISTER, CONVERSATIONS])
async def test_a_body_that_is_not_strict_json_is_rejected(
    shared: Server, person: Person, path: str, body: bytes
) -> None:
    with trio.fail_after(30):
        answer = await person.api.post(path, content=body, headers={"Content-Type": "application/json"})
        check_error(answer, 400, "invalid_json")


@pytest.mark.parametrize("value", [[], [{}], None, 7, "text", True, [["username", "ada"]]], ids=repr)
@pytest.mark.parametrize("path", [REGISTER, LOGIN, CONVERSATIONS])
async def test_a_body_must_be_an_object(shared: Server, person: Person, path: str, value: object) -> None:
    with trio.fail_after(30):
        headers = {"Content-Type": "application/json"}
        answer = await person.api.post(path, content=json.dumps(value).encode(), headers=headers)
        check_error(answer, 422, "invalid_field")


@pytest.mark.parametrize(
    "kind",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json",
     "application/jsonp", "application/xml"],
)  # fmt: skip
async def test_a_body_of_another_type_is_rejected(shared: Server, kind: str | None) -> None:
    # A browser sends some of these types to other sites without a preflight, so they must have no effect.
    with trio.fail_after(30):
        body = json.dumps({"username": f"u{uuid4().hex[:10]}", "password": PASSWORD}).encode()
        headers = {} if kind is None else {"Content-Type": kind}
        answer = await Api(shared.base_url).post(REGISTER, content=body, headers=headers)
        check_error(answer, 415, "unsupported_media_type")
        fine = await Api(shared.base_url).post(
            REGISTER, content=body, headers={"Content-Type": "Application/JSON; charset=utf-8"}
        )
        assert fine.status_code == 201


# --- Sizes and times of bodies ---


def post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """Returns a request as bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: chat.example", "Content-Type: application/json", *headers]
    if not any(line.lower().startswith("transfer-encoding") for line in headers):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


GET_ME = b"GET /api/auth/me HTTP/1.1\r\nHost: chat.example\r\n\r\n"


def code_of(answer: Answer) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) >= {"code", "message"}
    return answer.status, answer.json()["code"]


async def test_a_body_over_the_limit_is_rejected_in_every_form(shared: Server) -> None:
    with trio.fail_after(60):
        too_large = (413, "too_large")
        # By its Content-Length, before any of it arrives.
        async with open_raw(shared.port) as client:
            assert code_of(await client.request(post(REGISTER, b"", length=8_193))) == too_large
        async with open_raw(shared.port) as client:
            assert code_of(await client.request(post(REGISTER, b"", length=10**15))) == too_large
        # In endless chunks.
        async with open_raw(shared.port) as client:
            chunk = b"400\r\n" + b" " * 1_024 + b"\r\n"
            await client.send(post(REGISTER, chunk * 9, "Transfer-Encoding: chunked"))
            assert code_of(await client.read_answer()) == too_large
        # A body of exactly the limit is accepted.
        body = json.dumps({"username": "x y", "password": PASSWORD}).encode()
        async with open_raw(shared.port) as client:
            assert code_of(await client.request(post(REGISTER, body.ljust(8_192)))) == (422, "invalid_field")
        async with open_raw(shared.port) as client:
            assert code_of(await client.request(post(REGISTER, body.ljust(8_193)))) == too_large


async def test_a_body_that_does_not_arrive_times_out(shared: Server) -> None:
    with trio.fail_after(60):
        async with open_raw(shared.port) as client:
            answer = await client.request(post(REGISTER, b'{"user', length=100))
            assert code_of(answer) == (408, "request_timeout")
            assert answer.headers["connection"] == "close"
        # A byte now and then does not extend the time.
        async with open_raw(shared.port) as client, trio.open_nursery() as nursery:

            async def drip() -> None:
                while await client.send_some(b" "):  # noqa: ASYNC110  # the client pauses between bytes
                    await trio.sleep(0.1)

            await client.send(post(REGISTER, b"", length=8_000))
            nursery.start_soon(drip)
            assert code_of(await client.read_answer()) == (408, "request_timeout")
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("POST /nothing HTTP/1.1", 404),
        ("PUT /api/auth/login HTTP/1.1", 405),
        ("POST /api/chat/conversations HTTP/1.1", 401),
        ("GET /api/auth/me HTTP/1.1", 401),
        ("POST /api/auth/login HTTP/1.1\r\nContent-Type: text/plain", 415),
    ],
)
async def test_a_connection_stays_usable_after_an_unread_body(shared: Server, head: str, status: int) -> None:
    """Clients send the body after the head, and use the connection again."""
    with trio.fail_after(30):
        async with open_raw(shared.port) as client:
            for _ in range(3):
                await client.send(f"{head}\r\nHost: chat.example\r\nContent-Length: 8\r\n\r\n".encode())
                await trio.testing.wait_all_tasks_blocked(0.05)  # so that head and body arrive in separate packets
                await client.send(b'{"a": 1}')
                assert (await client.read_answer()).status == status
                assert (await client.request(GET_ME)).status == 401


async def test_an_answer_waits_only_briefly_for_an_unread_body(shared: Server) -> None:
    with trio.fail_after(30):
        async with open_raw(shared.port) as client:
            answer = await client.request(post("/nothing", b"", length=100))
            assert code_of(answer) == (404, "not_found")
            assert answer.headers["connection"] == "close"


# --- Request smuggling ---

SMUGGLED = b"GET /api/auth/me HTTP/1.1\r\nHost: chat.example\r\n\r\n"
BROKEN = {
    "both lengths": b"POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
    "list of lengths": b"POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 5\r\n\r\nabcd",
    "signed length": b"POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd",
    "unknown transfer encoding": b"POST /api/auth/login HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "space before colon": b"GET /api/auth/me HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n",
    "NUL in a header": b"GET /api/auth/me HTTP/1.1\r\nHost: a\r\nX-A: a\x00b\r\n\r\n",
    "NUL in the target": b"GET /api/auth/me\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "no host": b"GET /api/auth/me HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /api/auth/me HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "first line folded": b"GET /api/auth/me HTTP/1.1\r\n Host: a\r\n\r\n",
    "no version": b"GET /api/auth/me\r\n\r\n",
    "binary": bytes(range(128, 256)) + b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", BROKEN.values(), ids=BROKEN.keys())
async def test_an_ambiguous_request_is_rejected_and_its_connection_closed(shared: Server, request_bytes: bytes) -> None:
    with trio.fail_after(30):
        async with open_raw(shared.port) as client:
            assert await client.send_some(request_bytes + SMUGGLED)
            answer = await client.read_answer()
            assert 400 <= answer.status < 600
            assert answer.status not in {401, 404}, "it was accepted as a request"
            with pytest.raises(EOFError):
                await client.read_answer()


async def test_chunks_override_a_content_length(shared: Server) -> None:
    """RFC 9112, section 6.3: the chunks end the body, so nothing after it can be hidden in it."""
    with trio.fail_after(30):
        async with open_raw(shared.port) as client:
            body = b"0\r\n\r\n"
            head = "POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            head += f"Content-Length: {len(body + SMUGGLED)}\r\nTransfer-Encoding: chunked\r\n\r\n"
            assert await client.send_some(head.encode() + body)
            first = await client.read_answer()
            assert first.status == 400


@pytest.mark.parametrize("count", [5_000, 50_000])
async def test_endless_headers_are_rejected(shared: Server, count: int) -> None:
    with trio.fail_after(60):
        async with open_raw(shared.port) as client, trio.open_nursery() as nursery:
            lines = b"".join(b"X-%d: %s\r\n" % (n, b"v" * 20) for n in range(count))
            nursery.start_soon(client.send_some, b"GET /api/auth/me HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n")
            answer = await client.read_answer()
            assert answer.status in {400, 431}
            nursery.cancel_scope.cancel()
        async with open_raw(shared.port) as client:
            assert (await client.request(GET_ME)).status == 401


# --- Text ---

NUL, SURROGATE, REVERSED = "a\x00b", "a\ud800b", "\udc00\ud800"


def escaped(value: object) -> bytes:
    return json.dumps(value).encode()  # ASCII, with lone surrogates as escapes


@pytest.mark.parametrize("text", [NUL, SURROGATE, REVERSED], ids=["NUL", "lone surrogate", "reversed pair"])
async def test_text_that_cannot_be_stored_is_rejected_in_every_field(shared: Server, person: Person, text: str) -> None:
    with trio.fail_after(60):
        group = await person.create_group()
        path = f"{CONVERSATIONS}/{group}"
        async with person.connect(group) as chat:
            await chat.send({"type": "message", "content": "x"})
            message = (await chat.receive_type("message"))["message_id"]
        wanted = [
            ("POST", REGISTER, {"username": text, "password": PASSWORD}, "username"),
            ("POST", REGISTER, {"username": "fine", "password": PASSWORD + text}, "password"),
            ("POST", LOGIN, {"username": text, "password": PASSWORD}, "username"),
            ("POST", LOGIN, {"username": "fine", "password": PASSWORD + text}, "password"),
            ("POST", CONVERSATIONS, {"is_group": True, "name": text}, "name"),
            ("POST", CONVERSATIONS, {"is_group": True, "description": text}, "description"),
            ("POST", CONVERSATIONS, {"is_group": True, "participant_ids": [text]}, "participant_ids"),
            ("PATCH", path, {"name": text}, "name"),
            ("PATCH", path, {"description": text}, "description"),
            ("POST", f"{path}/members", {"user_ids": [text]}, "user_ids"),
            ("POST", f"{path}/messages", {"content": text}, "content"),
            ("POST", f"{path}/messages", {"content": "x", "client_id": text}, "client_id"),
            ("PATCH", f"{path}/messages/{message}", {"content": text}, "content"),
            ("PATCH", f"{path}/messages/{message}", {"content": "x", "if_rev": text}, "if_rev"),
            ("PUT", f"{path}/read", {"seq": text}, "seq"),
            ("POST", "/api/chat/ws-ticket", {"conversation_id": text}, "conversation_id"),
        ]
        document = (await Api(shared.base_url).get("/openapi.json")).json()
        fields = {
            (operation["operationId"], name)
            for item in document["paths"].values()
            for operation in item.values()
            if "requestBody" in operation
            for name, schema in document["components"]["schemas"][
                operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            ]["properties"].items()
            if schema.get("type") != "boolean"
        }
        assert len(fields) == len(wanted), "a field with text is not tried"
        for method, address, body, field in wanted:
            answer = await person.api.request(
                method, address, content=escaped(body), headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 422, (address, field, answer.text)
            assert answer.json()["field"] == field
            assert "\x00" not in answer.text
        # The name of a field is checked, too.
        answer = await person.api.post(
            CONVERSATIONS, content=escaped({"is_group": True, text: 1}), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in {201, 422}, answer.text
        for body in ({text: {text: [text]}}, {"username": {text: text}}, {"password": text, "username": [text]}):
            answer = await person.api.post(
                REGISTER, content=escaped(body), headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("raw", ["%00", "a%00b", "%ED%A0%80", "%FF", "%C3%28", "%", "%zz", "%u0000"])
async def test_broken_text_in_addresses_causes_no_500(shared: Server, person: Person, raw: str) -> None:
    with trio.fail_after(60):
        group = await person.create_group()
        for path in (
            f"{CONVERSATIONS}/{raw}",
            f"{CONVERSATIONS}/{group}{raw}",
            f"{CONVERSATIONS}/{raw}/messages",
            f"/api/users?query={raw}",
            f"/api/users?{raw}=1",
            f"/api/users?limit={raw}",
            f"{CONVERSATIONS}/{group}/messages?before_seq={raw}",
        ):
            async with open_raw(shared.port) as client:
                head = f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {person.token}\r\n\r\n"
                answer = await client.request(head.encode())
            # Invalid bytes in a query are replaced, so they match nobody.
            if "?query=" in path or path.endswith("=1"):
                assert answer.status in {200, 422}, (path, answer)
            else:
                assert answer.status in {400, 404, 422}, (path, answer)
            if answer.status == 200:
                assert isinstance(answer.json()["users"], list)
            else:
                code_of(answer)


async def test_an_id_in_a_path_is_a_uuid_in_any_case(shared: Server, person: Person) -> None:
    with trio.fail_after(60):
        group = await person.create_group()
        found = await person.api.get(f"{CONVERSATIONS}/{group}")
        assert found.status_code == 200
        assert (await person.api.get(f"{CONVERSATIONS}/{group.upper()}")).json() == found.json()
        wrong = [
            "conv-123", "1", "-1", "null", "me", "..", "%2e%2e", "{" + group + "}", f"urn:uuid:{group}",
            group.replace("-", ""), group[:-1], group + "0", f" {group}", f"{group}%20", f"{group}%0a",
            group.replace("0", "٠"), "0" * 36, "a" * 10_000, "' OR '1'='1", "1; DROP TABLE users", str(UUID(int=0)),
        ]  # fmt: skip
        for one in wrong:
            quoted = one if "%" in one else quote(one, safe="")
            for suffix in ("", "/messages"):
                answer = await person.api.get(f"{CONVERSATIONS}/{quoted}{suffix}")
                check_error(answer, 404, "not_found")


PAYLOADS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; DROP TABLE messages; --",
    "' OR '1'='1",
    "\\'; SELECT pg_sleep(10); --",
    "%s %(x)s {0} ${jndi:ldap://x}",
    "</script><!--\u2028\u2029",
    "=cmd|' /C calc'!A0",
    "\u202eevil\u202c \u200b\ufeff",
    "e\u0301 \u00e9 \U0001f469\u200d\U0001f680",
    "\\u0000 \\x00 \x01\x1f\x7f",
]


async def test_payloads_are_stored_and_returned_unchanged(shared: Server, person: Person) -> None:
    with trio.fail_after(60):
        group = await person.create_group()
        path = f"{CONVERSATIONS}/{group}"
        async with person.connect(group) as chat:
            for payload in PAYLOADS:
                await chat.send({"type": "message", "content": payload})
                assert (await chat.receive_type("message"))["content"] == payload
        answer = await person.api.get(f"{path}/messages")
        assert [message["content"] for message in answer.json()["messages"]] == PAYLOADS[::-1]
        assert answer.headers["Content-Type"] == "application/json"
        check_headers(answer)
        newest = answer.json()["messages"][0]["id"]
        for payload in PAYLOADS:
            renamed = await person.api.patch(path, json={"name": payload, "description": payload})
            assert (renamed.json()["name"], renamed.json()["description"]) == (payload, payload)
            assert (await person.api.get(path)).json()["name"] == payload
            edited = await person.api.patch(f"{path}/messages/{newest}", json={"content": payload})
            assert edited.json()["content"] == payload
            found = await person.api.get("/api/users", params={"query": payload[:32]})
            assert (found.status_code, found.json()["users"]) == (200, [])


# --- Web pages of other sites ---


async def test_only_listed_origins_may_read_answers(shared: Server, person: Person) -> None:
    with trio.fail_after(60):
        for origin in ("https://app.example", "http://localhost:3000"):
            for path, status in (("/api/auth/me", 200), ("/nothing", 404)):
                answer = await person.api.get(path, headers={"Origin": origin})
                assert answer.status_code == status
                assert answer.headers["Access-Control-Allow-Origin"] == origin
                assert "Access-Control-Allow-Credentials" not in answer.headers
            preflight = await Api(shared.base_url).request(
                "OPTIONS",
                CONVERSATIONS,
                headers={
                    "Origin": origin,
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "authorization, content-type",
                },
            )
            assert preflight.status_code == 200
            assert preflight.headers["Access-Control-Allow-Origin"] == origin
            methods = preflight.headers["Access-Control-Allow-Methods"].replace(" ", "").split(",")
            assert {"GET", "POST", "PATCH", "DELETE"} <= set(methods)
            headers = preflight.headers["Access-Control-Allow-Headers"].lower().replace(" ", "").split(",")
            assert set(headers) == {"authorization", "content-type", "x-request-id"}


@pytest.mark.parametrize(
    "origin",
    ["null", "*", "", "https://app.example.evil.example", "https://evil-app.example", "https://app.example:8443",
     "http://app.example", "https://app.example/", "https://app.example@evil.example", "https://sub.app.example",
     "http://localhost:30000", "http://localhost", "https://app.example, https://evil.example", "file://",
     "https://app.example\\.evil.example", "HTTPS//app.example"],
)  # fmt: skip
async def test_other_origins_get_no_cors_headers(shared: Server, person: Person, origin: str) -> None:
    with trio.fail_after(60):
        for method, path in (("GET", "/api/auth/me"), ("OPTIONS", CONVERSATIONS), ("GET", "/nothing")):
            answer = await person.api.request(
                method, path, headers={"Origin": origin, "Access-Control-Request-Method": "POST"}
            )
            assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
            assert "Origin" in answer.headers["Vary"]


# --- Faults of the service ---

LEAKS = ("Traceback", "psycopg", "SELECT", "UPDATE", "relation", 'File "', ".py", "RuntimeError", "secret detail")


async def test_a_database_without_tables_is_a_503_without_details(
    start_server: Callable[..., Server], database: str
) -> None:
    server = start_server()
    with trio.fail_after(60):
        person = await Person.register(server.base_url, "ada")
        group = await person.create_group()
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("ALTER TABLE conversations RENAME TO elsewhere")
        for path in (CONVERSATIONS, f"{CONVERSATIONS}/{group}", f"{CONVERSATIONS}/{group}/messages"):
            answer = await person.api.get(path)
            check_error(answer, 503, "unavailable")
            assert int(answer.headers["Retry-After"]) > 0
            assert not [leak for leak in LEAKS if leak in answer.text]
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("ALTER TABLE elsewhere RENAME TO conversations")
        assert (await person.api.get(f"{CONVERSATIONS}/{group}/messages")).status_code == 200


class FaultyStore(MemoryStore):
    """A store that raises an error outside of its contract."""

    async def get_conversation(self, conversation_id: UUID, user_id: UUID) -> Conversation | None:
        raise RuntimeError("secret detail: SELECT * FROM users")


async def test_an_internal_error_is_a_500_without_details() -> None:
    @asynccontextmanager
    async def open_store() -> AsyncIterator[MemoryStore]:
        yield FaultyStore()

    app = create_app(Settings.load(secret_key=SECRET), open_store)
    with trio.fail_after(60):
        async with open_service(app):
            client = app.test_client()
            body = {"username": "ada", "password": PASSWORD}
            assert (await client.post(REGISTER, json=body)).status_code == 201
            token = (await (await client.post(LOGIN, json=body)).get_json())["access_token"]
            headers = {"Authorization": f"Bearer {token}"}
            answer = await client.get(f"{CONVERSATIONS}/{uuid4()}", headers=headers)
            text = await answer.get_data(as_text=True)
            assert answer.status_code == 500
            assert set(json.loads(text)) == {"code", "message"}
            assert json.loads(text)["code"] == "internal"
            assert answer.headers["Content-Type"] == "application/json"
            check_headers(answer)
            assert not [leak for leak in LEAKS if leak in text]
            # The next request is served.
            assert (await client.get("/api/auth/me", headers=headers)).status_code == 200


async def test_listed_origins_get_answers_while_the_service_is_closed() -> None:
    """The service is closed while it starts, stops, or reopens after a failover."""

    @asynccontextmanager
    async def open_store() -> AsyncIterator[MemoryStore]:
        yield MemoryStore()

    origin = "https://app.example"
    app = create_app(Settings.load(secret_key=SECRET, allowed_origins=origin), open_store)
    with trio.fail_after(60):
        async with open_service(app):
            pass
        client = app.test_client()
        statuses: dict[tuple[str, str], int] = {}
        for rule in app.url_map.iter_rules():
            path = re.sub("<[^>]*>", str(uuid4()), rule.rule)
            for method in () if rule.websocket else rule.methods or ():
                headers = {"Origin": origin, "Authorization": "Bearer x"}
                body = {"username": "ada", "password": PASSWORD} if method == "POST" else None
                answer = await client.open(path, method=method, headers=headers, json=body)
                statuses[method, path] = answer.status_code
                assert answer.status_code != 500, (method, path)
                assert answer.headers["Access-Control-Allow-Origin"] == origin, (method, path)
                assert ("Retry-After" in answer.headers) == (answer.status_code == 503), (method, path)
        assert statuses["POST", LOGIN] == statuses["GET", "/api/auth/me"] == 503
        assert statuses["GET", "/healthz"] == statuses["OPTIONS", LOGIN] == 200


async def test_secrets_and_messages_are_in_no_output(start_server: Callable[..., Server], database: str) -> None:
    server = start_server()  # at the most verbose log level
    password, content, wrong = "canary-password-5d1f", "canary-message-8a2c", "canary-wrong-77b1"
    with trio.fail_after(60):
        ada = await Person.register(server.base_url, "ada", password)
        group = await ada.create_group(name="canary-name-90fe")
        async with ada.connect(group) as chat:
            await chat.send({"type": "message", "content": content})
            message = (await chat.receive_type("message"))["message_id"]
            await chat.send({"type": "nonsense", "content": content})
            await chat.send("{" + content)
        api = ada.api
        await api.get(f"{CONVERSATIONS}/{group}/messages")
        await api.patch(f"{CONVERSATIONS}/{group}/messages/{message}", json={"content": content + " edited"})
        await api.post(LOGIN, json={"username": "ada", "password": wrong})
        await api.post(REGISTER, json={"username": "ada", "password": password})
        await api.post(REGISTER, json={"username": password})
        await api.post(CONVERSATIONS, content=content.encode(), headers={"Content-Type": "application/json"})
        await api.get("/api/auth/me", params={"token": ada.token})
        await api.get(f"/nothing?token={ada.token}")
        await Api(server.base_url, {"Authorization": f"Bearer {ada.token}x"}).get("/api/auth/me")
        await Api(server.base_url).get(f"/api/chat/ws/{group}?token={ada.token}")
        with psycopg.connect(database, autocommit=True) as connection:  # cause an error that is logged
            connection.execute("ALTER TABLE messages RENAME TO elsewhere")
        await api.patch(f"{CONVERSATIONS}/{group}/messages/{message}", json={"content": content})
        await api.get(f"{CONVERSATIONS}/{group}/messages?token={ada.token}")
    assert server.stop() == 0
    assert server.output, "nothing was logged: this shows nothing"
    _, payload, signature = ada.token.split(".")
    for secret in (ada.token, payload, signature, password, wrong, content, SECRET):
        assert secret not in server.output


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (b"GET /\xd9\xa1 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431, "too_large"),
        (b"nonsense\r\n\r\n", 400, "bad_request"),
    ],
)
async def test_malformed_requests_are_answered_in_json(server: Server, head: bytes, status: int, code: str) -> None:
    with trio.fail_after(60):
        async with open_raw(server.port) as client:
            answer = await client.request(head)
        assert (answer.status, answer.json()["code"], answer.json().keys()) == (status, code, {"code", "message"})


async def test_a_rejected_head_request_has_no_body(server: Server) -> None:
    large = b"X: " + b"x" * 15_000 + b"\r\nY: " + b"y" * 2_000 + b"\r\n"
    with trio.fail_after(60):
        for more, status in ((b"", 200), (large, 431)):
            async with open_raw(server.port) as client:
                await client.send(b"HEAD /docs HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + more + b"\r\n")
                answer = b"".join([piece async for piece in client.stream])
            assert answer.startswith(b"HTTP/1.1 %d " % status), answer
            assert answer.endswith(b"\r\n\r\n"), answer
        assert "Traceback" not in server.output


async def test_a_name_of_white_space_is_rejected(server: Server) -> None:
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        group = await alice.create_group()
        for name in ("", "  ", "\u3000\n"):
            made = await alice.api.post(CONVERSATIONS, json={"is_group": True, "name": name})
            renamed = await alice.api.patch(f"{CONVERSATIONS}/{group}", json={"name": name})
            for answer in (made, renamed):
                assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (
                    422,
                    "invalid_field",
                    "name",
                )


async def test_no_path_is_redirected_to_another(server: Server) -> None:
    """A `Location` would repeat the client's `Host`, without https."""
    with trio.fail_after(60):
        for path in ("/api//auth/me", "//api/auth/me", "/api/auth//me", "//evil.example/", "/docs/", "/docs//"):
            async with open_raw(server.port) as client:
                answer = await client.request(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            assert answer.status in {200, 401, 404}, path
            assert "location" not in answer.headers
