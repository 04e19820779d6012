"""The OpenAPI document says what the service does: its form, its page, and schemathesis over the real process."""

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio
from jsonschema_rs import validator_for
from quart_schema import OpenAPIProvider

from pulse_trio.app import create_app, open_service
from pulse_trio.errors import ErrorCode
from pulse_trio.settings import Settings
from pulse_trio.store.memory import MemoryStore
from tests.support.client import Api, Person
from tests.support.figures import figures
from tests.support.raw import resident_bytes
from tests.support.server import SECRET, Server

METHODS = {"get", "post", "put", "patch", "delete", "head", "options", "trace"}

# What is valid by the document is taken, but for what no JSON schema can say. Of all operations: whether an id is that
# of something, and a number with hundreds of digits in a field that nobody asked for, which is not taken as JSON (400).
# Of some: which users there are, what a username's letters may be, which cursors there are, and that `offset` does not
# go together with `before_seq`.
UNSAID = {"register", "createConversation", "addMembers", "searchUsers", "listConversations", "listMembers"}
UNSAID |= {"listMessages", "listReadPositions"}
SCHEMATHESIS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 404, 409]
""" + "".join(
    f"""
[[operations]]
include-operation-id = "{name}"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 404, 409, 422]
"""
    for name in sorted(UNSAID)
)


async def load(server: Server) -> dict[str, Any]:
    answer = await Api(server.base_url).get("/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    document: dict[str, Any] = answer.json()
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """All of them: path, method, operation."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert method in METHODS, f"{path} has {method}"
            yield path, method, operation


def references(value: Any) -> Iterator[str]:
    """All that refer to something else in the document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


async def test_every_operation_is_described_in_full(server: Server) -> None:
    with trio.fail_after(60):
        document = await load(server)
    assert re.fullmatch(r"3\.1\.\d+", document["openapi"])
    schemas = document["components"]["schemas"]
    for reference in references(document):
        at: Any = document
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]
    assert schemas["ErrorBody"]["required"] == ["code", "message"]
    assert set(schemas["ErrorBody"]["properties"]["code"]["enum"]) == {code.code for code in ErrorCode}

    found = list(operations(document))
    assert {method for _, method, _ in found} == {"get", "post", "put", "patch", "delete"}
    names = [operation["operationId"] for _, _, operation in found]
    assert len(set(names)) == len(names) >= 13
    for path, method, operation in found:
        name = operation["operationId"]
        assert operation["summary"], name
        assert operation["description"], name
        assert len(operation["tags"]) == 1, name
        in_path = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
        assert in_path == set(re.findall(r"{(\w+)}", path)), name
        for parameter in operation["parameters"]:
            assert parameter["description"], name
            assert parameter["schema"], name
            assert parameter.get("required", False) is (parameter["in"] == "path"), name

        answers = operation["responses"]
        assert any(status.startswith("2") for status in answers), name
        wanted = {"500", "503"}
        if operation.get("security"):
            assert operation["security"] == [{"bearer": []}], name
            wanted.add("401")
        else:
            assert path in {"/api/auth/register", "/api/auth/login"}, f"{name} is open to all"
        if in_path:
            wanted.add("404")
        if method in {"post", "put", "patch"} and name != "renewToken":  # what that needs is in the header
            wanted |= {"400", "408", "413", "415", "422"}
            body = operation["requestBody"]
            assert body["required"] is True
            (kind, content), *others = body["content"].items()
            assert (kind, others) == ("application/json", []), name
            assert content["schema"]["$ref"].startswith("#/components/schemas/"), name
            schema = {**content["schema"], "components": document["components"]}
            validator_for(schema).validate(content["example"])
        else:
            assert "requestBody" not in operation, name
        if any(p["in"] == "query" for p in operation["parameters"]):
            wanted.add("422")
        assert wanted <= set(answers), name
        for status, answer in answers.items():
            assert answer["description"], (name, status)
            if status == "204":
                assert "content" not in answer
                continue
            schema = answer["content"]["application/json"]["schema"]
            assert schema.keys() == {"$ref"}, (name, status)
            is_error = schema["$ref"].endswith(("/ErrorBody", "/ConflictBody"))
            assert is_error is (int(status) >= 400), (name, status)
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


async def test_the_document_tells_the_limits_of_this_service(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_PASSWORD_MIN_CHARS="11", PULSE_MAX_CONTENT_CHARS="77")
    with trio.fail_after(60):
        schemas = (await load(server))["components"]["schemas"]
    assert schemas["Registration"]["properties"]["password"]["minLength"] == 11
    assert schemas["MessageChange"]["properties"]["content"]["maxLength"] == 77


async def test_the_examples_of_the_document_work(server: Server) -> None:
    with trio.fail_after(60):
        document = await load(server)
        bodies = {
            operation["operationId"]: operation["requestBody"]["content"]["application/json"]["example"]
            for _, _, operation in operations(document)
            if "requestBody" in operation
        }
        api = Api(server.base_url)
        assert (await api.post("/api/auth/register", json=bodies["register"])).status_code == 201
        let_in = await api.post("/api/auth/login", json=bodies["login"])
        assert let_in.status_code == 200
        mine = Api(server.base_url, {"Authorization": f"Bearer {let_in.json()['access_token']}"})
        # Ids are nobody's in an example; a real one takes their place.
        other = await Person.register(server.base_url, "other")
        body = {**bodies["createConversation"], "participant_ids": [other.id], "is_group": True}
        made = await mine.post("/api/chat/conversations", json=body)
        assert made.status_code == 201
        path = f"/api/chat/conversations/{made.json()['id']}"
        assert (await mine.patch(path, json=bodies["changeConversation"])).status_code == 200
        unknown = await mine.post(f"{path}/members", json=bodies["addMembers"])
        assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_user")
        unread = await mine.put(f"{path}/read", json=bodies["markRead"])
        assert (unread.status_code, unread.json()["code"]) == (404, "no_such_message")
        no_message = await mine.patch(f"{path}/messages/{uuid4()}", json=bodies["editMessage"])
        assert (no_message.status_code, no_message.json()["code"]) == (404, "no_such_message")


class Addresses(HTMLParser):
    """Collects the links of a page, and all that its policy would refuse."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            assert not name.startswith("on"), "an inline handler"
            assert name != "style", "an inline style"
            if name in {"href", "src", "action"}:
                assert value is not None
                self.found.append(value)
        assert tag != "style", "an inline style"
        assert tag != "script" or "src" in dict(attrs), "an inline script"


async def test_the_page_loads_under_its_policy_and_asks_nothing_of_other_hosts(server: Server) -> None:
    with trio.fail_after(60):
        api = Api(server.base_url)
        page = await api.get("/docs")
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        policy = dict(part.strip().partition(" ")[::2] for part in page.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert set(policy.values()) == {"'none'", "'self'"}
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        parser = Addresses()
        parser.feed(page.text)
        assert {"/docs.css", "/docs.js", "/openapi.json", "/asyncapi.json"} <= set(parser.found)
        for address in parser.found:
            assert re.match(r"/[^/]", address), address
            part = await api.get(address)
            assert part.status_code == 200, address
            assert "Content-Security-Policy" in part.headers
            assert part.headers["X-Content-Type-Options"] == "nosniff"
            assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", part.text.replace("$schema", "")), address
            assert "innerHTML" not in part.text, "what comes from the document is put in as text"


async def run_schemathesis(server: Server, person: Person, folder: Path, *options: str, config: str = "") -> None:
    """Runs it with all its checks, as this user; it must find nothing, in each of the operations."""
    (folder / "schemathesis.toml").write_text(config or SCHEMATHESIS)
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        f"--config-file={folder / 'schemathesis.toml'}",
        "run",
        f"{server.base_url}/openapi.json",
        "--header",
        f"Authorization: Bearer {person.token}",
        "--checks=all",
        "--generation-database=none",
        "--continue-on-failure",
        "--no-color",
        *options,
    ]
    done = await trio.run_process(command, cwd=folder, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    report = done.stdout.decode()
    assert done.returncode == 0, report
    # It did run over all of it.
    selected = re.search(r"Tested: (\d+)", report)
    assert selected is not None
    assert int(selected[1]) == len(list(operations(await load(server)))), report
    assert "unresolvable" not in report


async def test_schemathesis_finds_no_fault(start_server: Callable[..., Server], tmp_path: Path) -> None:
    server = start_server()
    with trio.fail_after(180):
        person = await Person.register(server.base_url, "tester")
        await run_schemathesis(server, person, tmp_path, "--max-examples=10", "--seed=1")
        # And the service is as well as before.
        assert (await person.api.get("/api/auth/me")).status_code == 200
    assert "Traceback" not in server.output


MINUTES = float(os.environ.get("PULSE_TEST_REST_FUZZ_MINUTES", "0"))
MAX_GROWTH = 64 * 2**20  # bytes of memory after the first fifth of the time
LONG = SCHEMATHESIS.replace("404, ", "404, 429, ")  # so many requests exceed the limits of one user


async def chat_on(alice: Person, bob: Person, done: trio.Event) -> int:
    """Sends messages until `done`, each of which must arrive within ten seconds; returns their number."""
    group = await alice.create_group(bob)
    async with alice.connect(group) as one, bob.connect(group) as two:
        count = 0
        while not done.is_set():
            count += 1
            with trio.fail_after(10):
                await one.send({"type": "message", "content": f"{count}"})
                assert (await two.receive_type("message"))["content"] == f"{count}"
            with trio.move_on_after(0.2):
                await done.wait()
    assert (await bob.history(group))["total"] == count
    return count


@pytest.mark.skipif(not MINUTES, reason="takes minutes: make fuzz-rest")
async def test_schemathesis_finds_no_fault_for_long(start_server: Callable[..., Server], tmp_path: Path) -> None:
    server = start_server(PULSE_LOG_FORMAT="json")
    seconds = MINUTES * 60
    done, memory = trio.Event(), []

    async def watch() -> None:
        await trio.sleep(seconds / 5)
        memory.append(resident_bytes(server.process.pid))

    with trio.fail_after(seconds * 2 + 300):
        tester, alice, bob = [await Person.register(server.base_url, name) for name in ("tester", "alice", "bob")]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            nursery.start_soon(chat_on, alice, bob, done)
            limits = ("--max-examples=1000", f"--max-time={int(seconds)}")
            await run_schemathesis(server, tester, tmp_path, *limits, config=LONG)
            done.set()
        memory.append(resident_bytes(server.process.pid))
        requests = (await figures(server.base_url)).series("pulse_requests_total")
    assert server.stop() == 0
    failed = {str(labels): count for labels, count in requests if labels["status"].startswith("5") and count}
    assert not failed
    total = sum(count for _, count in requests)
    print(f"{total:.0f} requests; memory {memory[0] / 2**20:.0f} MiB, then {memory[-1] / 2**20:.0f} MiB")
    assert total > seconds
    assert memory[-1] - memory[0] < MAX_GROWTH
    assert "Traceback" not in server.output
    levels = {json.loads(line)["level"] for line in server.output.splitlines() if line.startswith("{")}
    assert not levels & {"error", "critical"}


async def test_the_document_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes some 20 ms of the event loop, and anybody may ask for it."""
    made = 0
    original = OpenAPIProvider.schema

    def counted(provider: OpenAPIProvider) -> dict[str, Any]:
        nonlocal made
        made += 1
        return original(provider)

    @asynccontextmanager
    async def open_store() -> AsyncIterator[MemoryStore]:
        yield MemoryStore()

    monkeypatch.setattr(OpenAPIProvider, "schema", counted)
    app = create_app(Settings.load(secret_key=SECRET), open_store)
    with trio.fail_after(60):
        assert (await app.test_client().get("/openapi.json")).status_code == 503, "not open yet"
        async with open_service(app):
            documents = [await (await app.test_client().get("/openapi.json")).get_json() for _ in range(3)]
    assert documents[0] == documents[2]
    assert documents[0]["paths"]
    assert made == 2, "once in vain, and once"
