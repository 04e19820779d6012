"""Changes of members and of the conversation in a room, from a server that knows features."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.client import Event, Member, MembersChanged, Message, Offline, Online, ProtocolError, Room
from tests.unit.client.scripted import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    EPOCH,
    TEAM,
    Peer,
    ScriptedServer,
    conversation_frame,
    entry,
    member_frame,
    message_frame,
    own_frame,
    scripted,
)


@asynccontextmanager
async def joined(rev: int = 0, **options: Any) -> AsyncIterator[tuple[Room, ScriptedServer, Peer, trio.Nursery]]:
    """A room, the server, and the server's end of the room's first connection, greeted with this rev."""
    async with scripted() as (server, client), trio.open_nursery() as nursery:
        nursery.start_soon(server.accept_greeted, rev)
        async with client.join(TEAM, **options) as room:
            yield room, server, server.last_peer, nursery
        nursery.cancel_scope.cancel()


async def events(room: Room, count: int) -> list[Event]:
    """The next events; that the connection breaks and comes back is passed over."""
    found: list[Event] = []
    with trio.fail_after(500):
        while len(found) < count:
            event = await room.receive()
            if not isinstance(event, Offline | Online):
                found.append(event)
    return found


async def changes(room: Room, count: int) -> list[MembersChanged]:
    found = await events(room, count)
    assert all(isinstance(event, MembersChanged) for event in found), found
    return [event for event in found if isinstance(event, MembersChanged)]


async def test_a_room_asks_for_its_features_on_every_connection(autojump_clock: MockClock) -> None:
    async with joined() as (_, server, peer, _):
        assert (peer.features, peer.resumes) == ("members,conversation", None)
        peer.cut()
        peer = await server.accept()
        assert (peer.features, peer.resumes) == ("members,conversation", (0, EPOCH))


async def test_users_who_are_added_are_one_event_with_their_names(autojump_clock: MockClock) -> None:
    async with joined() as (room, _, peer, _):
        await peer.send(member_frame(entry(CAROL, "carol", 1), entry(DAVE, "dave", 2), prev_rev=0))
        (added,) = await changes(room, 1)
        assert (added.what, added.user_id, added.text) == (
            "added",
            UUID(CAROL),
            "Users carol, dave were added by alice",
        )
        assert (added.user_ids, added.user_count, added.member_count) == ((UUID(CAROL), UUID(DAVE)), 2, 3)
        assert added.members == (
            Member(UUID(CAROL), "carol", True, 1, UUID(ALICE)),
            Member(UUID(DAVE), "dave", True, 2, UUID(ALICE)),
        )
        assert (room.rev, room.head_rev, room.name_of(UUID(DAVE))) == (2, 2, "dave")


@pytest.mark.parametrize(
    ("entries", "texts"),
    [
        ([entry(BOB, "bob", 1, is_member=False)], ["User bob was removed by alice"]),
        ([entry(BOB, "bob", 1, is_member=False, actor_id=BOB)], ["User bob left the group"]),
        ([entry(BOB, "bob", 1, is_member=False, actor_id=None)], ["User bob was removed"]),
        ([entry(CAROL, "carol", 1, actor_id=DAVE)], ["User carol was added"]),
        (
            [entry(CAROL, "carol", 1), entry(BOB, "bob", 2, is_member=False, actor_id=BOB), entry(DAVE, "dave", 3)],
            ["Users carol, dave were added by alice", "User bob left the group"],
        ),
        (
            [entry(str(UUID(int=number)), f"user{number}", number) for number in range(1, 1_001)],
            ["Users user1, user2, user3 and 997 more were added by alice"],
        ),
    ],
    ids=["removed", "left", "by nobody known", "by a user of no known name", "several", "a thousand"],
)
async def test_sentences_say_who_was_added_or_removed(
    autojump_clock: MockClock, entries: list[Any], texts: list[str]
) -> None:
    async with joined() as (room, _, peer, _):
        await peer.send(member_frame(*entries, prev_rev=0))
        found = await changes(room, len(texts))
        assert [event.text for event in found] == texts
        assert sum(event.user_count for event in found) == len(entries)
        assert room.rev == entries[-1]["rev"]


async def test_the_position_moves_with_the_last_event_of_a_frame(autojump_clock: MockClock) -> None:
    async with joined() as (room, _, peer, _):
        await peer.send(
            message_frame(1),
            member_frame(entry(CAROL, "carol", 2), entry(BOB, "bob", 3, is_member=False), prev_rev=1),
        )
        revs = []
        for _ in range(3):
            await events(room, 1)
            revs.append(room.rev)
        assert revs == [1, 1, 3]


async def test_entries_that_came_before_are_left_out(autojump_clock: MockClock) -> None:
    async with joined() as (room, _, peer, _):
        await peer.send(
            member_frame(entry(CAROL, "carol", 1), prev_rev=0),
            member_frame(entry(CAROL, "carol", 1), entry(DAVE, "dave", 2), prev_rev=0),
            member_frame(entry(DAVE, "dave", 2), prev_rev=0),
            message_frame(1, rev=3, prev_rev=2),
        )
        first, second = await changes(room, 2)
        assert [first.user_ids, second.user_ids] == [(UUID(CAROL),), (UUID(DAVE),)]
        assert isinstance((await events(room, 1))[0], Message)
        assert room.gaps == 0


async def test_a_member_frame_without_an_entry_of_its_rev_is_an_error(autojump_clock: MockClock) -> None:
    async with joined() as (room, _, peer, _):
        await peer.send({**member_frame(entry(CAROL, "carol", 1), prev_rev=0), "members": []})
        with pytest.raises(ProtocolError, match="no entry"):
            await room.receive()


async def test_a_new_name_comes_with_the_details(autojump_clock: MockClock) -> None:
    async with joined() as (room, _, peer, _):
        await peer.send(
            conversation_frame(1, name="Crew", description="Work"),
            conversation_frame(2, name=None, actor_id=None),
        )
        renamed, unnamed = await changes(room, 2)
        assert (renamed.what, renamed.user_id, renamed.text) == (
            "renamed",
            UUID(BOB),
            "User bob renamed the conversation",
        )
        assert renamed.details is not None
        assert (renamed.details.name, renamed.details.description) == ("Crew", "Work")
        assert (renamed.details.owner_id, renamed.details.rev) == (UUID(ALICE), 1)
        assert (unnamed.what, unnamed.user_id, unnamed.text) == ("renamed", None, "The conversation was renamed")
        assert (unnamed.user_ids, room.rev) == ((), 2)


async def test_a_new_owner_is_an_event_of_its_own(autojump_clock: MockClock) -> None:
    async with joined() as (room, _, peer, _):
        await peer.send(
            conversation_frame(1, owner_id=BOB, actor_id=None),
            conversation_frame(2, owner_id=ALICE, name="Crew"),
            conversation_frame(3, owner_id=ALICE, name="Crew"),
        )
        found = await changes(room, 4)
        assert [(event.what, event.text) for event in found] == [
            ("new_owner", "User bob is now the owner"),
            ("new_owner", "User alice is now the owner"),
            ("renamed", "User bob renamed the conversation"),
            ("renamed", "User bob renamed the conversation"),
        ]
        assert found[0].user_id == UUID(BOB)
        assert found[0].details is not None
        assert found[0].details.owner_id == UUID(BOB)


async def test_a_room_resumes_after_a_change_of_any_kind(autojump_clock: MockClock) -> None:
    async with joined() as (room, server, peer, _):
        await peer.send(member_frame(entry(CAROL, "carol", 1), prev_rev=0))
        await changes(room, 1)
        peer.cut()
        peer = await server.accept()
        assert peer.resumes == (1, EPOCH)
        await peer.greet(2)
        await peer.send(conversation_frame(2, name="Crew"))
        await changes(room, 1)
        peer.cut()
        assert (await server.accept()).resumes == (2, EPOCH)


async def test_a_room_has_caught_up_with_a_change_of_any_kind(autojump_clock: MockClock) -> None:
    async with joined() as (room, server, peer, nursery):
        nursery.start_soon(room.send, "hi")
        sent = await peer.receive()
        peer.cut()
        peer = await server.accept_greeted(rev=2)
        await peer.send(message_frame(1, prev_rev=0))
        await peer.silence(20)  # the pending message may be among what was missed
        await peer.send(member_frame(entry(CAROL, "carol", 2), prev_rev=1))
        assert await peer.receive() == sent
        await peer.send(own_frame(2, sent, rev=3, prev_rev=2))
        assert [type(event) for event in await events(room, 3)] == [Message, MembersChanged, Message]


@pytest.mark.parametrize(
    "lost",
    [member_frame(entry(CAROL, "carol", 2), prev_rev=1), conversation_frame(2, name="Crew")],
    ids=["member", "conversation"],
)
async def test_a_lost_change_of_any_kind_is_counted_and_fetched(
    autojump_clock: MockClock, lost: dict[str, Any]
) -> None:
    async with joined() as (room, server, peer, _):
        last = message_frame(2, rev=3, prev_rev=2)
        await peer.send(message_frame(1, prev_rev=0), last)
        peer = await server.accept_greeted(rev=3)
        assert peer.resumes == (1, EPOCH)
        await peer.send(lost, last)
        assert [type(event) for event in await events(room, 3)] == [Message, MembersChanged, Message]
        assert (room.gaps, room.rev) == (1, 3)


@pytest.mark.parametrize(
    "frame",
    [member_frame(entry(CAROL, "carol", 3), prev_rev=1), conversation_frame(3, prev_rev=1, name="Crew")],
    ids=["member", "conversation"],
)
async def test_a_change_of_any_kind_shows_that_one_before_it_is_lost(
    autojump_clock: MockClock, frame: dict[str, Any]
) -> None:
    async with joined() as (room, server, peer, _):
        await peer.send(frame)
        peer = await server.accept_greeted(rev=3)
        assert peer.resumes == (0, EPOCH)
        await peer.send(message_frame(1, prev_rev=0), frame)
        assert [type(event) for event in await events(room, 2)] == [Message, MembersChanged]
        assert room.gaps == 1


async def test_a_change_lost_while_a_room_resumes_is_noticed(autojump_clock: MockClock) -> None:
    async with joined(rev=4, after=1, epoch=EPOCH) as (room, server, peer, _):
        await peer.send(message_frame(2, prev_rev=1), message_frame(4, prev_rev=3))
        peer = await server.accept_greeted(rev=4)
        assert peer.resumes == (2, EPOCH)
        await peer.send(message_frame(3, prev_rev=2), message_frame(4, prev_rev=3))
        assert [event.seq for event in await events(room, 3) if isinstance(event, Message)] == [2, 3, 4]
        assert room.gaps == 1


async def test_changes_of_members_wait_for_a_program_that_reads_nothing(autojump_clock: MockClock) -> None:
    async with joined(max_events=2) as (room, server, peer, nursery):
        missed = member_frame(entry(CAROL, "carol", 3), prev_rev=2), conversation_frame(4, owner_id=BOB)
        await peer.send(message_frame(1, prev_rev=0), message_frame(2, prev_rev=1), *missed)
        stored = trio.Event()

        async def send() -> None:
            await room.send("hi")
            stored.set()

        nursery.start_soon(send)
        other = await server.accept_greeted(rev=4)
        assert (other.features, other.resumes) == ("members,conversation", None)
        await other.send(conversation_frame(5, owner_id=BOB, name="Crew"))
        await other.send(own_frame(3, await other.receive(), rev=6, prev_rev=5))
        with trio.fail_after(100):
            await stored.wait()
        await events(room, 2)
        third = await server.accept()
        assert third.resumes == (2, EPOCH)
        await third.greet(6)
        await third.send(missed[0], conversation_frame(5, owner_id=BOB, name="Crew", prev_rev=3))
        found = await changes(room, 3)
        assert [event.what for event in found] == ["added", "new_owner", "renamed"]
        assert room.gaps == 0


async def test_frames_of_unknown_types_and_unknown_fields_are_ignored(autojump_clock: MockClock) -> None:
    async with joined() as (room, _, peer, _):
        await peer.send(
            {"type": "features", "features": ["members"], "me_rev": 812},
            {"type": "membership", "conversation_id": TEAM, "is_member": True, "read_seq": 1, "me_rev": 1},
            {"type": "of the future", "rev": 1, "prev_rev": 900},
            {**message_frame(1, prev_rev=0), "of_the_future": {"x": 1}},
        )
        assert [type(event) for event in await events(room, 1)] == [Message]
        assert room.gaps == 0


async def test_a_greeting_with_features_is_understood(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client), trio.open_nursery() as nursery:

        async def greet() -> None:
            peer = await server.accept()
            await peer.send({**peer.system("joined", ALICE, 7), "features": ["conversation", "members"]})

        nursery.start_soon(greet)
        async with client.join(TEAM) as room:
            assert (room.rev, room.epoch) == (7, EPOCH)
