"""`pulse-trio send` and its deadline."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.client import Client
from pulse_trio.terminal.access import Access
from pulse_trio.terminal.exits import Exit, Stop
from pulse_trio.terminal.send import send
from tests.unit.client.scripted import ALICE, NOW, TEAM, Answer, scripted

PATH = "POST", f"/api/chat/conversations/{TEAM}/messages"


def stored(body: Any) -> Answer:
    message = {"id": TEAM, "conversation_id": TEAM, "sender_id": ALICE, "sender_username": "alice", "seq": 7, "rev": 9}
    kept = {"content": body["content"], "is_edited": False, "is_deleted": False, "created_at": NOW, "updated_at": NOW}
    return 201, {**message, **kept}


class Slow:
    """A way in that takes its time to be left."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Client]:
        yield self._client
        await trio.sleep(60)


async def test_what_is_acknowledged_is_told_whatever_the_time(
    autojump_clock: MockClock, capfd: pytest.CaptureFixture[str]
) -> None:
    async with scripted() as (server, client):
        server.answers[PATH] = stored
        access = cast("Access", Slow(client))
        assert await send(access, TEAM, "hello", None, seconds=5) == Exit.OK
        assert capfd.readouterr().out == f"{TEAM} 7\n"
        server.is_down = True
        with pytest.raises(Stop, match="may be stored; resend") as caught:
            await send(access, TEAM, "hello", None, seconds=0)
        assert caught.value.code == Exit.NOT_STORED
