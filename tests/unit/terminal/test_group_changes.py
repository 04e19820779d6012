"""`chat` and `tail` while a group changes: the same lines from a server that knows features as from one of before."""

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.client import MembersChanged
from pulse_trio.terminal.lines import Lines, Style
from pulse_trio.terminal.tail import Range, _follow, line_of
from tests.unit.client.scripted import (
    BOB,
    CAROL,
    DAVE,
    TEAM,
    Peer,
    conversation_frame,
    entry,
    member_frame,
    message_frame,
    scripted,
)
from tests.unit.terminal.test_restored import Printed, joined


def system(event: str, who: str, content: str, *user_ids: str) -> dict[str, Any]:
    """The frame of a server that knows no features."""
    users = {"user_ids": list(user_ids), "user_count": len(user_ids)} if user_ids else {}
    return {**Peer.system(event, who, 1), "content": content, **users}


CHANGES = {
    "added": (
        system("added", CAROL, "User carol was added by alice", CAROL),
        member_frame(entry(CAROL, "carol", 1), prev_rev=0),
    ),
    "two added": (
        system("added", CAROL, "Users carol, dave were added by bob", CAROL, DAVE),
        member_frame(entry(CAROL, "carol", 1, actor_id=BOB), entry(DAVE, "dave", 2, actor_id=BOB), prev_rev=0),
    ),
    "removed": (
        system("removed", BOB, "User bob was removed by alice", BOB),
        member_frame(entry(BOB, "bob", 1, is_member=False), prev_rev=0),
    ),
    "left": (
        system("removed", BOB, "User bob left the group", BOB),
        member_frame(entry(BOB, "bob", 1, is_member=False, actor_id=BOB), prev_rev=0),
    ),
    "renamed": (system("renamed", BOB, "User bob renamed the conversation"), conversation_frame(1, name="Crew")),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_of_the_group_has_the_same_lines_as_before(autojump_clock: MockClock, name: str) -> None:
    printed = []
    for frame in CHANGES[name]:
        async with joined(rev=0) as (_, _, room, peer):
            await peer.send(frame)
            with trio.fail_after(100):
                event = await room.receive()
            assert isinstance(event, MembersChanged)
            printed.append((Lines(Style(False), lambda: 0).of(event), line_of(event, epoch="e")))
    before, now = printed
    assert now == before
    assert now[0]


async def test_chat_shows_a_new_owner(autojump_clock: MockClock) -> None:
    async with joined(rev=0) as (_, _, room, peer):
        await peer.send(conversation_frame(1, owner_id=BOB))
        with trio.fail_after(100):
            event = await room.receive()
        assert Lines(Style(False), lambda: 0).of(event) == ["      · User bob is now the owner"]
        assert json.loads(line_of(event)) == {"type": "new_owner", "user_id": BOB, "text": "User bob is now the owner"}


@pytest.mark.parametrize("with_all", [False, True])
async def test_tail_ends_caught_up_after_a_change_of_members(autojump_clock: MockClock, with_all: bool) -> None:
    printed = Printed()
    async with scripted() as (server, client), trio.open_nursery() as nursery:

        async def replay() -> None:
            peer = await server.accept_greeted(rev=2)
            await peer.send(message_frame(1, prev_rev=0), member_frame(entry(CAROL, "carol", 2), prev_rev=1))

        nursery.start_soon(replay)
        async with client.join(TEAM, after=0) as room:
            with trio.fail_after(100):
                await _follow(client, room, printed.output, Range(after=0, follows=False, with_all=with_all))
    kinds = [json.loads(line)["type"] for line in printed.text.splitlines()]
    assert kinds == (["message", "added"] if with_all else ["message"])
