"""Features: each client is sent the kinds of changes that it asked for, in one chain of revs, live and resumed."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.errors import PulseError
from pulse_trio.model import FEATURED, Change, Features, Kind, User
from pulse_trio.protocol import SendResume
from pulse_trio.rooms.turns import MAX_USERS_A_TURN
from tests.support import commands

from .world import Device, Guest, World, a_world, device, settle

CHANGES = ("message", "message_updated", "message_deleted", "member", "conversation")
ALL = ("members", "conversation")
KINDS = {
    (): ["message", "message_updated", "message_deleted"],
    ("unknown",): ["message", "message_updated", "message_deleted"],
    ("members",): ["message", "message_updated", "message_deleted", "member"],
    ("conversation",): ["message", "message_updated", "message_deleted", "conversation"],
    ("unknown", *ALL): list(CHANGES),
}
EVENTS = {"added": "members", "removed": "members", "renamed": "conversation"}


async def do(world: World, *steps: str) -> list[Change]:
    """Makes changes of each kind: "post", "edit", "delete", "add", "remove", "rename"."""
    key, made = world.conversation_id, []
    for step in steps:
        stored = world.store.stored(key)
        match step:
            case "post":
                command: Any = commands.post(key, world.alice, f"text {len(stored)}")
            case "edit":
                command = commands.edit(stored[-1], world.alice, "better")
            case "delete":
                command = commands.delete(stored[-1], world.alice)
            case "add":
                command = commands.add(key, world.alice, world.bob)
            case "remove":
                command = commands.remove(key, world.alice, world.bob)
            case _:
                command = commands.set_properties(key, world.alice, name=f"name {world.last_rev}")
        made += await world.hub.apply(command)
    await settle()
    return made


def check_chain(frames: Sequence[dict[str, Any]], after_rev: int) -> None:
    """Checks that each frame names the rev of the one before it."""
    for frame in frames:
        assert frame["prev_rev"] == after_rev < frame["rev"]
        after_rev = frame["rev"]


def test_features_are_what_was_asked_for_and_is_known() -> None:
    assert Features.of(None, is_session=True) == Features()
    assert (Features().mask, Features().names) == (Kind.MESSAGE, [])
    asked = {
        (): (Kind.MESSAGE, []),
        ("unknown", ""): (Kind.MESSAGE, []),
        ("members",): (Kind.MESSAGE | Kind.MEMBER, ["members"]),
        ("conversation",): (Kind.MESSAGE | Kind.CONVERSATION, ["conversation"]),
        ("members", "me", "conversation", "members"): (Kind.ALL, ["conversation", "me", "members"]),
    }
    for names, (kinds, known) in asked.items():
        features = Features.of(names, is_session=True)
        assert (features.kinds, features.names, features.mask) == (kinds, known, kinds | FEATURED)
    assert Features.of(["me"], is_session=False) == Features(are_asked=True)


@pytest.mark.parametrize("features", KINDS, ids="+".join)
@pytest.mark.parametrize("is_session", [True, False], ids=["session", "own connection"])
async def test_a_client_is_sent_the_kinds_that_it_asked_for(
    is_session: bool, features: tuple[str, ...], autojump_clock: MockClock
) -> None:
    async with a_world() as world:
        carol: Device | Guest
        if is_session:
            carol = await device(world, world.carol, None, *features)
        else:
            carol = await world.guest(world.carol, *features).join()
        await do(world, "post", "edit", "remove", "rename", "delete", "add")
        changes = carol.of_type(*CHANGES)
        assert {frame["type"] for frame in changes} == set(KINDS[features])
        events = [event for event in EVENTS if event in {frame["event"] for frame in carol.of_type("system")}]
        assert events == [event for event, feature in EVENTS.items() if feature not in features]
        if features:
            check_chain(changes, 0)
        else:
            assert not any("prev_rev" in frame for frame in changes)


@pytest.mark.parametrize("is_session", [True, False], ids=["session", "own connection"])
async def test_the_first_frame_says_which_features_are_on(is_session: bool, autojump_clock: MockClock) -> None:
    async with a_world() as world:
        found = []
        for features in ((), ("unknown",), ("me", "unknown", "members"), ("members", "conversation")):
            if is_session:
                frame = (await come(await device(world, world.carol, None, *features))).of_type("session")[0]
                assert ("me_rev" in frame) is ("me" in features)
            else:
                frame = (await come(await world.guest(world.carol, *features).join())).of_type("system")[0]
                assert frame["event"] == "joined"
            found.append(frame.get("features"))
        mine = ["me", "members"] if is_session else ["members"]
        assert found == [None, [], mine, ["conversation", "members"]]


async def come(someone: Any) -> Any:
    await settle()
    return someone


async def test_last_rev_is_of_the_kinds_that_the_client_is_sent(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await do(world, "post", "rename", "remove")  # revs 1, 2 and 3
        asked = ((), ("unknown",), ("conversation",), ("members",), ALL)
        for is_open in (False, True):  # in a room that reads the head, and in one that has delivered the changes
            guests = [await world.guest(world.carol, *features).join() for features in asked]
            await settle()
            found = [guest.of_type("system")[0]["last_rev"] for guest in guests]
            assert found == ([1, 1, 2, 3, 3] if not is_open else [4, 4, 5, 6, 6])
            if not is_open:
                await do(world, "post", "rename", "add")  # revs 4, 5 and 6
                assert [guest.of_type("system")[-1]["last_rev"] for guest in guests[:3]] == [4, 4, 5]
        await world.join(world.bob)
        await settle()
        assert [guest.of_type("system")[-1]["last_rev"] for guest in guests] == [4, 4, 5, 6, 6]


@pytest.mark.parametrize("features", [f for f in KINDS if f], ids="+".join)
@pytest.mark.parametrize("is_session", [True, False], ids=["session", "own connection"])
async def test_the_chain_goes_on_from_a_resume_to_live_changes(
    is_session: bool, features: tuple[str, ...], autojump_clock: MockClock
) -> None:
    async with a_world() as world:
        key, carol = world.conversation_id, await world.guest(world.carol, *features).join()
        await do(world, "post", "remove", "rename", "post", "edit", "add", "rename", "post")
        seen = [frame["rev"] for frame in carol.of_type(*CHANGES)]
        for after_rev in range(world.last_rev + 1):
            back: Device | Guest
            if is_session:
                back = await device(world, world.alice, {key: after_rev}, *features)
            else:
                back = await world.guest(world.alice, *features).join(after_rev)
            await settle()
            before = len(back.of_type(*CHANGES))
            check_chain(back.of_type(*CHANGES), after_rev)
            await do(world, "rename", "post")
            last = max([after_rev, *(rev for rev in seen if rev > after_rev)])
            known = back.of_type(*CHANGES)
            check_chain(known[before:], known[before - 1]["rev"] if before else known[0]["prev_rev"])
            assert known[0]["prev_rev"] <= after_rev <= last
            assert [frame["rev"] for frame in known[before:]] == [
                rev
                for rev in (world.last_rev - 1, world.last_rev)
                if rev == world.last_rev or "conversation" in features
            ]
            seen += [frame["rev"] for frame in known[before:]]
            back.leave()
            await settle()


async def test_clients_with_different_features_share_a_room(autojump_clock: MockClock) -> None:
    """Each gets the same changes, in the same order, whatever the others asked for; groups go with their clients."""
    async with a_world() as world:
        guests = {features: await world.guest(world.carol, *features).join() for features in KINDS}
        room = world.hub.rooms.get(world.conversation_id)
        assert room is not None
        assert len(room._audience.groups) == 5, "none, asked for none, and three others"
        steps = ("post", "rename", "remove", "edit", "add", "delete", "post", "remove")
        made = await do(world, *steps)
        for features, guest in guests.items():
            mask = guest.features.kinds
            assert [frame["rev"] for frame in guest.of_type(*CHANGES)] == [c.rev for c in made if c.kind & mask]
            if features:
                check_chain(guest.of_type(*CHANGES), 0)
        for guest in guests.values():
            guest.leave()
        assert room._audience.groups == {}
        assert len(room._audience) == 0


async def test_a_member_frame_has_the_members_as_they_now_are(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        carol = await device(world, world.carol, None, "members")
        await do(world, "remove", "add")
        bob, alice = str(world.bob.id), str(world.alice.id)
        entries = [
            {"user_id": bob, "username": "bob", "is_member": False, "rev": 1, "actor_id": alice},
            {"user_id": bob, "username": "bob", "is_member": True, "rev": 2, "actor_id": alice},
        ]
        frames = carol.of_type("member")
        assert [frame["members"] for frame in frames] == [[entry] for entry in entries]
        assert [(frame["rev"], frame["member_count"]) for frame in frames] == [(1, 2), (2, 3)]
        again = await device(world, world.carol, {world.conversation_id: 0}, "members")
        await settle()
        (resumed,) = again.of_type("member")
        assert resumed["members"] == [entries[1]]
        assert (resumed["rev"], resumed["prev_rev"], resumed["member_count"]) == (2, 0, 3)


async def test_a_conversation_frame_has_the_properties_and_the_new_owner(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key = world.conversation_id
        carol, old = await device(world, world.carol, None, "conversation"), await world.join(world.carol)
        await world.hub.apply(commands.set_properties(key, world.bob, description="Why"))
        await world.hub.apply(commands.leave(key, world.alice))
        await settle()
        fields = {"type": "conversation", "conversation_id": str(key), "name": "Team", "description": "Why"}
        alice, bob = str(world.alice.id), str(world.bob.id)
        expected = [
            {**fields, "rev": 1, "prev_rev": 0, "owner_id": alice, "actor_id": bob},
            {**fields, "rev": 3, "prev_rev": 1, "owner_id": bob, "actor_id": alice},
        ]
        assert carol.of_type("conversation") == expected
        assert [event for event, _ in old.events[1:] if event not in {"joined", "left"}] == ["renamed", "removed"]
        again = await device(world, world.carol, {key: 0}, "conversation")
        await settle()
        assert again.of_type("conversation") == [{**expected[1], "prev_rev": 0}]


# --- features of `resume` ---


async def test_features_of_a_resume_replace_those_of_the_handshake(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key = world.conversation_id
        await world.join(world.alice)
        carol = await Device(world, world.carol, "conversation").open()
        await do(world, "post", "rename", "remove")  # the room is open, and the session subscribed with other features
        features = ["members", "me", "unknown"]
        await world.hub.lobby.resume(carol.session, SendResume(revs={key: 0}, features=features))
        await settle()
        await do(world, "add", "rename", "post")
        kinds = [frame["type"] for frame in carol.transport.frames]
        assert kinds[:2] == ["session", "features"], "before everything else"
        answer = carol.of_type("features")[0]
        assert (answer["features"], answer["me_rev"]) == (["me", "members"], 1)
        changes = carol.of_type(*CHANGES)
        assert [frame["type"] for frame in changes] == ["message", "member", "member", "message"]
        check_chain(changes, 0)


async def test_changes_before_a_resume_are_sent_in_the_kinds_that_it_asks_for(autojump_clock: MockClock) -> None:
    """The conversation is not named in `revs`: the client loads it after `session`, and so has what is older."""
    async with a_world() as world:
        await world.join(world.alice)
        carol = await Device(world, world.carol).open()
        await settle()
        await do(world, "remove", "rename")
        await world.hub.lobby.resume(carol.session, SendResume(revs={}, features=list(ALL)))
        await settle()
        await do(world, "post")
        check_chain(carol.of_type(*CHANGES), 0)
        assert [frame["type"] for frame in carol.of_type(*CHANGES)] == ["member", "conversation", "message"]


@pytest.mark.parametrize("features", [None, [], ["members"]])
async def test_a_resume_with_another_epoch_answers_its_features_first(
    features: list[str] | None, autojump_clock: MockClock
) -> None:
    async with a_world() as world:
        carol = await Device(world, world.carol, "conversation").open()
        resume = SendResume(revs={world.conversation_id: 0}, epoch="another", features=features)
        await world.hub.lobby.resume(carol.session, resume)
        await settle()
        kinds = [frame["type"] for frame in carol.transport.frames]
        assert kinds == ["session", "error"] if features is None else ["session", "features", "error"]
        assert [frame["features"] for frame in carol.of_type("features")] == ([] if features is None else [features])
        await do(world, "post", "remove", "rename")
        asked = ["conversation"] if features is None else features
        found = {frame["type"] for frame in carol.of_type(*CHANGES)}
        assert found == {"message", *("member" if name == "members" else name for name in asked)}


async def test_a_resume_without_features_keeps_those_of_the_handshake(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await do(world, "post", "remove")
        carol = await device(world, world.carol, {world.conversation_id: 1}, "members")
        await settle()
        assert carol.of_type("features") == []
        assert [(frame["rev"], frame["prev_rev"]) for frame in carol.of_type(*CHANGES)] == [(2, 1)]


# --- many users at once ---


class Turns(trio.abc.Instrument):
    """Records how many connections a conversation gains in one step of a task."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.most = 0
        self._before = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._before = self._count

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.most = max(self.most, self._count - self._before)

    @property
    def _count(self) -> int:
        return self.world.hub.get_connection_count(self.world.conversation_id)


@pytest.mark.parametrize("outcome", ["commit", "commit_and_hang"])
async def test_a_thousand_users_are_added_in_one_frame_over_many_turns(outcome: str, autojump_clock: MockClock) -> None:
    """Fault C2; also when the answer is lost and the recheck finds them, in pages."""
    async with a_world(store_timeout=2.0) as world:
        users = await world.new_users(1_000)
        alice, old = await device(world, world.alice, None, "members"), await world.join(world.alice)
        for user in users[::4]:
            await device(world, user, None, *(["me"] if user is users[0] else []))
        await settle()
        turns = Turns(world)
        trio.lowlevel.add_instrument(turns)
        world.store.answers = [getattr(world.store, outcome)]
        world.start(add_or_fail, world, users)
        await trio.sleep(5)
        trio.lowlevel.remove_instrument(turns)
        frames = alice.of_type("member")
        assert len(frames) == (1 if outcome == "commit" else 4)
        entries = [entry for frame in frames for entry in frame["members"]]
        assert [entry["user_id"] for entry in entries] == [str(user.id) for user in users]
        assert [entry["rev"] for entry in entries] == list(range(1, 1_001))
        check_chain(frames, 0)
        assert frames[-1]["member_count"] == 1_003
        added = [frame for frame in old.of_type("system") if frame["event"] == "added"]
        assert sum(frame["user_count"] for frame in added) == 1_000
        assert len(added) == len(frames)
        assert world.hub.get_connection_count(world.conversation_id) == 252
        assert 0 < turns.most <= MAX_USERS_A_TURN


async def add_or_fail(world: World, users: Sequence[User]) -> None:
    with suppress(PulseError):  # the answer is lost
        await world.add(*users)
