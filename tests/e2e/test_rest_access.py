"""Access to every REST operation, by members, strangers, removed users and clients without a token.

The operations come from the OpenAPI document, so a new one cannot be forgotten: it fails here until it is listed.
"""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import trio

from pulse_trio.app import create_app
from pulse_trio.settings import Settings
from pulse_trio.store.memory import MemoryStore
from tests.support.client import Api, Person
from tests.support.server import SECRET, Server

CONVERSATIONS = "/api/chat/conversations"
OPEN = {"register", "login"}  # for everybody
# For every user.
OWN = {"me", "renewToken", "searchUsers", "createConversation", "listConversations", "drawTicket", "getPresence"}
# The bodies of operations on a conversation.
BODIES: dict[str, Any] = {
    "changeConversation": {"name": "New"},
    "addMembers": {"user_ids": ["{carol}"]},
    "postMessage": {"content": "said"},
    "editMessage": {"content": "changed"},
    "markRead": {"seq": 1},
}


@dataclass(frozen=True)
class Operation:
    name: str
    method: str
    path: str

    @property
    def is_about_a_conversation(self) -> bool:
        return "{conversation_id}" in self.path


async def all_operations(server: Server) -> list[Operation]:
    document = (await Api(server.base_url).get("/openapi.json")).json()
    return [
        Operation(operation["operationId"], method.upper(), path)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]


def comparable(answer: Any) -> tuple[int, dict[str, str], bytes]:
    """Returns an answer without its date and the id of its request."""
    headers = {name: value for name, value in answer.headers.items() if name not in {"date", "x-request-id"}}
    return answer.status_code, headers, answer.content


async def test_the_openapi_document_has_every_route(server: Server) -> None:
    app = create_app(Settings.load(secret_key=SECRET), MemoryStore)
    routes = {
        (method, rule.rule.replace("<", "{").replace(">", "}"))
        for rule in app.url_map.iter_rules()
        if not rule.websocket
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    with trio.fail_after(60):
        described = {(operation.method, operation.path) for operation in await all_operations(server)}
    library = {"/pulse-client.js", "/pulse-client/{name}", "/pulse-client.tgz"}
    pages = {"/", "/app/{name}", "/favicon.svg", "/manifest.webmanifest", *library}
    documents = {"/openapi.json", "/asyncapi.json", "/docs", "/docs.css", "/docs.js"}
    operators = {"/healthz", "/readyz", "/metrics"}  # they have tests of their own
    shown = {("GET", path) for path in pages | documents | operators}
    assert routes == described | shown


async def test_strangers_cannot_tell_whether_a_conversation_exists(server: Server) -> None:
    with trio.fail_after(120):
        alice = await Person.register(server.base_url, "alice")
        bob = await Person.register(server.base_url, "bob")
        carol = await Person.register(server.base_url, "carol")
        removed = await Person.register(server.base_url, "removed")
        left = await Person.register(server.base_url, "left")
        stranger = await Person.register(server.base_url, "stranger")
        anonymous = Api(server.base_url)

        group = await alice.create_group(bob, removed, left)
        async with alice.connect(group) as chat:
            await chat.send({"type": "message", "content": "for members only"})
            message = (await chat.receive_type("message"))["message_id"]
        # The removed user stays the sender of this message, but may no longer change it.
        async with removed.connect(group) as chat:
            await chat.send({"type": "message", "content": "mine"})
            of_removed = (await chat.receive_type("message"))["message_id"]
        assert (await alice.api.delete(f"{CONVERSATIONS}/{group}/members/{removed.id}")).status_code == 204
        assert (await left.api.delete(f"{CONVERSATIONS}/{group}/members/me")).status_code == 204
        one_to_one = (await alice.api.post(CONVERSATIONS, json={"participant_ids": [bob.id]})).json()["id"]

        def body(operation: Operation) -> Any:
            if operation.name == "addMembers":
                return {"user_ids": [carol.id]}
            return BODIES.get(operation.name)

        async def ask(api: Api, operation: Operation, conversation: str, message_id: str, user_id: str) -> Any:
            path = operation.path.format(conversation_id=conversation, message_id=message_id, user_id=user_id)
            options = {} if body(operation) is None else {"json": body(operation)}
            return await api.request(operation.method, path, **options)

        operations = await all_operations(server)
        about = [operation for operation in operations if operation.is_about_a_conversation]
        assert {operation.name for operation in operations if operation not in about} == OPEN | OWN
        assert {o.name for o in about if o.method in {"POST", "PATCH", "PUT"}} == set(BODIES)
        before = [(await alice.api.get(f"{CONVERSATIONS}/{one}")).json() for one in (group, one_to_one)]

        for operation in about:
            for outsider in (removed, left, stranger):
                for conversation in (group, one_to_one, group.upper()):
                    for message_id in (message, of_removed, str(uuid4())):
                        for user_id in ("me", outsider.id, bob.id):
                            target = (message_id, user_id)
                            seen = comparable(await ask(outsider.api, operation, conversation, *target))
                            unknown = comparable(await ask(outsider.api, operation, str(uuid4()), *target))
                            malformed = comparable(await ask(outsider.api, operation, "no-id", *target))
                            assert seen == unknown == malformed, (operation, outsider.username)
                            assert seen[0] == 404
                            if "{user_id}" not in operation.path:
                                break
                        if "{message_id}" not in operation.path:
                            break
            seen = comparable(await ask(anonymous, operation, group, message, bob.id))
            unknown = comparable(await ask(anonymous, operation, str(uuid4()), message, bob.id))
            assert seen == unknown, operation
            assert seen[0] == 401

        # None of these requests changed anything.
        assert [(await alice.api.get(f"{CONVERSATIONS}/{one}")).json() for one in (group, one_to_one)] == before
        contents = [m["content"] for m in (await alice.history(group))["messages"]]
        assert contents == ["mine", "for members only"]
        for outsider in (removed, left, stranger):
            assert (await outsider.api.get(CONVERSATIONS)).json()["total"] == 0

        # A member gets another answer to each of them.
        for operation in sorted(about, key=lambda operation: operation.name == "deleteMessage"):
            answer = await ask(alice.api, operation, group, message, bob.id)
            assert 200 <= answer.status_code < 300, (operation, answer.text)


async def test_operations_without_a_conversation_require_a_token(server: Server) -> None:
    with trio.fail_after(60):
        for operation in await all_operations(server):
            if operation.name in OWN:
                options: dict[str, Any] = {"json": {}} if operation.method == "POST" else {}
                answer = await Api(server.base_url).request(operation.method, operation.path, **options)
                assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated"), operation


async def test_a_missing_token_is_rejected_before_the_body_is_read(server: Server) -> None:
    with trio.fail_after(60):
        for operation in await all_operations(server):
            if operation.name in OPEN or operation.method not in {"POST", "PATCH", "PUT"}:
                continue
            path = operation.path.format(conversation_id=uuid4(), message_id=uuid4())
            answer = await Api(server.base_url).request(
                operation.method, path, content=b"{", headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 401, operation
