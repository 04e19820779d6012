"""Replicas: clients that come and go, on a store with delays and lost answers, end with the state of the store.

Each replica applies frames as docs/protocol.md says, and loads over REST only where it says so. No frame may reach a
user that is above the rev of their removal, whatever happens at the same time.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, SupportsIndex
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.errors import PulseError
from pulse_trio.model import Command, Member, User
from pulse_trio.store.base import NotAMember, Refusal, StoreUnavailable
from tests.support import commands

from .world import Device, FaultyStore, Guest, Outcomes, World, a_world, device, settle

FEATURES = ((), ("none",), ("members",), ("conversation", "me"), ("me",), ("members", "conversation", "me"))
CHANGES = frozenset({"message", "message_updated", "message_deleted", "member", "conversation"})


class Troubles:
    """Delays of the store, lost answers and failures; and the log of what was committed about members."""

    def __init__(self, store: FaultyStore, rand: random.Random) -> None:
        self.store = store
        self.rand = rand
        self.are_over = False
        self.removals: dict[tuple[UUID, UUID], int] = {}  # conversation and user → rev of their removal
        for name in ("head", "members", "membership", "memberships", "changes", "user_changes", "mark_read"):
            setattr(store, name, self._delayed(getattr(store, name)))
        store.usual = self._apply

    def _delayed(self, ask: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def slow(*arguments: Any, **options: Any) -> Any:
            await self._pause()
            if not self.are_over and self.rand.random() < 0.05:
                raise StoreUnavailable
            found = await ask(*arguments, **options)
            await self._pause()
            return found

        return slow

    async def _pause(self) -> None:
        if not self.are_over and self.rand.random() < 0.7:
            await trio.sleep(self.rand.choice([0.001, 0.01, 0.1, 0.5]))

    async def _apply(self, batch: Sequence[Command]) -> Outcomes:
        await self._pause()
        if not self.are_over and self.rand.random() < 0.1:
            raise StoreUnavailable
        outcomes = await self.store.commit(batch)
        for outcome in outcomes:
            if not isinstance(outcome, Refusal):
                for change in outcome:
                    if isinstance(change, Member):
                        self._note(change)
        await self._pause()
        if not self.are_over and self.rand.random() < 0.15:
            if self.rand.random() < 0.5:
                await trio.sleep_forever()
            raise StoreUnavailable
        return outcomes

    def _note(self, member: Member) -> None:
        key = member.conversation_id, member.user_id
        if member.is_member:
            self.removals.pop(key, None)
        else:
            self.removals[key] = member.rev


class Copy:
    """The state of one conversation that a client has."""

    def __init__(self, world: World, conversation_id: UUID) -> None:
        stored = world.store._conversations[conversation_id]
        self.rev = stored.last_rev
        self.messages = {message.seq: message.content for message in stored.messages}
        self.members = dict.fromkeys(stored.members, (stored.members_rev, True))
        self.name = stored.name

    def apply(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "message" | "message_updated":
                self.messages[frame["seq"]] = frame["content"]
            case "message_deleted":
                self.messages[frame["seq"]] = ""
            case "conversation":
                self.name = frame["name"]
            case "member":
                for entry in frame["members"]:
                    user_id = UUID(entry["user_id"])
                    if entry["rev"] > self.members.get(user_id, (0, False))[0]:
                        self.members[user_id] = entry["rev"], entry["is_member"]


class Frames(list[dict[str, Any]]):
    """The frames of a transport, handed to a client as they come."""

    def __init__(self, handle: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._handle = handle

    def append(self, frame: dict[str, Any], /) -> None:
        super().append(frame)
        self._handle(frame)

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        return super().__getitem__(index)


class Replica:
    """A client: everything that it knows, and its session while it is connected."""

    def __init__(self, world: World, troubles: Troubles, user: User, features: tuple[str, ...]) -> None:
        self.world = world
        self.troubles = troubles
        self.user = user
        self.features = features
        self.copies: dict[UUID, Copy] = {}
        self.mine: dict[UUID, int] = {}  # read positions
        self.me_rev = 0
        self.faults: list[object] = []
        self.is_fresh = True
        self.device: Device | None = None

    async def connect(self) -> None:
        found = Device(self.world, self.user, *self.features)
        found.transport.frames = Frames(self.handle)
        try:
            if self.is_fresh:
                await found.open({})
            else:
                revs = {key: copy.rev for key, copy in self.copies.items()}
                await found.open(revs, epoch=self.world.store.epoch, me=self.me_rev if self.has_me else None)
        except StoreUnavailable:
            if found._session is not None:
                found.leave()
            return
        self.device = found
        if not self.has_me:
            self.load_list()

    @property
    def has_me(self) -> bool:
        return "me" in self.features

    @property
    def is_connected(self) -> bool:
        return self.device is not None and self.device.session.connection.is_open

    def leave(self) -> None:
        if self.device is not None:
            self.device.leave()
            self.device = None

    def load_list(self) -> None:
        for key, stored in self.world.store._conversations.items():
            if self.user.id not in stored.members:
                self.copies.pop(key, None)
                self.mine.pop(key, None)
            elif key not in self.copies:
                self.load(key)

    def load(self, key: UUID) -> None:
        stored = self.world.store._conversations[key]
        if self.user.id in stored.members:
            self.copies[key] = Copy(self.world, key)
            self.mine[key] = stored.members[self.user.id].read_seq

    def handle(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        key = UUID(frame["conversation_id"]) if "conversation_id" in frame else None
        if kind in CHANGES:
            assert key is not None
            self.check(key, frame)
            copy = self.copies.get(key)
            if copy is None:
                self.load(key)
            elif frame["rev"] > copy.rev:
                if frame.get("prev_rev", 0) > copy.rev:
                    self.faults.append(("gap", copy.rev, frame))
                copy.apply(frame)
                copy.rev = frame["rev"]
        elif kind == "session":
            if self.is_fresh:
                self.me_rev = frame.get("me_rev", 0)
                self.load_list()
            self.is_fresh = False
        elif kind == "conversation_added":
            assert key is not None
            self.load(key)
        elif kind == "conversation_removed":
            assert key is not None
            self.copies.pop(key, None)
        elif kind == "membership":
            assert key is not None
            if frame["prev_me_rev"] > self.me_rev:
                self.faults.append(("gap of me", self.me_rev, frame))
            if frame["me_rev"] <= self.me_rev:
                self.faults.append(("twice", self.me_rev, frame))
            self.me_rev = frame["me_rev"]
            if not frame["is_member"]:
                self.copies.pop(key, None)
                self.mine.pop(key, None)
            else:
                if key not in self.copies:
                    self.load(key)
                self.mine[key] = frame["read_seq"]
        elif kind == "error":
            self.faults.append(frame)

    def check(self, key: UUID, frame: dict[str, Any]) -> None:
        removed = self.troubles.removals.get((key, self.user.id))
        if removed is not None and frame["rev"] >= removed:
            self.faults.append(("after the removal", removed, frame))

    def compare(self) -> None:
        """Compares what the client knows with the store."""
        assert self.faults == []
        conversations = self.world.store._conversations
        mine = {key for key, stored in conversations.items() if self.user.id in stored.members}
        assert set(self.copies) == mine
        for key, copy in self.copies.items():
            stored = conversations[key]
            assert copy.messages == {message.seq: message.content for message in stored.messages}
            if "members" in self.features:
                assert {user for user, (_, is_member) in copy.members.items() if is_member} == set(stored.members)
            if "conversation" in self.features:
                assert copy.name == stored.name
        if self.has_me:
            assert self.mine == {key: conversations[key].members[self.user.id].read_seq for key in mine}


class Visitor(Guest):
    """An own connection, that is closed when its user is removed."""

    def __init__(self, world: World, troubles: Troubles, user: User, features: tuple[str, ...]) -> None:
        super().__init__(world, user, *features)
        self.troubles = troubles
        self.revs: list[int] = []
        self.faults: list[object] = []
        self.transport.frames = Frames(self.handle)

    def handle(self, frame: dict[str, Any]) -> None:
        if frame["type"] in CHANGES:
            removed = self.troubles.removals.get((self.world.conversation_id, self.user.id))
            if removed is not None and frame["rev"] >= removed:
                self.faults.append(("after the removal", removed, frame))
            if self.revs and frame["rev"] <= self.revs[-1]:
                self.faults.append(("twice", self.revs[-1], frame))
            if self.revs and frame.get("prev_rev", 0) > self.revs[-1]:
                self.faults.append(("gap", self.revs[-1], frame))
            self.revs.append(frame["rev"])


class Play:
    """A world in which users act at random."""

    def __init__(self, world: World, seed: int, others: Sequence[User]) -> None:
        self.world = world
        self.rand = rand = random.Random(seed)
        self.troubles = Troubles(world.store, rand)
        self.users = [world.alice, world.bob, world.carol, *others]
        self.replicas = [
            Replica(world, self.troubles, user, features)
            for user in self.users
            for features in rand.sample(FEATURES, 2)
        ]
        self.visitors: list[Visitor] = []
        self.keys = [world.conversation_id]

    async def act(self) -> None:
        rand, world = self.rand, self.world
        key, actor, other = rand.choice(self.keys), rand.choice(self.users), rand.choice(self.users)
        stored = world.store._conversations[key].messages
        seq = rand.randint(1, max(1, len(stored)))
        match rand.randrange(9):
            case 0 | 1 | 2:
                await self.ask(commands.post(key, actor, f"{rand.random()}"))
            case 3 if stored:
                await self.ask(commands.edit(stored[seq - 1], stored[seq - 1].sender_id, f"{rand.random()}"))
            case 4 if stored:
                await self.ask(commands.delete(stored[seq - 1], stored[seq - 1].sender_id))
            case 5:
                await self.ask(commands.set_properties(key, actor, name=f"{rand.random()}"))
            case 6 | 7:
                group = world.store._conversations[key]  # which never gets empty, whatever is under way
                make = commands.remove if len(group.members) == len(self.users) else commands.add
                await self.ask(make(key, group.owner_id, other))
            case 8 if stored:
                with suppress(NotAMember, StoreUnavailable):
                    await world.hub.read_positions.mark_read(key, actor.id, seq)

    async def ask(self, command: Command) -> None:
        with suppress(Refusal, PulseError, StoreUnavailable):
            await self.world.hub.apply(command)

    async def come_and_go(self, replica: Replica, until: float) -> None:
        while trio.current_time() < until:
            if replica.is_connected:
                if self.rand.random() < 0.4:
                    replica.leave()
            else:
                replica.leave()
                await replica.connect()
            await trio.sleep(self.rand.uniform(0, 2))

    async def stall(self, until: float) -> None:
        """Lets one client after the other stop reading for a while."""
        while trio.current_time() < until:
            device = self.rand.choice(self.replicas).device
            if device is not None and (device.transport.stall is None or device.transport.stall.is_set()):
                device.transport.stall = reads_again = trio.Event()
                await trio.sleep(self.rand.choice([0.1, 0.5, 1.5]))
                reads_again.set()
            await trio.sleep(self.rand.uniform(0, 0.3))

    async def visit(self, until: float) -> None:
        while trio.current_time() < until:
            visitor = Visitor(self.world, self.troubles, self.rand.choice(self.users), self.rand.choice(FEATURES))
            rev = self.world.last_rev
            try:
                await visitor.join(self.rand.randint(0, rev) if self.rand.random() < 0.5 else None)
            except (AssertionError, NotAMember, StoreUnavailable):
                continue
            finally:
                await trio.sleep(self.rand.uniform(0, 3))
                visitor.leave()
            self.visitors.append(visitor)


@pytest.mark.parametrize("seed", range(6))
async def test_replicas_end_with_the_state_of_the_store(
    seed: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # the seed decides all
    monkeypatch.setattr(trio._core._run, "_r", random.Random(seed))
    async with a_world(seed=seed, store_timeout=2.0, room_linger=1.0) as world:
        other = world.ids()
        await world.new_conversation(other)
        play = Play(world, seed, await world.new_users(2))
        play.keys.append(other)
        until = trio.current_time() + 20

        async def act() -> None:
            while trio.current_time() < until:
                await play.act()
                await trio.sleep(play.rand.choice([0, 0.01, 0.3]))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(act)
                nursery.start_soon(play.visit, until)
                nursery.start_soon(play.stall, until)
            for replica in play.replicas:
                nursery.start_soon(play.come_and_go, replica, until)
        play.troubles.are_over = True
        for replica in play.replicas:
            if not replica.is_connected:
                replica.leave()
                await replica.connect()
        await trio.sleep(30)
        for key in play.keys:  # a last change of each, which shows a gap before it
            owner = world.store._conversations[key].owner_id
            await world.hub.apply(commands.post(key, owner, "the end"))
        await trio.sleep(30)
        for replica in play.replicas:
            replica.compare()
            assert replica.is_connected
        assert [visitor.faults for visitor in play.visitors if visitor.faults] == []
        assert len(world.hub.user_feeds) == len({replica.user for replica in play.replicas if replica.has_me})
        for replica in play.replicas:
            replica.leave()
        await trio.sleep(30)
        assert (len(world.hub.user_feeds), world.hub.room_count, bool(world.hub._sessions)) == (0, 0, False)


async def test_a_session_that_was_away_ends_like_one_that_never_left(autojump_clock: MockClock) -> None:
    """While the one is away its user is added, removed and added again; and removed elsewhere."""
    async with a_world() as world:
        key, other, third = world.conversation_id, world.ids(), world.ids()
        for each in (other, third):
            await world.new_conversation(each)
        await world.remove(world.bob, key)
        troubles = Troubles(world.store, random.Random(1))
        troubles.are_over = True
        here, away = (Replica(world, troubles, world.bob, ("members", "conversation", "me")) for _ in range(2))
        for replica in (here, away):
            await replica.connect()
        await settle()
        away.leave()
        alice = await device(world, world.alice)
        for place in (key, other):
            for _ in range(2):
                await (world.add if place == key else world.remove)(world.bob, conversation_id=place)
                await alice.send(place, "said meanwhile")
                await settle()
                await (world.remove if place == key else world.add)(world.bob, conversation_id=place)
                await settle()
        await world.add(world.bob, conversation_id=key)
        await world.remove(world.bob, third)
        await alice.send(key, "to all")
        await trio.sleep(1)
        await world.hub.read_positions.mark_read(key, world.bob.id, 3)
        await away.connect()
        await trio.sleep(1)
        for replica in (here, away):
            replica.compare()
        assert away.copies[key].messages == here.copies[key].messages
        assert away.mine == here.mine == {key: 3, other: here.mine[other]}
        assert away.me_rev == here.me_rev
