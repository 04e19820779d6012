"""The service is told to end under load, once and again: in time, in order, and nothing acknowledged is lost."""

import json
import signal
import tomllib
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from tests.faults.talkers import talking
from tests.faults.test_stalls import locked
from tests.support.client import Person
from tests.support.raw import frame, open_chat, open_raw, upgrade_request
from tests.support.server import Server

Start = Callable[..., Server]
GRACEFUL = tomllib.loads((Path(__file__).resolve().parents[2] / "hypercorn.toml").read_text())["graceful_timeout"]


@pytest.mark.process_end
@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
async def test_told_to_end_under_load(start_server: Start, times: int) -> None:
    with trio.fail_after(90):
        server = start_server()
        async with talking(server.base_url) as group:
            for _ in range(2):
                await group.more(30)
                for _ in range(times):
                    server.process.send_signal(signal.SIGTERM)
                with trio.fail_after(GRACEFUL + 2):
                    assert await trio.to_thread.run_sync(server.wait) == 0
                assert "Traceback" not in server.output
                server = await trio.to_thread.run_sync(start_server)
                group.base_url = server.base_url
            await group.more(30)
        assert all(not talker.refused for talker in group.talkers), "what was taken was stored"


async def test_who_comes_while_it_ends_is_refused_with_503(database: str, start_server: Start) -> None:
    server = start_server()
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        conversation = await alice.create_group()
        token = f"?token={alice.token}"
        paths = (f"/api/chat/ws/{conversation}{token}", f"/api/chat/ws{token}")
        async with open_chat(alice, conversation) as chat, AsyncExitStack() as stack:
            waiting = [await stack.enter_async_context(open_raw(server.port)) for _ in paths]
            with locked(database):  # the end waits for what is to be stored, for a while
                await chat.send(frame({"type": "message", "content": "the last"}))
                await chat.send(frame({"type": "ping"}))
                await chat.read_json_type("pong")
                server.process.send_signal(signal.SIGTERM)
                assert await chat.read_close() == 1012
                for path, client in zip(paths, waiting, strict=True):
                    refused = await client.request(upgrade_request(path))
                    assert (refused.status, refused.json()["code"]) == (503, "unavailable")
        assert await trio.to_thread.run_sync(server.wait) == 0
    assert "Traceback" not in server.output


async def test_a_client_with_a_closed_window_does_not_delay_the_end(start_server: Start) -> None:
    unlimited = {"PULSE_FRAMES_PER_SECOND": "0", "PULSE_BYTES_PER_SECOND": "0"}
    server = start_server(PULSE_WRITE_TIMEOUT="300", PULSE_OUTBOX_BYTES="67108864", **unlimited)
    with trio.fail_after(90):
        alice, bob = [await Person.register(server.base_url, name) for name in ("alice", "bob")]
        conversation = await alice.create_group(bob)
        text = json.dumps({"type": "message", "content": "\U0001f600" * 4_000}, ensure_ascii=False)
        async with open_chat(alice, conversation) as a, open_chat(bob, conversation, receive_buffer=4_096):
            for _ in range(600):  # 10 MB: more than any socket holds
                await a.send(frame(text))
                await a.read_json_type("message")
            server.process.send_signal(signal.SIGTERM)
            with trio.fail_after(GRACEFUL + 2):
                assert await a.read_close() == 1012
                assert await trio.to_thread.run_sync(server.wait) == 0
    assert "Traceback" not in server.output
