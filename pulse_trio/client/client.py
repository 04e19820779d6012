"""The client: REST requests, and rooms for live conversations."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from uuid import UUID

import httpx2
import msgspec
import trio

from pulse_trio.client.account import Account, token_problem
from pulse_trio.client.backoff import Backoff
from pulse_trio.client.errors import AuthenticationFailed, ConnectionLost, NotStored, Refused
from pulse_trio.client.groups import unwrapped
from pulse_trio.client.network import Address, Network
from pulse_trio.client.outgoing import STORE_ATTEMPTS, check_client_id, check_text, new_client_id
from pulse_trio.client.pages import History, Members, page_after
from pulse_trio.client.records import Conversation, ConversationRef, Message, Presence, User, UserRef, key_of
from pulse_trio.client.requests import Requests
from pulse_trio.client.rest import Rest
from pulse_trio.client.room import MAX_EVENTS, Room
from pulse_trio.client.room_connections import RoomConnections
from pulse_trio.client.verdicts import RETRYABLE_STATUSES
from pulse_trio.client.whole_lists import ConversationPage, Query, UserPage, read_conversations, read_users
from pulse_trio.clock import Clock, utc_now
from pulse_trio.errors import ErrorCode


class _Active(msgspec.Struct):
    active_users: list[UUID]


class _Position(msgspec.Struct):
    user_id: UUID
    seq: int  # 0: nothing read


class _Positions(msgspec.Struct):
    positions: list[_Position]
    next_cursor: str | None = None


@asynccontextmanager
async def open_client(
    url: str,
    *,
    token: str | None = None,
    username: str | None = None,
    password: str | None = None,
    on_token: Callable[[str], None] | None = None,
    backoff: Backoff | None = None,
    network: Network | None = None,
    clock: Clock = utc_now,
) -> AsyncIterator["Client"]:
    """Opens a client of the service at `url`, signed in with a token, with a username and a password, or not yet.

    While the block runs, the token is renewed before it expires. Exceptions of the block come out as they are.

    Args:
        url: `http://HOST:PORT` or `https://HOST`, with the path of the service behind a proxy, if any.
        token: from the service or its identity provider, exactly as issued (no line feed at the end).
        username, password: instead of a token. The password is kept in memory, to sign in again.
        on_token: called with each new token, for a program that stores it. Must not block.
        backoff: waits between attempts to connect.
        network: connects to the server; `Network(ssl_context)` sets the trusted certificates.

    Raises:
        AuthenticationFailed: the username, the password or the token is wrong.
        ConnectionLost: the server cannot be reached; there is no retry here.
        ValueError: the URL is not valid, the token cannot be sent, or only one of username and password is given. The
            message does not quote them.
        RuntimeError: called under asyncio; the client needs Trio.
    """
    if not trio.lowlevel.in_trio_task():
        raise RuntimeError(
            "pulse_trio.client needs Trio: start the program with trio.run(main), not asyncio.run(main())"
        )
    if (username is None) != (password is None) or (token is not None and username is not None):
        raise ValueError("give a token, or both a username and a password, or neither")
    problem = None if token is None else token_problem(token)
    if problem is not None:
        raise ValueError(f"the token {problem}")
    address = Address.parse(url)
    network = network or Network()
    backoff = backoff or Backoff()
    http = httpx2.AsyncClient(
        base_url=address.base_url, transport=network.http_transport(address), timeout=None, trust_env=False
    )
    with unwrapped():
        async with http, trio.open_nursery() as nursery:
            rest = Rest(http)
            account = Account(rest.request, clock, token=token, on_token=on_token)
            nursery.start_soon(account.keep, backoff)
            client = Client(rest, account, address, network, backoff)
            if username is not None and password is not None:
                await client.sign_in(username, password)
            elif token is not None:
                await client.me()
            yield client
            nursery.cancel_scope.cancel()


class Client:
    """Requests and rooms of one user. Made by `open_client`.

    A conversation or a user is given as a record or by its id, as a UUID or as text; a message as a record.

    Cancelled: the server may or may not have carried out the request.

    Raises:
        ConnectionLost: there was no answer; the server may or may not have carried out the request.
        AuthenticationFailed: no valid token.
        Refused: the server rejected the request; `code` says why.
        NotAMember: in requests about a conversation.
    """

    def __init__(self, rest: Rest, account: Account, address: Address, network: Network, backoff: Backoff) -> None:
        self._account = account
        self._rest = rest
        self._requests = Requests(rest, account)
        self._address = address
        self._network = network
        self._backoff = backoff
        self._rooms: set[RoomConnections] = set()

    # --- the user ---

    @property
    def token(self) -> str | None:
        """The current token; it changes with each renewal."""
        return self._account.token

    @property
    def user(self) -> User:
        """The user who is signed in.

        Raises:
            AuthenticationFailed: nobody is signed in.
        """
        if self._account.user is None:
            raise AuthenticationFailed("not signed in")
        return self._account.user

    async def register(self, username: str, password: str) -> User:
        """Creates an account, without signing in.

        Raises:
            Refused: `username_taken`, or the service rejects the username or the password.
        """
        body = {"username": username, "password": password}
        return await self._rest.request("POST", "/api/auth/register", User, json=body, token=None)

    async def sign_in(self, username: str, password: str) -> User:
        """Signs in; the password is kept in memory to get later tokens.

        When another user signs in, open rooms of the first user fail, and so do their requests that would need a retry:
        nothing of theirs is sent as the other user. If this raises or is cancelled, the first user stays signed in.

        Raises:
            AuthenticationFailed: the username or the password is wrong.
        """
        return await self._account.sign_in(username, password, self._end_rooms)

    async def me(self) -> User:
        """Asks the server for the user of the token."""
        identity = self._account.identity
        user = await self._requests.ask("GET", "/api/auth/me", User)
        if identity is self._account.identity:
            self._account.identify(user, self._end_rooms)
        return user

    def _end_rooms(self) -> None:
        for connections in self._rooms:
            connections.end(AuthenticationFailed("another user has signed in"))

    async def search_users(self, prefix: str, *, limit: int | None = 20) -> list[User]:
        """Returns users whose names begin with `prefix`, in any case, sorted by name.

        At most `limit`, in requests of up to 200; None: all.
        """
        identity = self._account.identity

        async def read(query: Query) -> UserPage:
            return await self._requests.ask("GET", "/api/users", UserPage, identity, params={"query": prefix, **query})

        return await read_users(read, limit)

    async def presence(self, user: UserRef) -> Presence:
        """Returns the presence of a user who shares a conversation with this one."""
        return await self._requests.ask("GET", f"/api/chat/users/{key_of(user)}/presence", Presence)

    # --- conversations ---

    async def conversations(self, *, limit: int | None = 50, offset: int = 0) -> list[Conversation]:
        """Returns the user's conversations, most recent activity first.

        At most `limit`, in requests of up to 200; None: all, also if their order changes meanwhile. `offset` skips
        the first ones.
        """
        identity = self._account.identity

        async def read(query: Query) -> ConversationPage:
            return await self._requests.ask("GET", "/api/chat/conversations", ConversationPage, identity, params=query)

        return await read_conversations(read, limit, offset)

    async def conversation(self, conversation: ConversationRef) -> Conversation:
        """Returns a conversation in its present state."""
        return await self._requests.ask("GET", _path(conversation), Conversation)

    async def create_group(
        self, name: str, members: Iterable[UserRef] = (), *, description: str | None = None
    ) -> Conversation:
        """Creates a group of these members and the user."""
        ids = [str(key_of(member)) for member in members]
        body = {"name": name, "description": description, "is_group": True, "participant_ids": ids}
        return await self._requests.ask("POST", "/api/chat/conversations", Conversation, json=body)

    async def open_direct(self, user: UserRef) -> Conversation:
        """Returns the one-to-one conversation with a user; creates it if there is none."""
        body = {"is_group": False, "participant_ids": [str(key_of(user))]}
        return await self._requests.ask("POST", "/api/chat/conversations", Conversation, json=body)

    async def rename(
        self, conversation: ConversationRef, *, name: str | None = None, description: str | None = None
    ) -> Conversation:
        """Changes the name or the description of a group, or both; None leaves one unchanged."""
        changes = {"name": name, "description": description}
        body = {field: value for field, value in changes.items() if value is not None}
        return await self._requests.ask("PATCH", _path(conversation), Conversation, json=body)

    def members(self, conversation: ConversationRef) -> Members:
        """Iterates over all members, in the order they joined: `async for user in client.members(conversation)`.

        Loads page after page as needed; the loop may be left at any time.
        """
        return Members(self._requests, f"{_path(conversation)}/members")

    async def add_members(self, conversation: ConversationRef, users: Iterable[UserRef]) -> Conversation:
        """Adds users to a group; members among them are ignored."""
        body = {"user_ids": [str(key_of(user)) for user in users]}
        return await self._requests.ask("POST", f"{_path(conversation)}/members", Conversation, json=body)

    async def remove_member(self, conversation: ConversationRef, user: UserRef) -> None:
        """Removes a member from a group; only its owner may. Their connections are closed when this returns."""
        await self._requests.do("DELETE", f"{_path(conversation)}/members/{key_of(user)}")

    async def leave(self, conversation: ConversationRef) -> None:
        """Leaves a group."""
        await self._requests.do("DELETE", f"{_path(conversation)}/members/me")

    async def active_users(self, conversation: ConversationRef) -> frozenset[UUID]:
        """Returns the users who have a conversation open."""
        return frozenset((await self._requests.ask("GET", f"{_path(conversation)}/active", _Active)).active_users)

    async def read_positions(self, conversation: ConversationRef) -> dict[UUID, int]:
        """Returns the highest `seq` that each member has read; 0: nothing."""
        identity = self._account.identity
        path = f"{_path(conversation)}/read"
        found: dict[UUID, int] = {}
        cursor: str | None = None
        while True:
            answer = await self._requests.ask("GET", path, _Positions, identity, params=page_after(cursor))
            found |= {position.user_id: position.seq for position in answer.positions}
            cursor = answer.next_cursor
            if cursor is None:
                return found

    async def mark_read(self, conversation: ConversationRef, seq: int) -> None:
        """Moves the user's read position up to this `seq`; a lower one changes nothing."""
        await self._requests.do("PUT", f"{_path(conversation)}/read", json={"seq": seq})

    # --- messages ---

    def history(
        self, conversation: ConversationRef, *, before_seq: int | None = None, after_seq: int | None = None
    ) -> History:
        """Iterates over stored messages: `async for message in client.history(conversation)`.

        Backwards from the newest, or from the one before `before_seq`; with `after_seq` forwards from the one after it.
        Deleted messages are included, without content. Loads page after page as needed; the loop may be left at any
        time.
        """
        if before_seq is not None and after_seq is not None:
            raise ValueError("give `before_seq` or `after_seq`, not both")
        return History(self._requests, f"{_path(conversation)}/messages", before_seq, after_seq)

    async def send(self, conversation: ConversationRef, content: str, *, client_id: str | None = None) -> Message:
        """Sends a message without joining the conversation; returns it when it is stored.

        Retries with the pauses of `Backoff` until there is an answer; the message is stored once. A program that
        repeats a message after a restart gives the same `client_id` (1 to 64 characters; by default a new UUID).

        There is no timeout: put `trio.fail_after` around it.
        Cancelled: the message may or may not be stored. Resend it with its `client_id` to be sure.

        Raises:
            Refused: the server rejects it; `code` and `field` say why.
            AuthenticationFailed: the token has expired, or another user has signed in; it may be stored.
            NotStored: the server failed to store it three times; it may be stored.
            ConnectionLost: as many requests in a row as `Backoff` allows had no answer; it may be stored.
            ValueError: the client_id is not valid.
        """
        check_text(content)
        if client_id is None:
            client_id = new_client_id()
        check_client_id(client_id)
        body = {"content": content, "client_id": client_id}
        identity = self._account.identity
        failures = refusals = 0
        while True:
            least = 0.0
            try:
                return await self._requests.ask("POST", f"{_path(conversation)}/messages", Message, identity, json=body)
            except ConnectionLost:
                failures += 1
                if failures == self._backoff.attempts:
                    raise
            except Refused as error:
                if error.status not in RETRYABLE_STATUSES:
                    raise
                failures = 0  # the server answers
                least = error.retry_after or 0.0
                if error.code == ErrorCode.NOT_STORED.code:
                    refusals += 1
                    if refusals == STORE_ATTEMPTS:
                        raise NotStored(client_id) from None
            await trio.sleep(self._backoff.delay(failures + refusals, least=least))

    async def edit(self, message: Message, content: str, *, if_rev: int | None = None) -> Message:
        """Changes the content of a message of one's own; returns the edited message.

        With `if_rev`, only if the message still has this rev; a server that does not support it edits in any case.

        Raises:
            Conflict: it has another rev; `current` is the message as it now is.
        """
        path = _message_path(message)
        check_text(content)
        body: dict[str, str | int] = {"content": content}
        if if_rev is not None:
            body["if_rev"] = if_rev
        return await self._requests.ask("PATCH", path, Message, json=body)

    async def delete(self, message: Message) -> None:
        """Deletes a message of one's own, or any message as the owner of the conversation."""
        await self._requests.do("DELETE", _message_path(message))

    # --- live ---

    def join(
        self,
        conversation: ConversationRef,
        *,
        after: int | None = None,
        epoch: str | None = None,
        max_events: int = MAX_EVENTS,
    ) -> AbstractAsyncContextManager[Room]:
        """Opens a room, live while the block runs: `async with client.join(conversation) as room:`.

        The block starts when the first connection is open; no change from then on is missed. With `after` (a rev) and
        its `epoch` the room first receives the changes since then. Exceptions of the block come out as they are; when
        the room fails, `Room.receive` and `Room.send` raise.

        Args:
            max_events: bound of the events that wait to be read; see `Room`.

        Raises:
            NotAMember, AuthenticationFailed, ConnectionLost: the first connection cannot be opened.
        """
        if max_events < 1:
            raise ValueError("max_events must be 1 or more")
        return self._join(conversation, after, epoch, max_events)

    @asynccontextmanager
    async def _join(
        self, conversation: ConversationRef, after: int | None, epoch: str | None, max_events: int
    ) -> AsyncIterator[Room]:
        identity = self._account.identity
        found = await self.conversation(conversation)
        self._account.check(identity)
        connections = RoomConnections(
            found,
            self.user,
            self._account,
            self._network,
            self._address,
            backoff=self._backoff,
            after=after,
            epoch=epoch,
            max_events=max_events,
        )
        self._rooms.add(connections)
        with unwrapped():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connections.run, name=f"room {found.id}")  # noqa: ASYNC113  # `wait_joined` waits for it
                try:
                    await connections.wait_joined()
                    yield Room(found, connections)
                finally:
                    connections.close()
                    self._rooms.discard(connections)
                nursery.cancel_scope.cancel()


def _path(conversation: ConversationRef) -> str:
    return f"/api/chat/conversations/{key_of(conversation)}"


def _message_path(message: Message) -> str:
    if not isinstance(message, Message):
        raise TypeError(f"give the Message itself, not {type(message).__name__}: its id does not name the conversation")
    return f"{_path(message.conversation_id)}/messages/{message.id}"
