"""Presence in a room: joining, leaving, removal and announcements, on the real process."""

from typing import Any

import trio

from tests.support.client import Chat, Person
from tests.support.raw import CLOSE, connect_in_order, frame, open_chat
from tests.support.server import Server


async def _three(server: Server) -> tuple[Person, Person, Person, str]:
    people = [await Person.register(server.base_url, name) for name in ("alice", "bob", "carol")]
    alice, bob, carol = people
    return alice, bob, carol, await alice.create_group(bob, carol)


async def _system_frames_until(chat: Chat, event: str) -> list[dict[str, Any]]:
    frames = [await chat.receive_type("system")]
    while frames[-1]["event"] != event:
        frames.append(await chat.receive_type("system"))
    return frames


async def test_only_the_first_and_the_last_connection_of_a_user_are_told(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, _, conversation = await _three(server)
        async with alice.connect(conversation) as a:
            assert (await a.receive())["active_users"] == [alice.id]
            async with bob.connect(conversation) as first:
                joined = await a.receive()
                assert (joined["event"], joined["sender_id"]) == ("joined", bob.id)
                assert joined["content"] == "User bob joined the conversation"
                assert joined["active_users"] == [alice.id, bob.id]
                assert (await first.receive())["active_users"] == [alice.id, bob.id]
                async with bob.connect(conversation) as second:
                    # Told to itself, so that it knows who is here; each user once.
                    own = await second.receive()
                    assert (own["event"], own["active_users"]) == ("joined", [alice.id, bob.id])
                await first.send({"type": "message", "content": "still here"})
                # Neither a second `joined` nor a `left` comes before it.
                assert (await a.receive())["content"] == "still here"
                assert (await first.receive())["content"] == "still here"
            left = await a.receive()
            assert (left["event"], left["sender_id"], left["active_users"]) == ("left", bob.id, [alice.id])
            assert left["content"] == "User bob left the conversation"


async def test_every_connection_of_a_user_gets_every_message(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, _, conversation = await _three(server)
        async with connect_in_order(conversation, alice, alice, bob) as (phone, laptop, b):
            sent = [f"message {n}" for n in range(20)]
            for n, content in enumerate(sent):
                sender = (phone, laptop, b)[n % 3]
                await sender.send({"type": "message", "content": content})
                # One at a time: the order of different senders is the server's choice.
                for chat in (phone, laptop, b):
                    message = await chat.receive_type("message")
                    assert (message["content"], message["seq"]) == (content, n + 1)
                    assert message["sender_id"] == (bob.id if sender is b else alice.id)


async def test_typing_goes_to_the_other_users_only(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, _, conversation = await _three(server)
        async with connect_in_order(conversation, alice, alice, bob) as (phone, laptop, b):
            await laptop.send({"type": "typing"})
            typing = await b.receive_type("typing")
            assert typing == {
                "type": "typing",
                "sender_id": alice.id,
                "sender_username": "alice",
                "conversation_id": conversation,
            }
            # Nothing of it comes to alice: the next that is not of presence is a message sent after it.
            await b.send({"type": "message", "content": "done"})
            for chat in (phone, laptop):
                assert (await chat.receive_type("typing", "message"))["type"] == "message"


async def test_conversations_do_not_hear_each_other(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, _, conversation = await _three(server)
        other = await alice.create_group(bob, name="Other")
        async with alice.connect(conversation) as a, bob.connect(other) as b:
            assert (await a.receive())["active_users"] == [alice.id]
            assert (await b.receive())["active_users"] == [bob.id]
            await b.send({"type": "typing"})
            await b.send({"type": "message", "content": "elsewhere"})
            await b.receive_type("message")
            await a.send({"type": "message", "content": "here"})
            assert (await a.receive())["content"] == "here"


async def test_a_removed_member_is_cut_off_before_the_removal_is_answered(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, carol, conversation = await _three(server)
        async with (
            alice.connect(conversation) as a,
            open_chat(bob, conversation) as one,
            open_chat(bob, conversation) as two,
        ):
            removed = await alice.api.delete(f"/api/chat/conversations/{conversation}/members/{bob.id}")
            assert removed.status_code == 204
            await a.send({"type": "message", "content": "now that bob is gone"})
            await a.receive_type("message")
            for client in (one, two):
                # The very next frame: nothing is delivered after the removal.
                opcode, payload = await client.read_frame()
                assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, 4403)
                await client.wait_gone()
            again = await bob.api.get(f"/api/chat/conversations/{conversation}/messages")
            assert again.status_code == 404
        seen_by_alice = await alice.api.get(f"/api/chat/conversations/{conversation}")
        assert [user["id"] for user in seen_by_alice.json()["users"]] == [alice.id, carol.id]


async def test_removal_is_told_to_those_who_stay(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, _, conversation = await _three(server)
        async with connect_in_order(conversation, alice) as (a,), open_chat(bob, conversation) as b:
            await alice.api.delete(f"/api/chat/conversations/{conversation}/members/{bob.id}")
            frames = await _system_frames_until(a, "removed")
            assert [told["event"] for told in frames] == ["joined", "left", "removed"]
            assert frames[-1]["sender_id"] == bob.id
            assert frames[-1]["content"] == "User bob was removed by alice"
            assert frames[-1]["active_users"] == [alice.id]
            assert await b.read_close() == 4403


async def test_a_message_of_a_removed_member_is_not_stored(server: Server) -> None:
    """Sent around the moment of the removal: stored before it, or not at all, and never after it."""
    with trio.fail_after(60):
        alice, bob, _, conversation = await _three(server)
        async with open_chat(bob, conversation) as b:
            statuses = []

            async def remove() -> None:
                answer = await alice.api.delete(f"/api/chat/conversations/{conversation}/members/{bob.id}")
                statuses.append(answer.status_code)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(remove)
                sent = 0
                while not statuses and await b.send_some(frame({"type": "message", "content": f"message {sent}"})):
                    sent += 1
                    await trio.lowlevel.checkpoint()
            assert statuses == [204]
            assert await b.read_close() == 4403
        before = await alice.history(conversation, limit=200)
        stored = before["total"]
        assert stored <= sent
        newest_first = [message["content"] for message in before["messages"]]
        assert newest_first == [f"message {n}" for n in range(stored)][::-1][:200]
        async with alice.connect(conversation) as a:
            await a.send({"type": "message", "content": "the next"})
            assert (await a.receive_type("message"))["seq"] == stored + 1


async def test_who_leaves_is_cut_off_too_and_told_of(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, _, conversation = await _three(server)
        async with connect_in_order(conversation, alice) as (a,), open_chat(bob, conversation) as b:
            assert (await bob.api.delete(f"/api/chat/conversations/{conversation}/members/me")).status_code == 204
            assert await b.read_close() == 4403
            frames = await _system_frames_until(a, "removed")
            assert [told["event"] for told in frames] == ["joined", "left", "removed"]
            assert frames[-1]["content"] == "User bob left the group"


async def test_who_is_added_again_chats_again_with_the_whole_history(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, _, conversation = await _three(server)
        members = f"/api/chat/conversations/{conversation}/members"
        async with alice.connect(conversation) as a:
            await a.receive_type("system")
            for round_number in range(3):
                assert (await alice.api.delete(f"{members}/{bob.id}")).status_code == 204
                assert (await a.receive_type("system"))["event"] == "removed"
                await a.send({"type": "message", "content": f"without bob {round_number}"})
                await a.receive_type("message")
                assert (await alice.api.post(members, json={"user_ids": [bob.id]})).status_code == 200
                added = await a.receive_type("system")
                assert (added["event"], added["sender_id"]) == ("added", bob.id)
                assert added["content"] == "User bob was added by alice"
                async with bob.connect(conversation) as b:
                    await b.receive_type("system")
                    await b.send({"type": "message", "content": f"with bob {round_number}"})
                    for chat in (a, b):
                        assert (await chat.receive_type("message"))["content"] == f"with bob {round_number}"
                while (await a.receive_type("system"))["event"] != "left":
                    pass
        assert (await bob.history(conversation))["total"] == 6


async def test_a_new_name_is_told_to_everybody(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, _, conversation = await _three(server)
        async with connect_in_order(conversation, alice, bob) as (a, b):
            renamed = await bob.api.patch(f"/api/chat/conversations/{conversation}", json={"name": "New name"})
            assert renamed.status_code == 200
            for chat in (a, b):
                told = await chat.receive()
                assert (told["event"], told["sender_id"]) == ("renamed", bob.id)
                assert told["content"] == "User bob renamed the conversation"
                assert told["active_users"] == [alice.id, bob.id]


async def test_system_frames_say_how_far_the_conversation_is(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, _, conversation = await _three(server)
        async with alice.connect(conversation) as a:
            first = await a.receive()
            assert (first["last_seq"], first["last_rev"]) == (0, 0)
            for n in range(3):
                await a.send({"type": "message", "content": f"message {n}"})
                await a.receive_type("message")
            async with bob.connect(conversation) as b:
                joined = await b.receive()
                assert (joined["last_seq"], joined["last_rev"]) == (3, 3)
        async with bob.connect(conversation) as b:  # the room is opened anew
            assert (await b.receive())["last_seq"] == 3


async def test_who_is_active_can_be_asked_for(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, carol, conversation = await _three(server)
        path = f"/api/chat/conversations/{conversation}/active"
        assert (await alice.api.get(path)).json() == {"active_users": [], "active_count": 0}
        async with connect_in_order(conversation, bob, carol):
            assert (await alice.api.get(path)).json() == {"active_users": [bob.id, carol.id], "active_count": 2}
        stranger = await Person.register(server.base_url, "stranger")
        assert (await stranger.api.get(path)).json()["code"] == "not_found"
