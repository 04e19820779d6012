"""Changes of groups: what is committed reaches the rooms, also when the caller hangs up or the answer is lost."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.conversations import groups, messages
from pulse_trio.conversations.core import Core
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.rooms.room import REMOVED
from pulse_trio.settings import Settings
from pulse_trio.store.base import (
    Conversation,
    Created,
    NewConversation,
    NotAGroup,
    NotAMember,
    OwnerOnly,
    StoreUnavailable,
    TooManyMembers,
    UnknownUsers,
)
from tests.unit.rooms.world import World, a_world, device, settle, virtual_now

TIMEOUT = 5.0  # virtual seconds: PULSE_STORE_TIMEOUT of these tests


def core_of(world: World, **settings: object) -> Core:
    chosen = Settings.model_construct(store_timeout=TIMEOUT, **settings)  # type: ignore[arg-type]
    return Core(settings=chosen, clock=virtual_now, ids=world.ids, store=world.store, hub=world.hub)


async def create(core: Core, world: World, *other_ids: UUID) -> Conversation:
    """Creates a group of alice and others."""
    conversation, _ = await groups.create(core, world.alice, other_ids, is_group=True, name=None, description=None)
    return conversation


def delay(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> trio.Event:
    """Holds back the answers of one operation of the store, after its commit, until the event is set."""
    gate: trio.Event = trio.Event()
    operation: Callable[..., Awaitable[Any]] = getattr(world.store, name)

    async def slow(*args: Any, **kwargs: Any) -> Any:
        result = await operation(*args, **kwargs)
        await gate.wait()
        return result

    monkeypatch.setattr(world.store, name, slow)
    return gate


async def cancel_after_commit(gate: trio.Event, function: Callable[[], Awaitable[object]]) -> None:
    """Calls a use case whose caller hangs up between the commit and its answer."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(function)
        await settle()
        nursery.cancel_scope.cancel()
        gate.set()


async def test_a_caller_who_hangs_up_does_not_keep_an_addition_from_the_rooms(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        core, key = core_of(world), world.conversation_id
        await groups.remove_member(core, key, world.alice, world.bob.id)
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        gate = delay(world, monkeypatch, "apply")
        await cancel_after_commit(gate, lambda: groups.add_members(core, key, world.alice, [world.bob.id]))
        await settle()
        assert [frame["type"] for frame in bob.transport.frames][:2] == ["session", "conversation_added"]
        await alice.send(key, "hello bob")
        await settle()
        assert bob.contents(key) == ["hello bob"]


async def test_a_caller_who_hangs_up_does_not_keep_a_removal_from_the_rooms(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        core, key = core_of(world), world.conversation_id
        bob = await world.join(world.bob)
        gate = delay(world, monkeypatch, "apply")
        await cancel_after_commit(gate, lambda: groups.remove_member(core, key, world.alice, world.bob.id))
        await settle()
        assert bob.transport.closed == (4403, REMOVED)


async def test_a_removal_without_an_answer_closes_the_connections(autojump_clock: MockClock) -> None:
    async with a_world(store_timeout=TIMEOUT) as world:
        core, key = core_of(world), world.conversation_id
        bob = await world.join(world.bob)
        world.store.answers = [world.store.commit_and_hang]
        began = trio.current_time()
        with pytest.raises(StoreUnavailable):
            await groups.remove_member(core, key, world.alice, world.bob.id)
        assert trio.current_time() - began == pytest.approx(TIMEOUT)
        await settle()
        assert bob.transport.closed == (4403, REMOVED)
        assert await world.store.membership(key, world.bob.id) is None, "it was committed"


@pytest.mark.parametrize("is_found", [True, False], ids=["commit found", "no commit found"])
async def test_a_creation_is_retried_with_its_id_and_notified_once(is_found: bool, autojump_clock: MockClock) -> None:
    """Fault C6: the answer to the first try was lost, so the second finds the conversation."""
    async with a_world(store_timeout=TIMEOUT) as world:
        core, create_conversation, tries = core_of(world), world.store.create_conversation, []

        async def lose_once(new: NewConversation) -> Created:
            tries.append(new.id)
            created = await create_conversation(new) if is_found or len(tries) > 1 else None
            if created is None or len(tries) == 1:
                raise StoreUnavailable
            return created

        world.store.create_conversation = lose_once  # type: ignore[method-assign]
        bob, phone = await device(world, world.bob), await device(world, world.bob, None, "me")
        conversation, is_new = await groups.create(
            core, world.alice, [world.bob.id], is_group=True, name=None, description=None
        )
        await trio.sleep(TIMEOUT * 20)
        assert is_new
        assert tries == [conversation.id] * 2
        assert [frame["type"] for frame in bob.transport.frames] == ["session", "conversation_added"]
        assert [(f["conversation_id"], f["is_member"]) for f in phone.of_type("membership")] == [
            (str(conversation.id), True)
        ]


@pytest.mark.parametrize("name", ["add_members", "create_conversation"])
async def test_an_addition_without_an_answer_is_looked_up_later(
    name: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(store_timeout=TIMEOUT) as world:
        core, key = core_of(world), world.conversation_id
        await groups.remove_member(core, key, world.alice, world.bob.id)
        bob = await device(world, world.bob)
        if name == "add_members":
            world.store.answers = [world.store.commit_and_hang]
        else:
            delay(world, monkeypatch, name)
        additions = {
            "add_members": lambda: groups.add_members(core, key, world.alice, [world.bob.id]),
            "create_conversation": lambda: create(core, world, world.bob.id),
        }
        with pytest.raises(StoreUnavailable):
            await additions[name]()
        await trio.sleep(TIMEOUT * 20)
        assert [frame["type"] for frame in bob.transport.frames][:2] == ["session", "conversation_added"]
        assert len(bob.of_type("conversation_added")) == 1


async def test_a_one_to_one_is_created_once(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        core = core_of(world)
        made = [
            await groups.create(core, one, [other.id], is_group=False, name=None, description=None)
            for one, other in ((world.alice, world.bob), (world.bob, world.alice))
        ]
        assert [is_new for _, is_new in made] == [True, False]
        assert made[0][0].id == made[1][0].id
        with pytest.raises(NotAGroup):
            await groups.update(core, made[0][0].id, world.bob, {})
        with pytest.raises(NotAGroup):
            await groups.update(core, made[0][0].id, world.bob, {"name": "Ours"})


async def test_an_update_changes_only_the_given_fields_and_notifies_the_room(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        core, key = core_of(world), world.conversation_id
        carol = await world.join(world.carol)
        await groups.update(core, key, world.bob, {"description": "Why"})
        changed = await groups.update(core, key, world.bob, {"name": "New"})
        assert (changed.name, changed.description) == ("New", "Why")
        assert await groups.update(core, key, world.bob, {}) == changed
        await settle()
        assert carol.events[1:] == [("renamed", str(world.bob.id))] * 2


async def test_refused_changes_say_why(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        core, key = core_of(world, max_group_members=3), world.conversation_id
        with pytest.raises(TooManyMembers):
            await create(core, world, world.bob.id, world.carol.id, world.ids())
        with pytest.raises(UnknownUsers):
            await groups.add_members(core, key, world.alice, [world.ids()])
        with pytest.raises(OwnerOnly):
            await groups.remove_member(core, key, world.bob, world.carol.id)
        with pytest.raises(PulseError) as refused:
            await groups.remove_member(core, key, world.alice, world.ids())
        assert refused.value.code is ErrorCode.NOT_FOUND
        await groups.remove_member(core, key, world.bob, world.bob.id)
        for outsider in (
            lambda: groups.get(core, key, world.bob),
            lambda: groups.active_users(core, key, world.bob),
            lambda: groups.update(core, key, world.bob, {"name": "Mine"}),
            lambda: groups.add_members(core, key, world.bob, [world.bob.id]),
            lambda: groups.remove_member(core, key, world.bob, world.alice.id),
            lambda: messages.post(core, key, world.bob, "hello", None),
            lambda: messages.edit(core, key, world.ids(), world.bob, "hello"),
            lambda: messages.delete(core, key, world.ids(), world.bob),
            lambda: messages.mark_read(core, key, world.bob, 1),
        ):
            with pytest.raises(NotAMember):
                await outsider()
        assert world.hub.room_count == 0, "strangers open no room"
