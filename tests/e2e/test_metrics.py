"""/metrics: the figures are those of what happened, and nobody else reads them; what is built on them finds them."""

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from tests.support.client import PASSWORD, Api, Person
from tests.support.cluster import traversable_folder
from tests.support.figures import Figures, figures
from tests.support.raw import connect_in_order, frame, open_chat, open_raw, upgrade_request
from tests.support.server import METRICS_TOKEN, Server

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "b2f0c3d49a1e5876b2f0c3d4"

Start = Callable[..., Server]


async def settled(server: Server, condition: Callable[[Figures], bool]) -> Figures:
    """The figures once they are so: what a client sees comes before the end of what is counted."""
    with trio.fail_after(15):
        while True:
            found = await figures(server.base_url)
            if condition(found):
                return found


async def test_a_chat_in_figures(server: Server) -> None:
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        bob = await Person.register(server.base_url, "bob")
        group = await alice.create_group(bob)
        before = await figures(server.base_url)
        async with connect_in_order(group, alice, bob) as (one, two), bob.session() as three:
            for number in range(5):
                await one.send({"type": "message", "content": f"{number}"})
            for chat in (one, two, three):
                for _ in range(5):
                    await chat.receive_type("message")
            await two.send({"type": "typing"})
            await one.receive_type("typing")
            await two.send({"type": "edit", "message_id": "no id", "content": "x"})
            await two.receive_type("error")
            await two.send({"type": "ping"})
            await two.receive_type("pong")
            now = await settled(server, lambda f: f("pulse_delivery_seconds_count") == 5)
            assert now("pulse_websockets", kind="conversation") == 2
            assert now("pulse_websockets", kind="session") == 1
            assert now("pulse_rooms") == 1
            assert now("pulse_tcp_connections") >= 3
            assert now("pulse_frames_received_total", type="message") == 5
            assert now("pulse_frames_received_total", type="typing") == 1
            assert now("pulse_frames_received_total", type="ping") == 1
            assert now("pulse_frames_sent_total", type="message") == 15
            assert now("pulse_frames_sent_total", type="typing") == 1, "not to who types"
            assert now("pulse_frames_sent_total", type="pong") == 1
            assert now("pulse_frames_sent_total", type="session") == 1
            assert now("pulse_errors_total", code="invalid_frame") == 1
            assert now("pulse_batch_messages_sum") == 5
            assert 1 <= now("pulse_batch_messages_count") <= 5
            assert now("pulse_commit_seconds_count") == now("pulse_fanout_seconds_count")
            assert now("pulse_commit_seconds_count") == now("pulse_batch_messages_count")
            assert 0 < now("pulse_commit_seconds_sum") <= now("pulse_delivery_seconds_sum") < 30
            assert now("pulse_delivery_seconds_bucket", le="+Inf") == 5
            assert now("pulse_handshakes_total", status="101") == 3
            assert now("pulse_database_up") == 1
            assert now("pulse_draining") == now("pulse_outbox_bytes") == now("pulse_failed_batches_total") == 0
            assert now("pulse_pool_connections", state="idle") >= 1
            assert now("pulse_message_connections", state="idle") >= 1
            assert now("pulse_pool_checkout_seconds_count") > before("pulse_pool_checkout_seconds_count")
            assert now("process_resident_memory_bytes") > 2**20
            lag = "pulse_loop_lag_seconds_count"
            await settled(server, lambda f: f(lag) > before(lag))
        after = await settled(server, lambda f: f("pulse_closes_total", code="gone") == 3)
        assert after("pulse_websockets", kind="conversation") == after("pulse_websockets", kind="session") == 0


async def test_a_resume_in_figures(server: Server) -> None:
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        group = await alice.create_group()
        async with alice.connect(group) as chat:
            for number in range(7):
                await chat.send({"type": "message", "content": f"{number}"})
                await chat.receive_type("message")
        async with alice.connect(group, after=3) as chat:
            for _ in range(4):
                await chat.receive_type("message")
        async with alice.session({group: 5}) as chat:
            for _ in range(2):
                await chat.receive_type("message")
        async with alice.connect(group, after=99) as chat:
            assert await chat.wait_closed() == 4409
        now = await figures(server.base_url)
        assert now("pulse_resumed_changes_count") == 2
        assert now("pulse_resumed_changes_sum") == 6
        assert now("pulse_catch_up_frames_total") == 6
        assert now("pulse_resumes_refused_total") == 1
        assert now("pulse_errors_total", code="cannot_resume") == 1
        assert now("pulse_closes_total", code="4409") == 1


async def test_requests_and_refusals_in_figures(start_server: Start) -> None:
    server = start_server(PULSE_CONNECTIONS_PER_USER="1", PULSE_FRAMES_PER_SECOND="1", PULSE_FRAMES_BURST="5")
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        group = await alice.create_group()
        for name, password in (("alice", "a guess"), ("nobody", "a guess"), ("alice", PASSWORD)):
            await Api(server.base_url).post("/api/auth/login", json={"username": name, "password": password})
        assert (await alice.api.get("/nothing/here")).status_code == 404
        assert (await alice.api.get(f"/api/chat/conversations/{alice.id}")).status_code == 404
        async with open_chat(alice, group) as chat:
            path = f"/api/chat/ws/{group}"
            for target, status in ((f"{path}?token={alice.token}", 429), (path, 401)):
                async with open_raw(server.port) as client:
                    assert (await client.request(upgrade_request(target))).status == status
            await chat.send(frame({"type": "ping"}) * 20)
            assert await chat.read_close() == 4429
        async with open_chat(alice, group) as chat:
            await chat.send(frame(b"\xff\xfe"))
            assert await chat.read_close() == 1007
        now = await settled(server, lambda f: f("pulse_closes_total", code="gone") == 1)
        assert now("pulse_requests_total", operation="login", status="401") == 2
        assert now("pulse_requests_total", operation="login", status="200") == 2
        assert now("pulse_requests_total", operation="none", status="404") == 1
        assert now("pulse_requests_total", operation="getConversation", status="404") == 1
        assert now("pulse_request_seconds_count", operation="login") == 4
        assert now("pulse_request_seconds_sum", operation="login") > 0.01, "passwords are hashed"
        assert now("pulse_login_failures_total") == 2
        assert now("pulse_errors_total", code="invalid_credentials") == 2
        assert now("pulse_handshakes_total", status="429") == 1
        assert now("pulse_handshakes_total", status="401") == 1
        assert now("pulse_closes_total", code="4429") == 1
        assert now("pulse_protocol_closes_total", code="1007") == 1
        assert now("pulse_errors_total", code="rate_limited") == 1


async def test_who_is_turned_away_is_counted(start_server: Start) -> None:
    server = start_server(PULSE_CONNECTIONS_PER_ADDRESS="2")
    with trio.fail_after(60):
        async with open_raw(server.port) as first, open_raw(server.port) as second:
            for client in (first, second):  # connections that come at once are admitted in any order
                assert (await client.request(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")).status == 200
            async with open_raw(server.port) as third:
                assert (await third.read_answer()).status == 429
            head = f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {METRICS_TOKEN}\r\n\r\n"
            answer = await first.request(head.encode())
            assert Figures(answer.body.decode())("pulse_turned_away_total", code="too_many_connections") == 1


# --- who may read them ---


def metrics_url(server: Server) -> str:
    """The address of `PULSE_METRICS_BIND`."""
    line = next(line for line in server.output.splitlines() if "metrics are served" in line)
    return f"http://127.0.0.1:{json.loads(line)['address'][1]}"


@pytest.mark.parametrize("trusted", ["0", "1"])
async def test_without_a_token_or_an_address_of_their_own_nobody_reads_them(start_server: Start, trusted: str) -> None:
    """A proxy on this machine may add no header and hand on any `Host`, as HAProxy does by default."""
    server = start_server(PULSE_METRICS="true", PULSE_TRUSTED_PROXIES=trusted, PULSE_LOG_FORMAT="json")
    with trio.fail_after(60):
        for host in (None, "127.0.0.1", "localhost:8000", "[::1]", "chat.example"):
            headers = {} if host is None else {"Host": host}
            answer, nothing = [await Api(server.base_url).get(path, headers=headers) for path in ("/metrics", "/no")]
            assert (answer.status_code, answer.json()) == (404, nothing.json())
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line["event"] == "metrics are not served"]
    assert "PULSE_METRICS_BIND" in line["advice"]


async def test_with_a_token_they_are_read_from_anywhere_by_who_has_it(start_server: Start) -> None:
    server = start_server(PULSE_METRICS_TOKEN=TOKEN)
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        api = Api(server.base_url, {"Host": "chat.example", "X-Forwarded-For": "203.0.113.9"})
        good = await api.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert (good.status_code, "pulse_websockets" in good.text) == (200, True)
        for wrong in (None, f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", "Bearer x", f"Bearer {alice.token}", TOKEN):
            headers = {} if wrong is None else {"Authorization": wrong}
            for one in (api, Api(server.base_url)):
                answer = await one.get("/metrics", headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
                assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert server.stop() == 0
    assert TOKEN not in server.output


async def test_a_rebound_name_finds_nothing_at_a_mapped_address_of_this_machine(start_server: Start) -> None:
    server = start_server(PULSE_METRICS_BIND="[::]:0", PULSE_LOG_FORMAT="json")  # takes IPv4 as ::ffff:127.0.0.1
    with trio.fail_after(60):
        own = Api(metrics_url(server))
        for host, status in (("[::ffff:127.0.0.1]", 200), ("localhost", 200), ("chat.example", 404)):
            assert (await own.get("/metrics", headers={"Host": host})).status_code == status, host


async def test_an_address_of_their_own_serves_them_and_nothing_else(start_server: Start) -> None:
    server = start_server(PULSE_METRICS_BIND="127.0.0.1:0", PULSE_TRUSTED_PROXIES="1", PULSE_LOG_FORMAT="json")
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        own = metrics_url(server)
        # It is meant for whoever reaches it: the address is the protection.
        for headers in ({}, {"Host": "localhost:9464", "X-Forwarded-For": "203.0.113.9"}):
            answer = await Api(own).get("/metrics", headers=headers)
            assert (answer.status_code, "pulse_websockets" in answer.text) == (200, True)
        rebound = await Api(own).get("/metrics", headers={"Host": "chat.example:9464"})
        assert rebound.status_code == 404
        for path in ("/healthz", "/readyz"):
            assert (await Api(own).get(path)).status_code == 200
        mine = Api(own, alice.api.headers)
        for path in ("/", "/api/auth/me", "/pulse-client.js", "/openapi.json", "/docs"):
            assert (await mine.get(path)).status_code == 404, path
        assert (await mine.post("/api/auth/login", json={"username": "a", "password": "b"})).status_code == 404
        async with open_raw(int(own.rpartition(":")[2])) as client:
            request = upgrade_request("/api/chat/ws", [("Authorization", f"Bearer {alice.token}")])
            assert (await client.request(request)).status == 404
        for headers in ({}, {"Host": "127.0.0.1"}, {"Host": own.removeprefix("http://")}):
            assert (await Api(server.base_url).get("/metrics", headers=headers)).status_code == 404
        assert (await alice.api.get("/api/auth/me")).status_code == 200


def test_an_address_that_cannot_be_listened_on_is_refused_in_one_line(start_server: Start, database: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        server = Server({"DATABASE_URL": database, "PULSE_METRICS_BIND": bind})
        assert server.wait() == 1
    assert "PULSE_METRICS_BIND" in server.output
    assert "Traceback" not in server.output


async def test_they_can_be_turned_off(start_server: Start) -> None:
    server = start_server(PULSE_METRICS="false", PULSE_METRICS_TOKEN=TOKEN)
    with trio.fail_after(60):
        answer = await Api(server.base_url).get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_reader_may_have_them_as_openmetrics(server: Server) -> None:
    with trio.fail_after(60):
        headers = {"Accept": "application/openmetrics-text; version=1.0.0", "Authorization": f"Bearer {METRICS_TOKEN}"}
        answer = await Api(server.base_url).get("/metrics", headers=headers)
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")


# --- what is built on them ---

WORDS = re.compile(r"(?<![\w\"'])((?:pulse|process|python)_\w+)")


def expressions() -> list[tuple[str, str]]:
    """Everything that deploy/ asks Prometheus: where, and what."""
    dashboard = json.loads((ROOT / "deploy/grafana/pulse-trio.json").read_text())
    alerts = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    found = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
    found += [("variable", v["query"]) for v in dashboard["templating"]["list"] if v["type"] == "query"]
    found += [(rule["alert"], rule["expr"]) for group in alerts["groups"] for rule in group["rules"]]
    return found


async def test_every_metric_of_the_dashboard_and_of_the_alerts_exists(start_server: Callable[..., Server]) -> None:
    folder = traversable_folder()
    try:
        server = start_server(PULSE_DATA_DIR=str(folder / "data"))  # an embedded PostgreSQL has one more
        with trio.fail_after(60):
            found = await figures(server.base_url)
        free = shutil.disk_usage(folder).free
        assert found("pulse_data_free_bytes") == pytest.approx(free, rel=0.1)
        assert server.stop() == 0
    finally:
        shutil.rmtree(folder)
    asked: dict[str, str] = {}
    for where, expression in expressions():
        names = WORDS.findall(expression)
        assert names or expression.startswith(("up", "min(up")), where
        asked.update(dict.fromkeys(names, where))
    assert len(asked) > 30
    assert not {name: where for name, where in asked.items() if name not in found.names}
    # And no figure of the service is without a place on the dashboard or in an alert.
    shown = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in asked}
    own = {re.sub(r"_(bucket|sum|count|total|created)$", "", name) for name in found.names if name.startswith("pulse_")}
    assert own - shown == {"pulse_draining"}


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard: dict[str, Any] = json.loads((ROOT / "deploy/grafana/pulse-trio.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        letters = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(letters)) == len(letters)
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel.get("targets", []))
