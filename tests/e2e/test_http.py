"""HTTP as the field knows it: whole answers, their common headers, one spelling of an address, names of hosts."""

import gzip
import json
import re
from collections.abc import Callable, Iterator
from uuid import uuid4

import brotli
import pytest
import trio

from tests.support.client import Api, Person
from tests.support.cluster import Cluster
from tests.support.raw import GOOD_KEY, Answer, RawClient, open_raw, upgrade_request
from tests.support.server import Server

Start = Callable[..., Server]

APP = "https://app.example"
LOGIN = "/api/auth/login"


@pytest.fixture(scope="module")
def listed(cluster: Cluster) -> Iterator[Server]:
    """A server for pages of `APP`."""
    conninfo = cluster.new_database()
    server = Server({"DATABASE_URL": conninfo, "PULSE_ALLOWED_ORIGINS": APP})
    try:
        yield server.wait_ready()
    finally:
        server.stop()
        cluster.drop_database(conninfo)


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: chat.example", *headers, "", ""]).encode()


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: chat.example", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


async def ask(server: Server, data: bytes) -> Answer:
    async with open_raw(server.port) as client:
        return await client.request(data)


# --- a client that has sent its last byte ---


async def ask_half_closed(server: Server, data: bytes) -> Answer:
    """Sends a request and FIN at once; the answer, after which the server must end the connection."""
    async with open_raw(server.port) as client:
        await client.send(data)
        await client.stream.send_eof()
        answer = await client.read_answer()
        await client.wait_gone()
        return answer


async def test_a_half_closed_client_gets_the_whole_answer(server: Server) -> None:
    with trio.fail_after(120):
        alice = await Person.register(server.base_url, "alice")
        group = await alice.create_group()
        token = f"Authorization: Bearer {alice.token}"
        document = (await Api(server.base_url).get("/openapi.json")).content
        assert len(document) > 50_000, "not taken in one piece"
        path = f"/api/chat/conversations/{group}/messages"
        for number in range(10):
            assert (await ask_half_closed(server, get("/healthz"))).json() == {"status": "ok"}
            assert (await ask_half_closed(server, get("/openapi.json"))).body == document
            assert (await ask_half_closed(server, get("/api/auth/me", token))).json()["username"] == "alice"
            body = json.dumps({"content": f"message {number}"}).encode()
            assert (await ask_half_closed(server, post(path, body, token))).status == 201
            refused = await ask_half_closed(server, upgrade_request("/api/chat/ws"))
            assert (refused.status, refused.json()["code"]) == (401, "not_authenticated")
        history = await alice.api.get(path)
        assert history.json()["total"] == 10


async def test_a_half_closed_client_gets_the_answers_to_all_its_requests(shared_server: Server) -> None:
    with trio.fail_after(30):
        async with open_raw(shared_server.port) as client:
            await client.send(get("/healthz") * 5)
            await client.stream.send_eof()
            for _ in range(5):
                assert (await client.read_answer()).json() == {"status": "ok"}
            await client.wait_gone()


async def test_an_unfinished_request_of_a_half_closed_client_is_refused(shared_server: Server) -> None:
    with trio.fail_after(30):
        answer = await ask_half_closed(shared_server, post(LOGIN, b"{}")[:-1])
        assert (answer.status, answer.json()["code"]) == (400, "bad_request")


# --- the headers of every answer ---

EARLY = {
    "no HTTP": (b"nonsense\r\nOrigin: https://app.example\r\nX-Request-ID: mine\r\n\r\n", 400),
    "two hosts": (get("/healthz", "Host: b", f"Origin: {APP}", "X-Request-ID: mine"), 400),
    "bad host": (get("/healthz", f"Origin: {APP}", "X-Request-ID: mine").replace(b"chat.example", b"a b"), 400),
    "two lengths": (post(LOGIN, b"{}", f"Origin: {APP}", "X-Request-ID: mine", "Transfer-Encoding: chunked"), 400),
    "large head": (get("/healthz", f"Origin: {APP}", "X-Request-ID: mine", f"X-A: {'a' * 20_000}"), 431),
    "many headers": (get("/healthz", f"Origin: {APP}", "X-Request-ID: mine", *["X-A: a"] * 200), 431),
    "transfer coding": (post(LOGIN, b"", f"Origin: {APP}", "X-Request-ID: mine", "Transfer-Encoding: zip"), 501),
    "method": (get("/healthz", f"Origin: {APP}", "X-Request-ID: mine").replace(b"GET", b"get"), 501),
    "version": (get("/healthz", f"Origin: {APP}", "X-Request-ID: mine").replace(b"HTTP/1.1", b"HTTP/1.2"), 505),
    "handshake": (upgrade_request("/api/chat/ws", [("Origin", APP), ("X-Request-ID", "mine")], key="bad"), 400),
    "no token": (upgrade_request("/api/chat/ws", [("Origin", APP), ("X-Request-ID", "mine")]), 401),
    "no upgrade": (get("/api/chat/ws", f"Origin: {APP}", "X-Request-ID: mine"), 426),
    "nothing there": (get("/nothing", f"Origin: {APP}", "X-Request-ID: mine"), 404),
    "large body": (post(LOGIN, b" " * 70_000, f"Origin: {APP}", "X-Request-ID: mine"), 413),
}


def check_headers(answer: Answer, origin: str | None, request_id: str | None) -> None:
    headers = answer.headers
    assert headers.get("access-control-allow-origin") == origin
    assert ("retry-after" in headers.get("access-control-expose-headers", "").lower()) is (origin is not None)
    assert "Origin" in headers["vary"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    if request_id is None:
        assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])
    else:
        assert headers["x-request-id"] == request_id
    assert set(answer.json()) >= {"code", "message"}


@pytest.mark.parametrize(("request_bytes", "status"), EARLY.values(), ids=EARLY.keys())
async def test_every_answer_has_the_common_headers(listed: Server, request_bytes: bytes, status: int) -> None:
    with trio.fail_after(30):
        answer = await ask(listed, request_bytes)
        assert answer.status == status
        check_headers(answer, APP, "mine")
        other = request_bytes.replace(APP.encode(), b"https://evil.example").replace(b": mine", b": a b")
        answer = await ask(listed, other)
        assert answer.status == (403 if status == 401 else status), "a page elsewhere may not connect"
        check_headers(answer, None, None)


async def test_answers_to_those_over_a_limit_have_the_common_headers(start_server: Start) -> None:
    headers = (f"Origin: {APP}", "X-Request-ID: mine")
    server = start_server(
        PULSE_ALLOWED_ORIGINS=APP, PULSE_REQUESTS_PER_SECOND="1", PULSE_REQUESTS_BURST="5", PULSE_BODY_TIMEOUT="0.2"
    )
    with trio.fail_after(60):
        late = await ask(server, post(LOGIN, b"{}", *headers)[:-1])
        assert late.status == 408
        check_headers(late, APP, "mine")
        async with open_raw(server.port) as client:
            while (answer := await client.request(get("/api/auth/me", *headers))).status == 401:
                pass
            assert (answer.status, answer.json()["code"]) == (429, "rate_limited")
            check_headers(answer, APP, "mine")
        while (answer := await ask(server, get("/api/auth/me", *headers))).status == 401:
            pass  # now it is judged before its request is read
        assert (answer.status, answer.json()["code"]) == (429, "rate_limited")
        check_headers(answer, APP, "mine")


async def test_only_handshakes_hold_a_place_of_an_address_behind_a_proxy(start_server: Start) -> None:
    """The proxy keeps its connection for the requests of others: what is held on it would stay."""
    server = start_server(PULSE_TRUSTED_PROXIES="1", PULSE_CONNECTIONS_PER_ADDRESS="2")
    forwarded = "X-Forwarded-For: 203.0.113.9"
    with trio.fail_after(60):
        async with open_raw(server.port) as proxied, open_raw(server.port) as other:
            for _ in range(5):
                answer = await proxied.request(get("/healthz", forwarded, f"Sec-WebSocket-Key: {GOOD_KEY}"))
                assert answer.status == 200
            handshake = upgrade_request("/api/chat/ws", [("X-Forwarded-For", "203.0.113.9")])
            assert (await other.request(handshake)).status == 401  # it has no token; not 429


@pytest.mark.one_process
async def test_answers_of_a_full_server_have_the_common_headers(start_server: Start) -> None:
    headers = (f"Origin: {APP}", "X-Request-ID: mine")
    server = start_server(PULSE_ALLOWED_ORIGINS=APP, PULSE_MAX_CONNECTIONS="1")
    with trio.fail_after(60):
        async with open_raw(server.port) as client:
            assert (await client.request(get("/healthz"))).status == 200
            answer = await ask(server, get("/api/auth/me", *headers))
            assert (answer.status, answer.json()["code"]) == (503, "unavailable")
            check_headers(answer, APP, "mine")
            alive = await ask(server, get("/healthz", *headers))
            assert alive.json() == {"status": "ok"}
            assert alive.headers["access-control-allow-origin"] == APP


async def test_each_pipelined_request_has_its_own_id_and_origin(listed: Server) -> None:
    """Also one that cannot be read, whose bytes came while the one before was being answered."""
    body = b'{"username": "nobody", "password": "wrong password"}'
    good = [
        get("/healthz", "X-Request-ID: good"),
        post(LOGIN, body, "X-Request-ID: good", "Origin: https://evil.example"),
    ]
    bad = get("/healthz", f"Origin: {APP}", "X-Request-ID: bad", "no header")
    with trio.fail_after(60):
        for first in good:
            for data in ([first + bad], [first + bad[:-20], bad[-20:]], [first, bad]):
                async with open_raw(listed.port) as client:
                    for piece in data:
                        await client.send(piece)
                    answers = [await client.read_answer() for _ in range(2)]
                assert [answer.headers["x-request-id"] for answer in answers] == ["good", "bad"]
                assert answers[1].status == 400
                check_headers(answers[1], APP, "bad")


async def test_lines_about_a_pipelined_request_do_not_have_the_id_of_the_one_before(start_server: Start) -> None:
    server = start_server(PULSE_REQUESTS_PER_SECOND="1", PULSE_REQUESTS_BURST="2", PULSE_LOG_FORMAT="json")
    with trio.fail_after(60):
        async with open_raw(server.port) as client:
            assert (await client.request(get("/healthz", "X-Request-ID: first"))).status == 200
            await client.send(b"GET /healthz HTTP/1.1\r\nX-A: ")
            answer = trio.Event()
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    assert (await client.read_answer()).status == 429
                    answer.set()

                nursery.start_soon(read)
                while not answer.is_set():
                    await client.send_some(b"a")
                    await trio.sleep(0.005)
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line["event"] == "connection rejected"]
    assert line.get("request_id") != "first"


HEADS = {
    "accepted": (get("/healthz"), 200),
    "nothing there": (get("/nothing"), 404),
    "version": (get("/healthz").replace(b"HTTP/1.1", b"HTTP/1.2"), 505),
    "no header": (get("/healthz", "no header"), 400),
}


async def read_all(client: RawClient) -> bytes:
    """Returns everything that the server sends before it ends the connection."""
    found = b""
    while data := await client.stream.receive_some(65_536):
        found += data
    return found


@pytest.mark.parametrize(("request_bytes", "status"), HEADS.values(), ids=HEADS.keys())
async def test_the_answer_to_head_has_no_body(shared_server: Server, request_bytes: bytes, status: int) -> None:
    with trio.fail_after(30):
        async with open_raw(shared_server.port) as client:
            await client.send(request_bytes.replace(b"GET ", b"HEAD "))
            await client.stream.send_eof()
            head, _, body = (await read_all(client)).partition(b"\r\n\r\n")
        assert int(head.split(b" ")[1]) == status
        assert re.search(rb"content-length: [1-9]", head, re.IGNORECASE), "that of the body of GET"
        assert body == b""


@pytest.mark.one_process
async def test_the_answer_to_head_on_a_full_server_has_no_body(start_server: Start) -> None:
    server = start_server(PULSE_MAX_CONNECTIONS="1")
    with trio.fail_after(60):
        async with open_raw(server.port) as client:
            assert (await client.request(get("/healthz"))).status == 200
            async with open_raw(server.port) as other:
                await other.send(get("/api/auth/me").replace(b"GET ", b"HEAD "))
                head, _, body = (await read_all(other)).partition(b"\r\n\r\n")
        assert int(head.split(b" ")[1]) == 503
        assert body == b""


# --- one spelling of an address, a method, a list ---


@pytest.mark.parametrize(
    "path",
    [
        *("//api/auth/login", "///api/auth/login", "/api//auth/login", "/api/auth/login/", "/api/auth/login//"),
        *("/api%2Fauth%2Flogin", "/%61pi/auth/login", "/api/auth/log%69n", "/api/auth/login%00", "/api/auth/login%2F"),
        *("/api/./auth/login", "/api/../api/auth/login", "/API/auth/login", "/api/auth/login;x", "/api/auth/login#x"),
    ],
)
@pytest.mark.parametrize("form", ["path", "absolute"])
async def test_another_spelling_of_an_address_is_not_there(shared_server: Server, path: str, form: str) -> None:
    """So a proxy's rule for the address cannot be passed by."""
    with trio.fail_after(30):
        target = path if form == "path" else f"http://chat.example{path}"
        answer = await ask(shared_server, post(target, b"{}"))
        assert (answer.status, answer.json()["code"]) == (404, "not_found")


async def test_a_websocket_has_one_address(shared_server: Server) -> None:
    with trio.fail_after(60):
        alice = await Person.register(shared_server.base_url, f"u{uuid4().hex[:10]}")
        group = await alice.create_group()
        token = [("Authorization", f"Bearer {alice.token}")]
        for path in ("/api/chat/ws", f"/api/chat/ws/{group}"):
            assert (await ask(shared_server, upgrade_request(path, token))).status == 101
            for other in (f"/{path}", f"{path}/", path.replace("ws", "%77s"), path.replace("/chat", "/./chat")):
                assert (await ask(shared_server, upgrade_request(other, token))).status in {403, 404}, other


@pytest.mark.parametrize("method", ["get", "Get", "gET"])
async def test_a_method_has_one_spelling(shared_server: Server, method: str) -> None:
    with trio.fail_after(30):
        answer = await ask(shared_server, get("/healthz").replace(b"GET", method.encode()))
        assert (answer.status, answer.json()["code"]) == (501, "bad_request")
        assert "upper case" in answer.json()["message"]


@pytest.mark.parametrize("upgrade", ["foo, websocket", "websocket,foo", "WebSocket", "foo\r\nUpgrade: websocket"])
@pytest.mark.parametrize("connection", ["Upgrade", "keep-alive, Upgrade", "keep-alive\r\nConnection: upgrade"])
async def test_upgrade_and_connection_are_lists(shared_server: Server, upgrade: str, connection: str) -> None:
    with trio.fail_after(30):
        request = upgrade_request("/api/chat/ws").decode()
        request = request.replace("Upgrade: websocket", f"Upgrade: {upgrade}")
        request = request.replace("Connection: Upgrade", f"Connection: {connection}")
        answer = await ask(shared_server, request.encode())
        assert (answer.status, answer.json()["code"]) == (401, "not_authenticated"), "it is a handshake without a token"


async def test_another_upgrade_is_ignored(shared_server: Server) -> None:
    with trio.fail_after(30):
        request = upgrade_request("/api/chat/ws").replace(b"Upgrade: websocket", b"Upgrade: xwebsocket, h2c")
        assert (await ask(shared_server, request)).status == 426


@pytest.mark.parametrize("lines", [b"\r\n", b"\n", b"\r\n\r\n"])
async def test_empty_lines_before_a_request_are_ignored(shared_server: Server, lines: bytes) -> None:
    """RFC 9112, section 2.2."""
    with trio.fail_after(30):
        async with open_raw(shared_server.port) as client:
            await client.send(lines[:1])
            await trio.testing.wait_all_tasks_blocked(0.02)
            await client.send(lines[1:])
            assert (await client.request(get("/healthz"))).status == 200
            # Some clients send one after a body.
            assert (await client.request(post("/nothing", b"{}") + lines)).status == 404
            assert (await client.request(get("/healthz"))).status == 200


@pytest.mark.parametrize("line", [b"\r", b"\r\r\n", b" \r\n", b"\x00\r\n"])
async def test_other_bytes_before_a_request_are_refused(shared_server: Server, line: bytes) -> None:
    with trio.fail_after(30):
        assert (await ask(shared_server, line + get("/healthz"))).status == 400


# --- bodies and numbers ---


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "identity, gzip", "x-unknown"])
async def test_a_compressed_body_is_another_media_type(shared_server: Server, coding: str) -> None:
    """RFC 9110, section 15.5.16."""
    with trio.fail_after(30):
        body = gzip.compress(b'{"username": "ada", "password": "x"}')
        answer = await ask(shared_server, post(LOGIN, body, f"Content-Encoding: {coding}"))
        assert (answer.status, answer.json()["code"]) == (415, "unsupported_media_type")
        assert "compressed" in answer.json()["message"]
        assert answer.headers["accept-encoding"] == "identity"
        plain = await ask(shared_server, post(LOGIN, b"{}", "Content-Encoding: identity"))
        assert plain.status == 422


async def test_integers_follow_one_rule_in_queries_and_bodies(shared_server: Server) -> None:
    with trio.fail_after(60):
        alice = await Person.register(shared_server.base_url, f"u{uuid4().hex[:10]}")
        group = f"/api/chat/conversations/{await alice.create_group()}"
        for text in ("3.5", "03", "%2B3", "3%20", "0x3", "", "%D9%A3"):
            refused = await alice.api.get(f"{group}/messages?limit={text}")
            assert (refused.status_code, refused.json()["field"]) == (422, "limit"), text
        assert (await alice.api.post(f"{group}/messages", json={"content": "hello"})).status_code == 201
        for text in ("1", "1.0", "1e0"):  # JSON Schema tells none of them from another
            page = await alice.api.get(f"{group}/messages?limit={text}")
            assert (page.status_code, page.json().get("limit")) == (200, 1), text
            read = await alice.api.put(
                f"{group}/read", content=f'{{"seq": {text}}}'.encode(), headers={"Content-Type": "application/json"}
            )
            assert (read.status_code, read.json().get("read_seq")) == (200, 1), text
        for text in ("3.5", '"3"', "true"):
            refused = await alice.api.put(
                f"{group}/read", content=f'{{"seq": {text}}}'.encode(), headers={"Content-Type": "application/json"}
            )
            assert (refused.status_code, refused.json()["field"]) == (422, "seq"), text


# --- names of hosts ---


async def test_other_hosts_than_the_allowed_are_misdirected(start_server: Start) -> None:
    server = start_server(PULSE_ALLOWED_HOSTS="chat.example, [::1]:8000")
    with trio.fail_after(60):

        async def status(request: bytes, host: str | None, path: str = "/api/auth/me") -> int:
            line = b"" if host is None else f"Host: {host}\r\n".encode()
            return (await ask(server, request.replace(b"Host: chat.example\r\n", line))).status

        me, handshake = get("/api/auth/me"), upgrade_request("/api/chat/ws")
        for request in (me, handshake):
            for host in ("chat.example", "CHAT.example.:8000", "[::1]:8000"):
                assert await status(request, host) == 401, host
            for host in ("evil.example", "", "127.0.0.1", "[::1]"):
                assert await status(request, host) == 421, host
            for host in ("a b", "a@b", "${jndi:x}", "chat.example, evil.example"):
                assert await status(request, host) == 400, host
        # The host of an absolute target counts, not the header (RFC 9112, section 3.2.2).
        absolute = me.replace(b"/api/auth/me", b"http://chat.example/api/auth/me")
        assert await status(absolute, "evil.example") == 401
        absolute = me.replace(b"/api/auth/me", b"http://evil.example/api/auth/me")
        assert await status(absolute, "chat.example") == 421
        assert await status(me.replace(b"/api/auth/me", b"http:///api/auth/me"), "chat.example") == 421
        old = me.replace(b"HTTP/1.1", b"HTTP/1.0")
        assert await status(old, None) == 421
        for path in (b"/healthz", b"/readyz"):
            assert await status(me.replace(b"/api/auth/me", path), "10.0.0.1:8000") == 200
        answer = await ask(server, me.replace(b"chat.example", b"evil.example"))
        assert answer.json()["code"] == "misdirected"


async def test_a_target_that_is_no_path_is_refused(shared_server: Server) -> None:
    with trio.fail_after(30):
        for target in ("api/auth/me", "chat.example:80", "ftp://chat.example/", "?x"):
            answer = await ask(shared_server, get(target))
            assert answer.status == 400, target


# --- security events ---


def events(server: Server, text: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("kind") == "security" and line["event"] == text]


async def test_security_events_have_a_line_each(start_server: Start) -> None:
    server = start_server(PULSE_LOGIN_FAILURES_PER_ACCOUNT="3", PULSE_TRUSTED_PROXIES="1")
    with trio.fail_after(60):
        name, secret = f"u{uuid4().hex[:10]}", "a password that is typed as a name"
        alice = await Person.register(server.base_url, name)
        bob = await Person.register(server.base_url, "bob")
        api = Api(server.base_url, {"X-Forwarded-For": "2001:db8::7", "X-Request-ID": "the-failure"})
        for _ in range(6):
            await api.post(LOGIN, json={"username": secret, "password": "wrong password"})
        assert (await alice.api.post("/api/auth/renew")).status_code == 200
        group = await alice.create_group(bob)
        members = f"/api/chat/conversations/{group}/members"
        assert (await alice.api.delete(f"{members}/{bob.id}")).status_code == 204
        assert (await alice.api.post(members, json={"user_ids": [bob.id]})).status_code == 200
        for others in ([bob.id], [alice.id, bob.id]):  # who are in it already
            assert (await alice.api.post(members, json={"user_ids": others})).status_code == 200
        carol = await Person.register(server.base_url, "carol")
        assert (await alice.api.post(members, json={"user_ids": [bob.id, carol.id]})).status_code == 200
        path = f"/api/chat/conversations/{group}/messages"
        posted = [await person.api.post(path, json={"content": "a text"}) for person in (bob, bob, bob, alice)]
        first, second, *own = [answer.json()["id"] for answer in posted]
        assert (await alice.api.delete(f"{path}/{first}")).status_code == 204
        async with alice.session() as chat:
            await chat.send({"type": "delete", "conversation_id": group, "message_id": second})
            await chat.receive_type("message_deleted")
        for person, message in zip((bob, alice), own, strict=True):  # everybody's own
            assert (await person.api.delete(f"{path}/{message}")).status_code == 204
        assert (await bob.api.delete(f"{path}/{first}")).status_code == 404
        async with bob.session() as chat:
            for token, kind in ((bob.token, "auth"), (alice.token, "error")):
                await chat.send({"type": "auth", "token": token})
                await chat.receive_type(kind)
        assert (await ask(server, upgrade_request("/api/chat/ws", [("X-Forwarded-For", "192.0.2.9")]))).status == 401
        stranger = f"/api/chat/ws/{uuid4()}?token={bob.token}"
        assert (await ask(server, upgrade_request(stranger))).status == 403
    assert server.stop() == 0
    assert {line["user_id"] for line in events(server, "account registered")} == {alice.id, bob.id, carol.id}
    assert {line["user_id"] for line in events(server, "login ok")} == {alice.id, bob.id, carol.id}
    failed, limited = events(server, "login failed"), events(server, "login limited")
    assert (len(failed), len(limited)) == (3, 3)
    for line in (*failed, *limited):
        assert line["address"] == "2001:db8::7"
        assert line["request_id"] == "the-failure"
        assert re.fullmatch("[0-9a-f]{16}", str(line["username_digest"]))
    assert {line["code"] for line in limited} == {"rate_limited"}
    assert [line["user_id"] for line in events(server, "token renewed")] == [alice.id, bob.id]
    by_frame = events(server, "token renewal refused")
    assert [(line["user_id"], line["code"], line["address"]) for line in by_frame] == [
        (bob.id, "invalid_token", "127.0.0.1")
    ]
    assert len(str(by_frame[0]["request_id"])) == 32, "that of the handshake"
    added = events(server, "members added")
    assert [(line["user_id"], line["conversation_id"], line["added"]) for line in added] == [
        (alice.id, group, [bob.id]),
        (alice.id, group, [bob.id]),
        (alice.id, group, [carol.id]),
    ]
    removed = events(server, "member removed")
    assert [(line["user_id"], line["removed"]) for line in removed] == [(alice.id, bob.id)]
    deleted = events(server, "message of another user deleted")
    assert [(line["user_id"], line["conversation_id"], line["message_id"], line["sender_id"]) for line in deleted] == [
        (alice.id, group, first, bob.id),
        (alice.id, group, second, bob.id),
    ]
    assert all(line["request_id"] and line["address"] == "127.0.0.1" for line in deleted)
    refused = events(server, "handshake refused")
    assert [(line["code"], line.get("user_id")) for line in refused] == [
        ("not_authenticated", None),
        ("not_a_member", bob.id),
    ]
    assert refused[0]["address"] == "192.0.2.9"
    for text in (secret, "a text", "wrong password", name, alice.token, bob.token):
        assert text not in server.output


# --- compression ---


async def fetch(server: Server, path: str, *headers: str) -> Answer:
    return await ask(server, get(path, *headers))


# By what a client asks for.
CODINGS = {
    "gzip, deflate, br": "br",
    "br": "br",
    "*": "br",
    "gzip": "gzip",
    "br;q=0, *;q=0.5": "gzip",
    "br;q=0.5, gzip;q=0.8": "gzip",
}
DECODERS: dict[str, Callable[[bytes], bytes]] = {"br": brotli.decompress, "gzip": gzip.decompress}


async def test_large_answers_are_compressed_for_clients_that_ask(shared_server: Server) -> None:
    with trio.fail_after(60):
        alice = await Person.register(shared_server.base_url, f"u{uuid4().hex[:10]}")
        group = await alice.create_group()
        token = f"Authorization: Bearer {alice.token}"
        path = f"/api/chat/conversations/{group}/messages"
        for number in range(20):  # more than what is compressed in the event loop
            content = f"{number} " + "the same words " * 200
            assert (await alice.api.post(path, json={"content": content})).status_code == 201
        addresses = ("/", "/app/base.css", "/app/main.js", "/docs", "/docs.js", "/openapi.json", "/asyncapi.json")
        for address in (*addresses, path):
            plain = await fetch(shared_server, address, token)
            assert "content-encoding" not in plain.headers
            assert "Accept-Encoding" in plain.headers["vary"]
            for asks, coding in CODINGS.items():
                small = await fetch(shared_server, address, token, f"Accept-Encoding: {asks}")
                assert small.headers["content-encoding"] == coding
                assert DECODERS[coding](small.body) == plain.body
                assert len(small.body) < len(plain.body) * 0.6
                assert small.headers["vary"] == plain.headers["vary"]
                if "etag" in plain.headers:
                    assert small.headers["etag"] != plain.headers["etag"]
                    known = f"If-None-Match: {small.headers['etag']}"
                    assert (await fetch(shared_server, address, known, f"Accept-Encoding: {asks}")).status == 304
                    assert (await fetch(shared_server, address, known)).status == 200
            for asks in ("gzip;q=0", "br;q=0", "br;q=0, gzip;q=0, *", "deflate", "identity", ""):
                assert (await fetch(shared_server, address, token, f"Accept-Encoding: {asks}")).body == plain.body


async def test_what_mixes_secrets_with_texts_of_others_is_not_compressed(shared_server: Server) -> None:
    """BREACH: the length would tell whether a text that an attacker wrote repeats one that they cannot read."""
    with trio.fail_after(60):
        alice = await Person.register(shared_server.base_url, f"u{uuid4().hex[:10]}")
        for number in range(10):
            await alice.create_group(name=f"group {number}")
        token = f"Authorization: Bearer {alice.token}"
        answer = await fetch(shared_server, "/api/chat/conversations", token, "Accept-Encoding: br, gzip")
        assert len(answer.body) > 4_000
        assert "content-encoding" not in answer.headers
        renewed = await ask(shared_server, post("/api/auth/renew", b"", token, "Accept-Encoding: br, gzip"))
        assert (renewed.status, renewed.headers.get("content-encoding")) == (200, None)
