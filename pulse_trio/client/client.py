"""The client: REST requests, and rooms for live conversations."""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final, Generic, Self, TypeVar
from uuid import UUID

import httpx2
import msgspec
import trio

from pulse_trio.client.account import Account, Identity, token_problem
from pulse_trio.client.backoff import Backoff
from pulse_trio.client.errors import AuthenticationFailed, ConnectionLost, NotStored, Refused
from pulse_trio.client.groups import unwrapped
from pulse_trio.client.network import Address, Network
from pulse_trio.client.outgoing import STORE_ATTEMPTS, check_client_id, check_text, new_client_id
from pulse_trio.client.records import Conversation, ConversationRef, Message, Presence, User, UserRef, key_of
from pulse_trio.client.rest import Rest
from pulse_trio.client.room import MAX_EVENTS, Room
from pulse_trio.client.verdicts import RETRYABLE_STATUSES
from pulse_trio.clock import Clock, utc_now
from pulse_trio.errors import ErrorCode

PAGE: Final = 100  # messages of history in one request

T = TypeVar("T")


class _Users(msgspec.Struct):
    users: list[User]


class _Conversations(msgspec.Struct):
    conversations: list[Conversation]


class _Members(msgspec.Struct):
    members: list[User]
    next_cursor: str | None


class _Messages(msgspec.Struct):
    messages: list[Message]


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
    """
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

    A conversation or a user is given as a record or by its id, as a UUID or as text.

    Cancelled: the server may or may not have carried out the request.

    Raises:
        ConnectionLost: there was no answer; the server may or may not have carried out the request.
        AuthenticationFailed: no valid token.
        Refused: the server rejected the request; `code` says why.
        NotAMember: in requests about a conversation.
    """

    def __init__(self, rest: Rest, account: Account, address: Address, network: Network, backoff: Backoff) -> None:
        self._rest = rest
        self._account = account
        self._address = address
        self._network = network
        self._backoff = backoff
        self._rooms: set[Room] = set()

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
        user = await self._ask("GET", "/api/auth/me", User)
        if identity is self._account.identity:
            self._account.identify(user, self._end_rooms)
        return user

    def _end_rooms(self) -> None:
        for room in self._rooms:
            room.end(AuthenticationFailed("another user has signed in"))

    async def search_users(self, prefix: str, *, limit: int = 20) -> list[User]:
        """Returns users whose names begin with `prefix`, in any case, sorted by name; at most `limit`, 1 to 200."""
        answer = await self._ask("GET", "/api/users", _Users, params={"query": prefix, "limit": limit})
        return answer.users

    async def presence(self, user: UserRef) -> Presence:
        """Returns the presence of a user who shares a conversation with this one."""
        return await self._ask("GET", f"/api/chat/users/{key_of(user)}/presence", Presence)

    # --- conversations ---

    async def conversations(self, *, limit: int = 50, offset: int = 0) -> list[Conversation]:
        """Returns the user's conversations, most recent activity first; `limit` is 1 to 200."""
        params = {"limit": limit, "offset": offset}
        return (await self._ask("GET", "/api/chat/conversations", _Conversations, params=params)).conversations

    async def conversation(self, conversation: ConversationRef) -> Conversation:
        """Returns a conversation in its present state."""
        return await self._ask("GET", _path(conversation), Conversation)

    async def create_group(
        self, name: str, members: Iterable[UserRef] = (), *, description: str | None = None
    ) -> Conversation:
        """Creates a group of these members and the user."""
        ids = [str(key_of(member)) for member in members]
        body = {"name": name, "description": description, "is_group": True, "participant_ids": ids}
        return await self._ask("POST", "/api/chat/conversations", Conversation, json=body)

    async def open_direct(self, user: UserRef) -> Conversation:
        """Returns the one-to-one conversation with a user; creates it if there is none."""
        body = {"is_group": False, "participant_ids": [str(key_of(user))]}
        return await self._ask("POST", "/api/chat/conversations", Conversation, json=body)

    async def rename(
        self, conversation: ConversationRef, *, name: str | None = None, description: str | None = None
    ) -> Conversation:
        """Changes the name or the description of a group, or both; None leaves one unchanged."""
        changes = {"name": name, "description": description}
        body = {field: value for field, value in changes.items() if value is not None}
        return await self._ask("PATCH", _path(conversation), Conversation, json=body)

    def members(self, conversation: ConversationRef) -> "Members":
        """Iterates over all members, in the order they joined: `async for user in client.members(conversation)`.

        Loads page after page as needed; the loop may be left at any time.
        """
        return Members(self, f"{_path(conversation)}/members")

    async def add_members(self, conversation: ConversationRef, users: Iterable[UserRef]) -> Conversation:
        """Adds users to a group; members among them are ignored."""
        body = {"user_ids": [str(key_of(user)) for user in users]}
        return await self._ask("POST", f"{_path(conversation)}/members", Conversation, json=body)

    async def remove_member(self, conversation: ConversationRef, user: UserRef) -> None:
        """Removes a member from a group; only its owner may. Their connections are closed when this returns."""
        await self._do("DELETE", f"{_path(conversation)}/members/{key_of(user)}")

    async def leave(self, conversation: ConversationRef) -> None:
        """Leaves a group."""
        await self._do("DELETE", f"{_path(conversation)}/members/me")

    async def active_users(self, conversation: ConversationRef) -> frozenset[UUID]:
        """Returns the users who have a conversation open."""
        return frozenset((await self._ask("GET", f"{_path(conversation)}/active", _Active)).active_users)

    async def read_positions(self, conversation: ConversationRef) -> dict[UUID, int]:
        """Returns the highest `seq` that each member has read; 0: nothing."""
        identity = self._account.identity
        path = f"{_path(conversation)}/read"
        found: dict[UUID, int] = {}
        cursor: str | None = None
        while True:
            answer = await self._ask("GET", path, _Positions, identity, params=_page_after(cursor))
            found |= {position.user_id: position.seq for position in answer.positions}
            cursor = answer.next_cursor
            if cursor is None:
                return found

    async def mark_read(self, conversation: ConversationRef, seq: int) -> None:
        """Moves the user's read position up to this `seq`; a lower one changes nothing."""
        await self._do("PUT", f"{_path(conversation)}/read", json={"seq": seq})

    # --- messages ---

    def history(
        self, conversation: ConversationRef, *, before_seq: int | None = None, after_seq: int | None = None
    ) -> "History":
        """Iterates over stored messages: `async for message in client.history(conversation)`.

        Backwards from the newest, or from the one before `before_seq`; with `after_seq` forwards from the one after it.
        Deleted messages are included, without content. Loads page after page as needed; the loop may be left at any
        time.
        """
        if before_seq is not None and after_seq is not None:
            raise ValueError("give `before_seq` or `after_seq`, not both")
        return History(self, f"{_path(conversation)}/messages", before_seq, after_seq)

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
                return await self._ask("POST", f"{_path(conversation)}/messages", Message, identity, json=body)
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

    async def edit(self, message: Message, content: str) -> Message:
        """Changes the content of a message of one's own; returns the edited message."""
        check_text(content)
        return await self._ask("PATCH", _message_path(message), Message, json={"content": content})

    async def delete(self, message: Message) -> None:
        """Deletes a message of one's own, or any message as the owner of the conversation."""
        await self._do("DELETE", _message_path(message))

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
        room = Room(
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
        self._rooms.add(room)
        with unwrapped():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(room.run, name=f"room {room.conversation.id}")  # noqa: ASYNC113  # `wait_joined` waits for it
                try:
                    await room.wait_joined()
                    yield room
                finally:
                    room.close()
                    self._rooms.discard(room)
                nursery.cancel_scope.cancel()

    # --- requests ---

    async def _ask(self, method: str, path: str, kind: type[T], identity: Identity | None = None, **options: Any) -> T:
        answer: T = await self._signed(partial(self._rest.request, method, path, kind, **options), identity)
        return answer

    async def _do(self, method: str, path: str, **options: Any) -> None:
        await self._signed(partial(self._rest.request, method, path, None, **options), None)

    async def _signed(self, request: Callable[..., Awaitable[Any]], identity: Identity | None) -> Any:
        """Makes a request with the token; retries once with a new one if the token was rejected.

        Args:
            identity: whose request it is; None: the one signed in now.

        Raises:
            AuthenticationFailed: there is no valid token, or another user has signed in.
        """
        identity = identity or self._account.identity
        token = await self._account.current(identity)
        try:
            return await request(token=token)
        except AuthenticationFailed:
            fresh = await self._account.refresh(token, identity)
        return await request(token=fresh)


class _Pages(Generic[T]):
    """Iterates over items that the server returns page by page."""

    def __init__(self, client: Client, path: str) -> None:
        self._client = client
        self._identity = client._account.identity
        self._path = path
        self._page: deque[T] = deque()
        self._is_last = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Returns the next item. Cancelled: none is skipped."""
        if not self._page:
            if self._is_last:
                raise StopAsyncIteration
            await self._load()
            if not self._page:
                raise StopAsyncIteration
        return self._page.popleft()

    async def _load(self) -> None:
        """Loads the next page into `_page` and sets `_is_last`."""
        raise NotImplementedError


class Members(_Pages[User]):
    """The members of a conversation. Made by `Client.members`."""

    _cursor: str | None = None

    async def _load(self) -> None:
        params = _page_after(self._cursor)
        page = await self._client._ask("GET", self._path, _Members, self._identity, params=params)
        self._cursor = page.next_cursor
        self._is_last = page.next_cursor is None
        self._page.extend(page.members)


class History(_Pages[Message]):
    """The messages of a conversation. Made by `Client.history`."""

    def __init__(self, client: Client, path: str, before_seq: int | None, after_seq: int | None) -> None:
        super().__init__(client, path)
        self._before_seq = before_seq
        self._after_seq = after_seq

    async def _load(self) -> None:
        params = {"limit": PAGE}
        if self._after_seq is not None:
            params["after_seq"] = self._after_seq
        elif self._before_seq is not None:
            params["before_seq"] = self._before_seq
        page = (await self._client._ask("GET", self._path, _Messages, self._identity, params=params)).messages
        self._is_last = len(page) < PAGE
        if self._after_seq is not None:
            page.reverse()  # a page is always newest first
        if page:
            self._before_seq = page[-1].seq
            self._after_seq = None if self._after_seq is None else page[-1].seq
        self._page.extend(page)


def _page_after(cursor: str | None) -> dict[str, str]:
    return {} if cursor is None else {"cursor": cursor}


def _path(conversation: ConversationRef) -> str:
    return f"/api/chat/conversations/{key_of(conversation)}"


def _message_path(message: Message) -> str:
    return f"{_path(message.conversation_id)}/messages/{message.id}"
