"""The AsyncAPI document as it is served, and that each kind of connection takes the frames that it names."""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from tests.support.client import Api, Person
from tests.support.frames import follow
from tests.support.server import Server


async def load(server: Server, **headers: str) -> dict[str, Any]:
    answer = await Api(server.base_url).get("/asyncapi.json", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    document: dict[str, Any] = answer.json()
    return document


async def test_it_is_served_with_the_settings_and_the_address_of_the_service(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(PULSE_MAX_CONTENT_CHARS="77", PULSE_TRUSTED_PROXIES="1")
    with trio.fail_after(30):
        document = await load(server)
        behind = await load(server, **{"Host": "chat.example", "X-Forwarded-Proto": "https"})
    assert document["components"]["schemas"]["SendMessage"]["properties"]["content"]["maxLength"] == 77
    here = document["servers"]["service"]
    assert (here["host"], here["protocol"]) == (f"127.0.0.1:{server.port}", "ws")
    there = behind["servers"]["service"]
    assert (there["host"], there["protocol"]) == ("chat.example", "wss")


async def test_without_a_proxy_a_client_does_not_say_that_there_is_tls(server: Server) -> None:
    with trio.fail_after(30):
        document = await load(server, **{"X-Forwarded-Proto": "https"})
    assert document["servers"]["service"]["protocol"] == "ws"


@pytest.mark.parametrize("channel", ["Conversation", "Session"])
async def test_a_connection_takes_the_frames_that_the_document_names(server: Server, channel: str) -> None:
    with trio.fail_after(60):
        document = await load(server)
        messages = [follow(document, follow(document, named)) for named in frames_of(document, "Session")]
        named_here = {follow(document, follow(document, named))["name"] for named in frames_of(document, channel)}
        alice = await Person.register(server.base_url, "alice")
        group = await alice.create_group()
        for message in messages:
            frame = message["examples"][0]["payload"]
            if "conversation_id" in frame:
                frame["conversation_id"] = group
            # Each on a connection of its own: `Person.session` has sent its `resume`, which may only come first.
            async with alice.connect(group) if channel == "Conversation" else alice.session() as chat:
                if (channel, frame["type"]) != ("Session", "resume"):
                    await chat.send(frame)
                await chat.send('{"type": "none"}')  # the last one to be refused
                refused = []
                while (answer := await chat.receive_type("error"))["code"] != "unknown_type":
                    refused.append((answer["code"], answer.get("field")))
            assert (("invalid_frame", "type") not in refused) is (frame["type"] in named_here), (frame, refused)


def frames_of(document: dict[str, Any], channel: str) -> list[dict[str, str]]:
    """Returns the frames that a client may send."""
    found: list[dict[str, str]] = document["operations"][f"receive{channel}"]["messages"]
    return found
