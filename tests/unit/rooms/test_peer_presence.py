"""Two processes show the same users, and each `joined` and `left` once."""

from collections import Counter

import trio

from pulse_trio.settings import Settings

from .two_hubs import bus_of, two_worlds
from .world import Device

SECRET = "a key of this test: 5b1c8e7d2f90a364"
SETTINGS = Settings(secret_key=SECRET)


async def test_message_reaches_connections_and_sessions_of_the_other_process(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        alice = await here.join(here.alice)
        bob = await there.join(there.bob)
        carol = await Device(there, there.carol).open({})
        for number in range(20):
            await (alice if number % 2 else bob).send(f"message {number}")
        await trio.sleep(1)
        assert sorted(alice.contents) == sorted(f"message {number}" for number in range(20))
        assert bob.contents == alice.contents == carol.contents(there.conversation_id)


async def test_session_in_a_quiet_conversation_hears_the_other_process(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        carol = await Device(there, there.carol, "members", "me").open({})
        alice = await Device(here, here.alice).open({})
        for number in range(3):
            await alice.send(here.conversation_id, f"message {number}")
            await trio.sleep(100)  # rooms have ended
        assert carol.contents(here.conversation_id) == ["message 0", "message 1", "message 2"]
        assert not there.hub.rooms.get(there.conversation_id)


async def test_connection_that_joins_is_told_who_is_there_in_the_other_process(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        alice = await here.join(here.alice)
        carol = await Device(there, there.carol).open({})
        bob = await there.join(there.bob)
        await trio.sleep(1)
        (joined,) = [frame for frame in bob.of_type("system") if frame["event"] == "joined"]
        assert set(joined["active_users"]) == {str(u.id) for u in (here.alice, here.bob, here.carol)}
        assert Counter(alice.events) == Counter([("joined", str(u.id)) for u in (here.alice, here.carol, here.bob)])
        assert set(await here.hub.active_users(here.conversation_id)) == set(
            await there.hub.active_users(here.conversation_id)
        )
        bob.leave()
        carol.leave()
        await trio.sleep(1)
        assert alice.events[3:] == [("left", str(here.bob.id)), ("left", str(here.carol.id))]
        assert await there.hub.active_users(here.conversation_id) == [here.alice.id]


async def test_user_with_connections_in_both_processes_joins_and_leaves_once(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        alice = await here.join(here.alice)
        bobs = [await here.join(here.bob), await there.join(there.bob)]
        await trio.sleep(1)
        for bob in bobs:
            bob.leave()
            await trio.sleep(1)
        about_bob = [event for event in alice.events if event[1] == str(here.bob.id)]
        assert about_bob == [("joined", str(here.bob.id)), ("left", str(here.bob.id))]


async def test_users_of_a_process_that_stands_still_leave_once_and_come_back(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        alice = await here.join(here.alice)
        await there.join(there.bob)
        await trio.sleep(1)
        began = trio.current_time()
        bus_of(there).is_frozen = True
        while ("left", str(here.bob.id)) not in alice.events:  # noqa: ASYNC110  # the virtual clock jumps
            await trio.sleep(0.1)
        assert trio.current_time() - began < 8
        bus_of(there).is_frozen = False
        await trio.sleep(10)
        about_bob = [event[0] for event in alice.events if event[1] == str(here.bob.id)]
        assert about_bob == ["joined", "left", "joined"]


async def test_lost_and_doubled_presence_is_made_good(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        alice = await here.join(here.alice)
        bus_of(there).loses = lambda item: item.startswith(b'["+"')
        bob = await there.join(there.bob)
        await trio.sleep(1)
        bus_of(there).loses = lambda _: False
        carol = await there.join(there.carol)  # its item shows that one before it was lost
        await trio.sleep(1)
        assert set(await here.hub.active_users(here.conversation_id)) == {here.alice.id, here.bob.id, here.carol.id}
        assert Counter(alice.events) == Counter(("joined", str(u.id)) for u in (here.alice, here.bob, here.carol))
        bob.leave()
        carol.leave()
        await trio.sleep(1)
        assert await here.hub.active_users(here.conversation_id) == [here.alice.id]


async def test_users_of_a_process_that_ends_leave_once(autojump_clock: object) -> None:
    """Its connections close; their users come back to another process, and join there."""
    async with two_worlds(SETTINGS) as (here, there):
        alice = await here.join(here.alice)
        await there.join(there.bob)
        await Device(there, there.carol).open({})
        await trio.sleep(1)
        await there.hub.drain()
        await trio.sleep(1)
        assert sorted(alice.events[-2:]) == sorted([("left", str(here.bob.id)), ("left", str(here.carol.id))])
        bob = await here.join(here.bob)
        await trio.sleep(1)
        bob.leave()
        await trio.sleep(10)
        about_bob = [event for event, user in alice.events if user == str(here.bob.id)]
        assert about_bob == ["joined", "left", "joined", "left"]


async def test_watch_follows_a_user_of_the_other_process(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        alice = await Device(here, here.alice).open({})
        alice.watch(here.bob)
        await trio.sleep(1)
        bob = await Device(there, there.bob).open({})
        await trio.sleep(2)
        assert here.hub.online.presence_of(here.bob.id).is_online
        bob.leave()
        await trio.sleep(2)
        shown = [user["is_online"] for frame in alice.of_type("users") for user in frame["users"]]
        assert shown == [False, True, False]


async def test_removal_ends_the_session_of_the_other_process(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        bob = await Device(there, there.bob).open({})
        guest = await there.join(there.carol)
        await here.remove(here.bob)
        await here.remove(here.carol)
        await trio.sleep(1)
        assert [frame["conversation_id"] for frame in bob.of_type("conversation_removed")]
        assert guest.transport.closed is not None
        await here.add(here.bob)
        await trio.sleep(1)
        assert len(bob.of_type("conversation_added")) == 1
