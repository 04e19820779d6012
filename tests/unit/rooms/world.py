"""A hub with users on a store that fails on command, all on Trio's virtual clock."""

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from pulse_trio.conversations import messages
from pulse_trio.conversations.core import Core
from pulse_trio.errors import PulseError
from pulse_trio.ids import IdSource
from pulse_trio.model import Change, Command, Features, Message, Post, User
from pulse_trio.protocol import Encoded, SendMessage, SendResume
from pulse_trio.rooms.hub import Hub
from pulse_trio.rooms.session import Session
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.settings import Settings
from pulse_trio.store.base import Handover, NewConversation, Outcome, StoreRefused, StoreUnavailable
from pulse_trio.store.memory import MemoryStore
from tests.support import commands

LONGEST = 3_600  # virtual seconds after which a test that hangs fails
MOST_MEMBERS = 5_000
START = datetime(2026, 2, 4, 10, 30, tzinfo=UTC)

Outcomes = list[Outcome]
Answer = Callable[[Sequence[Command]], Awaitable[Outcomes]]


def virtual_now() -> datetime:
    """Returns the virtual time as a time of day."""
    return START + timedelta(seconds=trio.current_time())


class FaultyStore(MemoryStore):
    """A store in memory whose next commands can be given other outcomes.

    `attempts` has the contents of every batch of messages that was tried; `answers` what the next calls do, and `usual`
    what those after them do. A message with the content `poison` can never be stored. `has_short_way`: it takes
    handovers, but not when a fault of ours comes next.
    """

    has_short_way = True

    def __init__(self) -> None:
        super().__init__()
        self.attempts: list[list[str]] = []
        self.answers: list[Answer] = []
        self.usual: Answer = self.commit
        self.gate: trio.Event | None = None
        self.in_append = 0

    def apply_soon(self, handover: Handover[Post]) -> bool:
        is_crash = (self.answers[0] if self.answers else self.usual) == self.crash
        return self.has_short_way and not is_crash and super().apply_soon(handover)

    async def apply(self, batch: Sequence[Command]) -> Outcomes:
        posts = [command.content for command in batch if isinstance(command, Post)]
        if posts:
            self.attempts.append(posts)
        answer = self.answers.pop(0) if self.answers else self.usual
        self.in_append += 1
        try:
            if self.gate is not None:
                await self.gate.wait()
            if "poison" in posts:
                await trio.lowlevel.checkpoint()
                raise StoreRefused("poison")
            return await answer(batch)
        finally:
            self.in_append -= 1

    def hold(self) -> trio.Event:
        """Makes commands wait for the event that is returned."""
        self.gate = trio.Event()
        return self.gate

    async def commit(self, batch: Sequence[Command]) -> Outcomes:
        return await super().apply(batch)

    async def fail(self, batch: Sequence[Command]) -> Outcomes:
        """Commits nothing."""
        await trio.lowlevel.checkpoint()
        raise StoreUnavailable

    async def commit_and_lose(self, batch: Sequence[Command]) -> Outcomes:
        """Commits all, and loses the answer."""
        await super().apply(batch)
        raise StoreUnavailable

    def commit_after(self, event: trio.Event, nursery: trio.Nursery) -> Answer:
        """Loses the connection at once; the command is carried out when the event is set."""

        async def late(batch: Sequence[Command]) -> None:
            await event.wait()
            await self.commit(batch)

        async def lose(batch: Sequence[Command]) -> Outcomes:
            nursery.start_soon(late, batch)
            return await self.fail(batch)

        return lose

    async def hang(self, batch: Sequence[Command]) -> Outcomes:
        await trio.sleep_forever()
        raise AssertionError

    async def commit_and_hang(self, batch: Sequence[Command]) -> Outcomes:
        await super().apply(batch)
        return await self.hang(batch)

    def commit_and_wait(self, answer: trio.Event) -> Answer:
        """Commits all, and answers when the event is set."""

        async def late(batch: Sequence[Command]) -> Outcomes:
            outcomes = await self.commit(batch)
            await answer.wait()
            return outcomes

        return late

    async def crash(self, batch: Sequence[Command]) -> Outcomes:
        """Fails as a bug of ours does, not as the database."""
        await trio.lowlevel.checkpoint()
        raise RuntimeError("a fault in the store")

    def stored(self, conversation_id: UUID) -> list[Message]:
        """Returns the committed messages, in the order of seq."""
        return list(self._conversations[conversation_id].messages)

    def last_rev(self, conversation_id: UUID) -> int:
        """Returns the rev of the last change that is committed."""
        return self._conversations[conversation_id].last_rev


class FakeTransport:
    """A connection that keeps the frames it is sent. `stall`: its client does not read.

    `has_short_way`: it takes frames at once while its client reads. `room`: bytes that it takes of them; the rest
    is kept until `flush`.
    """

    has_short_way = True

    def __init__(self) -> None:
        self.room: int | None = None
        self.kept = b""
        self.is_abandoned = False
        self.frames: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self.stall: trio.Event | None = None
        self.close_stall: trio.Event | None = None
        self.broken: Exception | None = None

    def write_nowait(self, data: bytes) -> int:
        is_stalled = self.stall is not None and not self.stall.is_set()
        if not self.has_short_way or self.kept or is_stalled or self.broken or self.closed or self.room == 0:
            return -1
        if self.room is not None and len(data) > self.room:
            self.kept = data
        else:
            self._take(data)
        return len(self.kept)

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.stall is not None:
            await self.stall.wait()
        kept, self.kept = self.kept, b""
        self._take(kept)

    def abandon(self) -> None:
        self.is_abandoned = bool(self.kept)
        self.kept = b""

    def _take(self, data: bytes) -> None:
        while data:
            header = 2 if data[1] < 126 else 4 if data[1] == 126 else 10
            size = data[1] if header == 2 else int.from_bytes(data[2:header])
            assert data[0] == 0x81
            self.frames.append(json.loads(data[header : header + size]))
            data = data[header + size :]

    async def send(self, frames: Sequence[Encoded]) -> None:
        assert not self.kept, "a frame has overtaken another"
        if self.stall is not None:
            await self.stall.wait()
        if self.broken is not None:
            raise self.broken
        for frame in frames:
            self.frames.append(json.loads(frame.text))
        await trio.lowlevel.checkpoint()

    async def close(self, code: int, reason: str) -> None:
        assert self.closed is None, "closed twice"
        assert len(reason.encode()) <= 123  # RFC 6455, section 5.5
        self.closed = (code, reason)
        if self.close_stall is not None:
            await self.close_stall.wait()
        await trio.lowlevel.checkpoint()


class Guest:
    """A connection of a user, driven as the edge does it, without I/O."""

    def __init__(self, world: "World", user: User, *features: str) -> None:
        self.features = Features.of(features or None, is_session=False)
        self.world = world
        self.user = user
        self.transport = FakeTransport()
        self.ended = trio.Event()
        self.scopes: list[trio.CancelScope] = []
        self._subscription: Subscription | None = None

    @property
    def subscription(self) -> Subscription:
        assert self._subscription is not None
        return self._subscription

    async def join(self, after_rev: int | None = None) -> "Guest":
        world = self.world
        member_rev = await world.store.membership(world.conversation_id, self.user.id)
        assert member_rev is not None
        self._subscription = await world.hub.connect(
            world.conversation_id,
            self.user,
            self.transport,
            member_rev=member_rev,
            features=self.features,
            on_ended=self._on_ended,
            after_rev=after_rev,
        )
        return self

    def _on_ended(self) -> None:
        assert not self.ended.is_set(), "ended twice"
        self.ended.set()
        for scope in self.scopes:
            scope.cancel()
        self.leave()

    def leave(self) -> None:
        self.world.hub.disconnect(self.world.conversation_id, self.user.id, self.transport)

    async def send(self, content: str, client_id: str | None = None) -> None:
        """Sends a message as the edge does: cancelled when the connection ends."""
        with trio.CancelScope() as scope:
            self.scopes.append(scope)
            frame = SendMessage(content=content, client_id=client_id)
            await messages.send(self.world.core, self.subscription, frame)

    async def read(self, seq: int) -> None:
        await self.world.hub.read_positions.request_read(self.subscription, seq)

    def of_type(self, *kinds: str) -> list[dict[str, Any]]:
        return [frame for frame in self.transport.frames if frame["type"] in kinds]

    @property
    def contents(self) -> list[str]:
        """The messages that arrived."""
        return [frame["content"] for frame in self.of_type("message")]

    @property
    def errors(self) -> list[tuple[str, str | None]]:
        """Code and client_id of the errors that arrived."""
        return [(frame["code"], frame.get("client_id")) for frame in self.of_type("error")]

    @property
    def events(self) -> list[tuple[str, str]]:
        """The events in system frames, each with its user."""
        return [(frame["event"], frame["sender_id"]) for frame in self.of_type("system")]


class Device:
    """A session of a user, driven as the edge does it, without I/O."""

    def __init__(self, world: "World", user: User, *features: str) -> None:
        self.features = Features.of(features or None, is_session=True)
        self.world = world
        self.user = user
        self.transport = FakeTransport()
        self.ended = trio.Event()
        self._session: Session | None = None

    @property
    def session(self) -> Session:
        assert self._session is not None
        return self._session

    async def open(
        self, revs: dict[UUID, int] | None = None, epoch: str | None = None, me: int | None = None
    ) -> "Device":
        self._session = await self.world.hub.lobby.open(
            self.user, self.transport, on_ended=self.ended.set, features=self.features
        )
        if revs is not None:
            await self.world.hub.lobby.resume(self._session, SendResume(revs=revs, epoch=epoch, me=me))
        return self

    def leave(self) -> None:
        self.world.hub.lobby.close(self.session)

    async def send(self, conversation_id: UUID, content: str, client_id: str | None = None) -> None:
        frame = SendMessage(content=content, client_id=client_id, conversation_id=conversation_id)
        subscription = await self.find_subscription(conversation_id, client_id)
        if subscription is not None:
            await messages.send(self.world.core, subscription, frame)

    async def find_subscription(self, conversation_id: UUID, client_id: str | None = None) -> Subscription | None:
        """Finds the subscription for a frame as the edge does; None if the frame is refused."""
        try:
            return await self.world.hub.members.find_subscription(self.session, conversation_id)
        except PulseError as error:
            self.session.subscription(conversation_id).refuse(error, client_id)
            return None

    async def read(self, conversation_id: UUID, seq: int) -> None:
        subscription = await self.find_subscription(conversation_id)
        if subscription is not None:
            await self.world.hub.read_positions.request_read(subscription, seq)

    def watch(self, *users: User) -> None:
        self.world.hub.watches.watch(self.session.connection, [user.id for user in users])

    def of_type(self, *kinds: str) -> list[dict[str, Any]]:
        return [frame for frame in self.transport.frames if frame["type"] in kinds]

    def contents(self, conversation_id: UUID) -> list[str]:
        return [f["content"] for f in self.of_type("message") if f["conversation_id"] == str(conversation_id)]

    @property
    def errors(self) -> list[tuple[str, str | None, str | None]]:
        return [(f["code"], f.get("client_id"), f.get("conversation_id")) for f in self.of_type("error")]


class World:
    """A conversation of alice, bob and carol, and a hub."""

    def __init__(self, core: Core, store: FaultyStore, nursery: trio.Nursery) -> None:
        self.core = core
        self.store = store
        self.hub = core.hub
        self.nursery = nursery
        self.ids = ids = core.ids
        self.conversation_id = ids()
        self.alice, self.bob, self.carol = (User(ids(), name) for name in ("alice", "bob", "carol"))

    async def set_up(self) -> None:
        await self.new_conversation(self.conversation_id)

    async def new_conversation(self, conversation_id: UUID) -> None:
        users = (self.alice, self.bob, self.carol)
        for user in users:
            if await self.store.find_subject(str(user.id), user.id) is None:
                await self.store.create_user(user, password_hash=None, subject=None, created_at=START)
        await self.store.create_conversation(
            NewConversation(
                id=conversation_id,
                name="Team",
                description=None,
                is_group=True,
                owner_id=self.alice.id,
                member_ids=tuple(user.id for user in users),
                created_at=START,
            )
        )

    async def new_users(self, count: int) -> list[User]:
        """Registers users who are in no conversation."""
        first = len(self.store._accounts)
        users = [User(self.ids(), f"user{number}") for number in range(first, first + count)]
        for user in users:
            await self.store.create_user(user, password_hash=None, subject=None, created_at=START)
        return users

    async def add(self, *users: User, conversation_id: UUID | None = None) -> Sequence[Change]:
        """Adds users to a conversation, as the use case does."""
        key = self.conversation_id if conversation_id is None else conversation_id
        return await self.hub.apply(commands.add(key, self.alice, *users, limit=MOST_MEMBERS))

    async def remove(self, user: User, conversation_id: UUID | None = None) -> Sequence[Change]:
        """Removes a user from a conversation, as the use case does."""
        key = self.conversation_id if conversation_id is None else conversation_id
        return await self.hub.apply(commands.remove(key, self.alice, user))

    def guest(self, user: User, *features: str) -> Guest:
        return Guest(self, user, *features)

    async def join(self, user: User, after_rev: int | None = None) -> Guest:
        return await self.guest(user).join(after_rev)

    def start(self, function: Callable[..., Awaitable[object]], *arguments: object) -> None:
        self.nursery.start_soon(function, *arguments)

    @property
    def stored(self) -> list[str]:
        """The contents that are committed, in order; seq has no gap, nor has rev if only messages were posted."""
        messages = self.store.stored(self.conversation_id)
        places = range(1, len(messages) + 1)
        assert [message.seq for message in messages] == list(places)
        revs = [message.rev for message in messages]
        assert revs == (list(places) if self.last_rev == len(messages) else sorted(set(revs)))
        return [message.content for message in messages]

    @property
    def last_rev(self) -> int:
        """The rev of the last change that is committed."""
        return self.store.last_rev(self.conversation_id)


async def device(world: World, user: User, revs: dict[UUID, int] | None = None, *features: str) -> Device:
    return await Device(world, user, *features).open({} if revs is None else revs)


def delay(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, *, times: int | None = None, is_unread: bool = False
) -> trio.Event:
    """Holds back the store's answers of one kind until the event is set.

    Args:
        world: whose store.
        monkeypatch: ends it with the test.
        name: the operation.
        times: the number of answers that are held back, the next ones; None for all.
        is_unread: the store reads when the event is set, and so finds what was committed until then.
    """
    gate, ask, count = trio.Event(), getattr(world.store, name), 0

    async def slow(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        is_slow = times is None or count <= times
        if is_slow and is_unread:
            await gate.wait()
        found = await ask(*arguments, **options)
        if is_slow:
            await gate.wait()
        return found

    monkeypatch.setattr(world.store, name, slow)
    return gate


async def settle() -> None:
    """Waits until all tasks are blocked, without time passing."""
    await wait_all_tasks_blocked()


@asynccontextmanager
async def a_world(seed: int = 1, **settings: object) -> AsyncIterator[World]:
    """A running hub, ended with its test."""
    store = FaultyStore()
    rand = random.Random(seed)
    ids = IdSource(virtual_now, rand.randbytes)
    # Without the environment, so that only the settings of the test differ from the defaults.
    chosen = Settings.model_construct(**settings)  # type: ignore[arg-type]
    hub = Hub(store, chosen, clock=virtual_now, rand=rand)
    core = Core(settings=chosen, clock=virtual_now, ids=ids, store=store, hub=hub)
    with trio.fail_after(LONGEST):
        async with trio.open_nursery() as nursery:
            store.nursery = nursery
            await nursery.start(hub.run)
            world = World(core, store, nursery)
            await world.set_up()
            yield world
            nursery.cancel_scope.cancel()
    assert hub.room_count == 0
