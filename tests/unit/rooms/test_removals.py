"""Removals: a removed user gets nothing above the rev of their removal, whatever is under way at that moment.

Each test stores a secret right after the removal, before the room has delivered the removal: its answer was lost.
"""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.protocol import SendResume
from pulse_trio.rooms.catch_up import PAGE_CHANGES
from tests.support import commands

from .world import Device, World, a_world, delay, device, settle

REMOVED = (4403, "removed from the conversation")
FEATURES = pytest.mark.parametrize("features", [(), ("members", "conversation")], ids=["messages", "all kinds"])


async def remove_and_post(world: World) -> None:
    """Removes bob and stores a secret; the room knows of neither."""
    key = world.conversation_id
    await world.store.commit([commands.remove(key, world.alice, world.bob)])
    await world.store.commit([commands.post(key, world.alice, "secret")])


async def store(world: World, count: int) -> None:
    """Stores messages that the room does not know."""
    for number in range(count):
        await world.store.commit([commands.post(world.conversation_id, world.alice, f"{number}")])


def check(world: World, someone: Any, removed_rev: int) -> None:
    """Checks that somebody got nothing of the conversation above a rev, and no secret."""
    assert "secret" not in [frame.get("content") for frame in someone.transport.frames]
    assert [frame["rev"] for frame in someone.transport.frames if frame.get("rev", 0) >= removed_rev] == []
    assert str(world.bob.id) not in world.hub.get_active_users(world.conversation_id)


@FEATURES
@pytest.mark.parametrize("is_session", [True, False], ids=["session", "own connection"])
@pytest.mark.parametrize("missed", [1, PAGE_CHANGES + 10])
async def test_while_they_catch_up(
    missed: int, is_session: bool, features: tuple[str, ...], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page that is read for them has what was stored after the removal, which the room has not delivered."""
    async with a_world() as world:
        await store(world, missed)
        carol = await world.join(world.carol)
        gate = delay(world, monkeypatch, "changes", is_unread=True)
        bob: Any
        if is_session:
            bob = await device(world, world.bob, {world.conversation_id: 0}, *features)
        else:
            bob = await world.guest(world.bob, *features).join(0)
        await settle()
        await remove_and_post(world)
        gate.set()
        await trio.sleep(5)
        assert len(bob.of_type("message")) == missed, "what was stored before the removal"
        await carol.send("later")
        await trio.sleep(5)
        assert carol.contents == ["secret", "later"]
        check(world, bob, missed + 1)
        if is_session:
            assert bob.of_type("conversation_removed")
        else:
            assert bob.transport.closed == REMOVED


async def test_what_waits_for_the_room_comes_when_it_is_delivered(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a member: the change that a page has, and the room does not, is sent once, and nothing is missed."""
    async with a_world() as world:
        key = world.conversation_id
        await store(world, 3)
        carol = await world.join(world.carol)
        gate = delay(world, monkeypatch, "changes", is_unread=True)
        bob = await device(world, world.bob, {key: 0}, "members")
        own = await world.guest(world.bob, "members").join(1)
        await settle()
        late = trio.Event()
        world.store.answers = [world.store.commit_and_wait(late)]
        await carol.send("committed")
        await settle()
        gate.set()
        await trio.sleep(1)
        assert bob.contents(key) == ["0", "1", "2"]
        late.set()
        await carol.send("later")
        await settle()
        assert bob.contents(key) == ["0", "1", "2", "committed", "later"]
        assert own.contents == ["1", "2", "committed", "later"]
        for someone, first in ((bob, 0), (own, 1)):
            chain = [(frame["prev_rev"], frame["rev"]) for frame in someone.of_type("message")]
            assert chain == [(rev, rev + 1) for rev in range(first, 5)]


@FEATURES
async def test_while_their_session_resumes(
    features: tuple[str, ...], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look-up of the resume says that they are a member; the removal follows before the session starts."""
    async with a_world() as world:
        key = world.conversation_id
        await store(world, 2)
        carol = await world.join(world.carol)
        bob = await Device(world, world.bob, *features).open()
        gate = delay(world, monkeypatch, "memberships")
        world.start(world.hub.lobby.resume, bob.session, SendResume(revs={key: 1}))
        await settle()
        await remove_and_post(world)
        gate.set()
        await settle()
        await carol.send("later")
        await settle()
        check(world, bob, 3)
        assert len(bob.of_type("conversation_removed")) == 1


@FEATURES
async def test_while_their_session_is_live(features: tuple[str, ...], autojump_clock: MockClock) -> None:
    async with a_world() as world:
        carol = await world.join(world.carol)
        bob, own = await device(world, world.bob, None, *features), await world.guest(world.bob, *features).join()
        await remove_and_post(world)
        await carol.send("later")
        await settle()
        for someone in (bob, own):
            check(world, someone, 1)
        assert own.transport.closed == REMOVED
        assert len(bob.of_type("conversation_removed")) == 1


async def test_while_they_are_added_again_they_get_it(autojump_clock: MockClock) -> None:
    """A user who is a member again may read what was stored between, as every new member may read the history."""
    async with a_world() as world:
        key = world.conversation_id
        carol, bob = await world.join(world.carol), await device(world, world.bob, None, "members")
        await remove_and_post(world)
        await world.store.commit([commands.add(key, world.alice, world.bob)])
        await carol.send("later")
        await settle()
        assert bob.contents(key) == ["secret", "later"]
        assert bob.of_type("conversation_removed") == []
        chain = [(frame["prev_rev"], frame["rev"]) for frame in bob.of_type("message", "member")]
        assert chain == [(0, 2), (2, 3), (3, 4)]


async def test_while_a_room_opens_for_them(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_world() as world:
        key = world.conversation_id
        bob = await device(world, world.bob)
        gate = delay(world, monkeypatch, "members")
        await bob.send(key, "mine")  # opens the room
        await settle()
        await remove_and_post(world)
        gate.set()
        await settle()
        assert bob.errors == [("not_a_member", None, str(key))]
        carol = await world.join(world.carol)
        await carol.send("later")
        await settle()
        check(world, bob, 1)


async def test_while_they_resend(autojump_clock: MockClock) -> None:
    """The owner has deleted their message since: the stored one has a rev above that of the removal."""
    async with a_world() as world:
        key = world.conversation_id
        await world.join(world.carol)
        bob = await device(world, world.bob)
        await bob.send(key, "mine", "c-1")
        await settle()
        before = len(bob.transport.frames)
        await world.store.commit([commands.remove(key, world.alice, world.bob)])
        (message,) = world.store.stored(key)
        await world.store.commit([commands.delete(message, world.alice)])
        await bob.send(key, "mine", "c-1")
        await settle()
        kinds = [frame["type"] for frame in bob.transport.frames[before:]]
        assert kinds == ["conversation_removed", "error"]
        assert bob.errors == [("not_a_member", "c-1", str(key))]
