"""Sessions that ask for features in `resume`: the changes since their first frame, and where `prev_rev` stands."""

from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.protocol import SendResume
from tests.support import commands

from .world import Device, World, a_world, delay, settle


async def open_with(world: World, *features: str) -> Device:
    """Opens a session of alice that has not resumed yet, and posts a message so that its room is open."""
    await world.hub.apply(commands.post(world.conversation_id, world.bob, "before"))
    return await Device(world, world.alice, *features).open()


async def resume(client: Device, *features: str, me: int | None = None, revs: dict[UUID, int] | None = None) -> None:
    """Resumes, with these features if there are any, and returns when everything is sent."""
    frame = SendResume(revs=revs or {}, features=list(features) or None, me=me)
    await client.world.hub.lobby.resume(client.session, frame)
    await settle()


async def rename(world: World, name: str) -> None:
    await world.hub.apply(commands.set_properties(world.conversation_id, world.bob, name=name))


def revs_of(client: Device) -> list[tuple[str, int, int]]:
    """Returns type, `rev` and `prev_rev` of the changes that came."""
    kinds = "message", "member", "conversation"
    return [(frame["type"], frame["rev"], frame["prev_rev"]) for frame in client.of_type(*kinds)]


async def test_a_catch_up_begins_at_a_change_that_the_client_asked_for(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.hub.apply(commands.post(world.conversation_id, world.bob, "first"))
        await rename(world, "two")  # rev 2, which it does not ask for
        client = await Device(world, world.alice, "none").open()
        await world.hub.apply(commands.post(world.conversation_id, world.bob, "third"))
        await resume(client)
        assert revs_of(client) == [("message", 3, 1)]


async def test_changes_of_newly_asked_kinds_since_the_first_frame_come(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        client = await open_with(world)
        await world.remove(world.carol)
        await rename(world, "three")
        await resume(client, "members", "conversation")
        assert revs_of(client) == [("member", 2, 1), ("conversation", 3, 2)]


async def test_changes_of_newly_asked_kinds_come_although_their_room_has_ended(autojump_clock: MockClock) -> None:
    async with a_world(room_linger=1.0, resume_wait=60.0) as world:
        client = await open_with(world)
        await world.remove(world.carol)
        await rename(world, "three")
        await trio.sleep(10)
        assert world.hub.room_count == 0
        await resume(client, "members", "conversation")
        assert revs_of(client) == [("member", 2, 1), ("conversation", 3, 2)]


@pytest.mark.parametrize("asked", ["none", "me"])
async def test_a_client_that_asks_for_less_has_missed_nothing(asked: str, autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.hub.apply(commands.post(world.conversation_id, world.bob, "first"))
        await world.remove(world.carol)
        client = await Device(world, world.alice, "members").open()
        await world.hub.apply(commands.post(world.conversation_id, world.bob, "third"))
        await resume(client, asked)
        assert revs_of(client) == [("message", 3, 1)]


async def test_features_take_effect_with_their_answer(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        client = await Device(world, world.alice, "members").open()
        answer = delay(world, monkeypatch, "memberships", is_unread=True)
        world.start(resume, client, "conversation")
        await settle()
        await world.remove(world.carol)  # its room opens, and subscribes the session
        answer.set()
        await settle()
        await world.add(world.carol)
        await settle()
        types = [frame.get("event", frame["type"]) for frame in client.transport.frames]
        assert types.index("features") < types.index("added")
        assert "removed" not in types


async def test_a_session_that_gives_up_me_is_sent_no_membership(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        client = await open_with(world, "me")
        await client.world.hub.members.find_subscription(client.session, world.conversation_id)
        await world.hub.read_positions.mark_read(world.conversation_id, world.alice.id, 1)
        await resume(client, "members")
        await world.remove(world.alice)
        await settle()
        assert client.of_type("membership") == []
        assert len(client.of_type("conversation_removed")) == 1


async def test_a_session_that_gives_up_me_learns_of_removals_while_it_waited(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        client = await open_with(world, "me")
        await world.remove(world.alice)
        await resume(client, "members")
        assert len(client.of_type("conversation_removed")) == 1
        assert client.of_type("membership") == []


async def test_a_session_that_keeps_me_is_sent_memberships_alone(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        client = await open_with(world, "me")
        await world.remove(world.alice)
        await resume(client)
        assert client.of_type("conversation_removed") == []
        assert [frame["is_member"] for frame in client.of_type("membership")] == [False]


@pytest.mark.parametrize("features", [(), ("members",)])
async def test_a_session_that_asks_for_me_misses_nothing_of_an_absence(
    features: tuple[str, ...], autojump_clock: MockClock
) -> None:
    """`me_rev` in the answer counts the removal and the addition, so the client never learns that it was away."""
    async with a_world() as world:
        client = await open_absent(world, *features)
        await resume(client, "me", "members")
        assert client.of_type("conversation_removed", "conversation_added") == []
        assert revs_of(client) == [("message", 3, 1), ("member", 4, 3)]


async def test_a_session_without_me_begins_again_after_an_absence(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        client = await open_absent(world, "members")
        await resume(client)
        notices = client.of_type("conversation_removed", "conversation_added")
        assert [each["type"] for each in notices] == ["conversation_removed", "conversation_added"]
        await world.hub.apply(commands.post(world.conversation_id, world.carol, "now"))
        await settle()
        assert revs_of(client) == [("member", 4, 3), ("message", 5, 4)]


async def open_absent(world: World, *features: str) -> Device:
    """Opens a session of bob, who is removed and added again before it resumes."""
    await world.hub.apply(commands.post(world.conversation_id, world.carol, "before"))
    client = await Device(world, world.bob, *features).open()
    await world.remove(world.bob)
    await world.hub.apply(commands.post(world.conversation_id, world.carol, "meanwhile"))
    await world.add(world.bob)
    return client


async def test_a_client_ahead_of_the_room_is_sent_no_change_again(autojump_clock: MockClock) -> None:
    """It has loaded an addition whose answer is late; the room delivers that in one frame with what follows."""
    async with a_world() as world:
        await Device(world, world.alice).open({})
        await world.remove(world.bob)
        await world.remove(world.carol)
        late = trio.Event()
        world.store.answers = [world.store.commit_and_wait(late)]
        world.start(world.add, world.bob, world.carol)
        await settle()
        bob = await Device(world, world.bob, "members").open({world.conversation_id: 4})
        await world.store.commit([commands.remove(world.conversation_id, world.alice, world.carol)])
        room = world.hub.rooms.get(world.conversation_id)
        assert room is not None
        room.feed.recheck_later()
        await settle()
        assert [(frame["rev"], frame["prev_rev"]) for frame in bob.of_type("member")] == [(5, 4)]
        late.set()
        await settle()
        assert len(bob.of_type("member")) == 1
