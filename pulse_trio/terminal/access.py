"""The server, the token and the conversation that a command is about."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from pulse_trio.client import Address, Backoff, Client, Conversation, NotAMember, User, open_client
from pulse_trio.client.account import token_problem
from pulse_trio.ids import parse_uuid
from pulse_trio.terminal import tokens
from pulse_trio.terminal.exits import Exit, Stop, warn
from pulse_trio.terminal.text import safe
from pulse_trio.texts import text_problem, username_key

PAGE: Final = 200  # conversations that are asked for at a time
READINGS: Final = 3  # of a list whose pages move
SHOWN: Final = 5  # conversations that are named when several have the same name


@dataclass(frozen=True, slots=True)
class Access:
    """How to get in.

    Attributes:
        server: its URL.
        token: given for this run; None: the one that `login` kept.
        attempts: to connect, in a row.
    """

    server: str
    token: str | None = None
    attempts: int | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Client]:
        """A client that is signed in. A token that `login` kept is kept anew when it is renewed, as long as it is kept.

        One that cannot be kept ends nothing: a warning says so at the end.

        Raises:
            Stop: nobody is signed in.
            ClientError: the server cannot be reached, or the token is not good.
        """
        kept = None if self.token else tokens.load(self.server)
        token = self.token or (kept.token if kept else None)
        if token is None:
            raise Stop(Exit.NOT_SIGNED_IN, f"not signed in to {self.server}: pulse-trio login, or set PULSE_TOKEN")
        problem = token_problem(token)
        if problem is not None:
            raise Stop(Exit.NOT_SIGNED_IN, f"the token that is kept for {self.server} {problem}: pulse-trio login")

        failure: Stop | None = None

        def keep(token: str) -> None:
            nonlocal kept, failure
            if kept is not None:
                following = tokens.Kept(kept.username, token)
                try:
                    kept = following if tokens.keep_next(self.server, kept, following) else None
                    failure = None
                except Stop as error:
                    failure = error

        backoff = Backoff(attempts=self.attempts)
        try:
            async with open_client(self.server, token=token, on_token=keep, backoff=backoff) as client:
                yield client
        finally:
            if failure is not None:
                warn(f"the token was renewed, and could not be kept: {failure}")


def checked_server(url: str) -> str:
    """The URL of a server in the form that tokens are kept under.

    Raises:
        Stop: it is none.
    """
    problem = text_problem(url)
    if problem is not None:
        raise Stop(Exit.USAGE, f"the URL of a server {problem}")
    try:
        return Address.parse(url).base_url
    except ValueError as error:
        raise Stop(Exit.USAGE, str(error)) from None


def title(conversation: Conversation, me: User) -> str:
    """What a conversation is called. Safe for a terminal."""
    return safe(name_of(conversation, me) or "group without a name")


def name_of(conversation: Conversation, me: User) -> str | None:
    """Its name, or `@` and the other one's: what `find` finds it by. As it was written."""
    if not conversation.is_group:
        others = [user.username for user in conversation.users if user.id != me.id]
        return f"@{others[0]}" if others else "@nobody"
    return conversation.name


async def find(client: Client, text: str, *, creates: bool) -> Conversation:
    """The conversation that is named by its id, its name, or `@username` for the one-to-one with somebody.

    Args:
        creates: a one-to-one that is not there yet is created.

    Raises:
        Stop: there is none, or several have this name.
    """
    problem = text_problem(text)
    if problem is not None:
        raise Stop(Exit.USAGE, f"the name of a conversation {problem}")
    key = parse_uuid(text)
    if key is not None:
        try:
            return await client.conversation(key)
        except NotAMember:
            raise Stop(Exit.REFUSED, f"you are in no conversation {text}") from None
    if text.startswith("@"):
        return await _find_direct(client, text[1:], creates=creates)
    named = [c for c in await everything(client) if c.is_group and (c.name or "").casefold() == text.casefold()]
    if not named:
        about = "@USERNAME is the one-to-one with somebody"
        raise Stop(Exit.REFUSED, f'you are in no conversation named "{text}"; {about}')
    if len(named) > 1:
        ids = ", ".join(str(conversation.id) for conversation in named[:SHOWN])
        raise Stop(Exit.USAGE, f'{len(named)} conversations are named "{text}"; give the id: {ids}')
    return named[0]


async def everything(client: Client) -> list[Conversation]:
    """All conversations of the user, the one with the most recent activity first.

    If some move between two requests, one may be on no page: then the list is read again, a few times at most.
    """
    found: dict[UUID, Conversation] = {}
    for _ in range(READINGS):
        read, is_whole = await _read(client)
        if is_whole:
            return list(read.values())
        found = read | {key: value for key, value in found.items() if key not in read}
    return list(found.values())


async def _read(client: Client) -> tuple[dict[UUID, Conversation], bool]:
    """The conversations by page, and whether no page moved: each one begins with the last conversation before it."""
    found: dict[UUID, Conversation] = {}
    last: UUID | None = None
    offset = 0
    is_whole = True
    while page := await client.conversations(limit=PAGE, offset=offset):
        is_whole = is_whole and last in (None, page[0].id)
        found |= {conversation.id: conversation for conversation in page}
        if len(page) < PAGE:
            return found, is_whole
        last = page[-1].id
        offset += PAGE - 1
    return found, is_whole and last is None


async def _find_direct(client: Client, username: str, *, creates: bool) -> Conversation:
    if _is(client.user, username):
        raise Stop(Exit.REFUSED, f'"{username}" is you: a one-to-one is with somebody else')
    for conversation in await everything(client):
        if not conversation.is_group and any(_is(user, username) for user in conversation.users if user != client.user):
            return conversation
    if not creates:
        raise Stop(Exit.REFUSED, f'you have no one-to-one with "{username}"')
    other = next((user for user in await client.search_users(username) if _is(user, username)), None)
    if other is None:
        raise Stop(Exit.REFUSED, f'there is no user "{username}"')
    return await client.open_direct(other)


def _is(user: User, username: str) -> bool:
    return username_key(user.username) == username_key(username)
