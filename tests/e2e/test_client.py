"""`pulse_trio.client` against the real program: every request, and a server that is killed in mid-conversation."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from uuid import UUID

import pytest
import trio

from pulse_trio.client import (
    AuthenticationFailed,
    Backoff,
    Client,
    ConnectionLost,
    Message,
    MessageDeleted,
    MessageEdited,
    NotAMember,
    ReadPositions,
    Refused,
    Room,
    Typing,
    open_client,
)
from tests.support.client import PASSWORD
from tests.support.server import Server


async def sign_up(base_url: str, username: str) -> None:
    async with open_client(base_url) as client:
        await client.register(username, PASSWORD)


@pytest.fixture
async def people(server: Server) -> AsyncIterator[tuple[Client, Client]]:
    """Alice and Bob."""
    async with AsyncExitStack() as stack:
        clients = []
        for username in ("alice", "bob"):
            await sign_up(server.base_url, username)
            opened = open_client(server.base_url, username=username, password=PASSWORD)
            clients.append(await stack.enter_async_context(opened))
        yield clients[0], clients[1]


async def next_of(room: Room, *kinds: type) -> object:
    """The next event of these kinds; others are passed over."""
    while True:
        event = await room.receive()
        if isinstance(event, kinds):
            return event


async def test_conversations(people: tuple[Client, Client]) -> None:
    alice, bob = people
    with trio.fail_after(30):
        assert (await bob.me()).username == "bob"
        assert [user.username for user in await alice.search_users("B")] == ["bob"]
        direct = await alice.open_direct(bob.user)
        assert (await bob.open_direct(alice.user)).id == direct.id
        group = await alice.create_group("Team", description="Work")
        with pytest.raises(NotAMember):
            await bob.conversation(group)
        assert [user.username for user in (await alice.add_members(group, [bob.user])).users] == ["alice", "bob"]
        assert (await bob.rename(group.id, name="Crew")).name == "Crew"
        assert {found.id for found in await bob.conversations()} == {group.id, direct.id}
        with pytest.raises(Refused) as refused:
            await bob.remove_member(str(group.id), alice.user)
        assert (refused.value.code, refused.value.status) == ("owner_only", 403)
        await bob.leave(group)
        await alice.remove_member(group, alice.user)
        with pytest.raises(NotAMember):
            await alice.conversation(group)
        with pytest.raises(ValueError, match="36 characters"):
            await alice.conversation("Team")


async def test_a_conversation_live_and_its_history(people: tuple[Client, Client]) -> None:
    alice, bob = people
    with trio.fail_after(60):
        team = await alice.create_group("Team", [bob.user])
        async with alice.join(team) as here, bob.join(team) as there:
            sent = [await here.send(f"message {number}") for number in range(250)]
            assert [message.seq for message in sent] == list(range(1, 251))
            there.typing()
            assert await next_of(here, Typing) == Typing(bob.user.id, "bob")
            assert here.active_users == {alice.user.id, bob.user.id}
            edited = await alice.edit(sent[0], "better")
            await alice.delete(sent[1])
            change = await next_of(there, MessageEdited)
            assert isinstance(change, MessageEdited)
            assert change.message == edited
            gone = await next_of(there, MessageDeleted)
            assert isinstance(gone, MessageDeleted)
            assert (gone.message.id, gone.message.is_deleted) == (sent[1].id, True)
        back = [message.seq async for message in bob.history(team)]
        assert back == list(range(250, 0, -1))
        assert [message.seq async for message in bob.history(team, before_seq=4)] == [3, 2, 1]
        forward = [message async for message in bob.history(team, after_seq=0)]
        assert [message.seq for message in forward] == list(range(1, 251))
        assert [message.content for message in forward[:3]] == ["better", "", "message 2"]
        assert forward[2].created_at == sent[2].created_at


async def test_read_positions_and_presence(people: tuple[Client, Client]) -> None:
    alice, bob = people
    with trio.fail_after(30):
        team = await alice.create_group("Team", [bob.user])
        async with alice.join(team) as here, bob.join(team) as there:
            for _ in range(3):
                await here.send("hi")
            there.mark_read(2)
            event = await next_of(here, ReadPositions)
            assert isinstance(event, ReadPositions)
            assert event.positions[bob.user.id] == 2
            assert (await bob.conversation(team)).unread_count == 1
            await bob.mark_read(team, 3)
            assert (await alice.read_positions(team))[bob.user.id] == 3
            assert (await alice.presence(bob.user)).is_online
        assert (await bob.conversation(team)).read_seq == 3


async def test_a_token_is_renewed(server: Server, people: tuple[Client, Client]) -> None:
    tokens: list[str] = []
    with trio.fail_after(30):
        async with open_client(server.base_url, token=people[0].token, on_token=tokens.append) as client:
            await client._account._renew(client.token)  # as it does by itself at half the token's life
            assert tokens == [client.token]
            assert (await client.me()).username == "alice"


async def test_a_member_who_is_removed_is_told(people: tuple[Client, Client]) -> None:
    alice, bob = people
    with trio.fail_after(30):
        team = await alice.create_group("Team", [bob.user])
        async with bob.join(team) as room:
            await alice.remove_member(team, bob.user)
            with pytest.raises(NotAMember):
                await next_of(room, Message)


async def test_who_is_not_let_in(server: Server) -> None:
    with trio.fail_after(30):
        await sign_up(server.base_url, "alice")
        with pytest.raises(AuthenticationFailed, match="Wrong username or password"):
            async with open_client(server.base_url, username="alice", password="not hers"):
                raise AssertionError
        with pytest.raises(AuthenticationFailed):
            async with open_client(server.base_url, token="no token"):
                raise AssertionError
        async with open_client(server.base_url) as client:
            with pytest.raises(Refused) as refused:
                await client.register("alice", PASSWORD)
            assert refused.value.code == "username_taken"
            with pytest.raises(AuthenticationFailed):
                await client.conversations()
            assert (await client.sign_in("alice", PASSWORD)).username == "alice"


async def test_where_nobody_listens() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    with trio.fail_after(30):
        with pytest.raises(ConnectionLost):
            async with open_client(f"http://127.0.0.1:{port}", token="any"):
                raise AssertionError
        with pytest.raises(ValueError, match="http"):
            async with open_client("127.0.0.1"):
                raise AssertionError


async def test_a_server_that_is_killed_in_mid_conversation(start_server: Callable[..., Server]) -> None:
    """Nothing is lost, nothing doubled, and whoever listens hears everything once."""
    server = await trio.to_thread.run_sync(start_server)
    port = str(server.port)
    for username in ("alice", "bob"):
        await sign_up(server.base_url, username)
    backoff = Backoff(first=0.1, most=0.5, attempts=None)
    said: list[str] = []
    heard: list[Message] = []
    with trio.fail_after(120):
        async with (
            open_client(server.base_url, username="alice", password=PASSWORD, backoff=backoff) as alice,
            open_client(server.base_url, username="bob", password=PASSWORD, backoff=backoff) as bob,
        ):
            team = await alice.create_group("Team", [bob.user])
            async with alice.join(team) as here, bob.join(team) as there, trio.open_nursery() as nursery:

                async def talk() -> None:
                    while len(heard) < 400:
                        said.append(f"message {len(said) + 1}")
                        message = await here.send(said[-1])
                        assert message.seq == len(said)

                async def listen() -> None:
                    while True:
                        message = await next_of(there, Message)
                        assert isinstance(message, Message)
                        heard.append(message)

                nursery.start_soon(listen)
                nursery.start_soon(talk)
                for goal in (50, 150, 250):
                    while len(heard) < goal:  # noqa: ASYNC110  # what is heard is the progress
                        await trio.sleep(0.01)
                    server.process.kill()
                    await trio.to_thread.run_sync(server.wait)
                    server = await trio.to_thread.run_sync(lambda: start_server("--port", port))
                while len(heard) < 400 or len(heard) < len(said):  # noqa: ASYNC110
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            stored = [message.content async for message in bob.history(team, after_seq=0)]
    assert [message.content for message in heard] == said
    assert stored == said


def test_ids_may_be_given_in_any_form() -> None:
    from pulse_trio.client.records import User, key_of

    key = UUID(int=7)
    assert key_of(key) == key_of(str(key)) == key_of(User(key, "x")) == key
