"""Finds the server, the token and the conversation of a command."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from pulse_trio.client import Address, Backoff, Client, Conversation, NotAMember, User, open_client
from pulse_trio.client.account import token_problem
from pulse_trio.ids import parse_uuid
from pulse_trio.terminal import tokens
from pulse_trio.terminal.exits import Exit, Stop, warn
from pulse_trio.terminal.text import safe
from pulse_trio.texts import text_problem, username_key

SHOWN: Final = 5  # conversations in an error about several with one name


@dataclass(frozen=True, slots=True)
class Access:
    """The server and the token of a command.

    Attributes:
        server: URL of the server.
        token: for this run only; None: the token that `login` stored.
        attempts: failed attempts to connect in a row before it gives up; None: unlimited.
    """

    server: str
    token: str | None = None
    attempts: int | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Client]:
        """Opens a client that is signed in, and stores each renewal of a stored token.

        If a renewal cannot be stored, the block goes on, and a warning is printed at its end.

        Raises:
            Stop: not signed in.
            ClientError: the server cannot be reached, or the token is not valid.
        """
        kept = None if self.token else tokens.load(self.server)
        token = self.token or (kept.token if kept else None)
        if token is None:
            raise Stop(Exit.NOT_SIGNED_IN, f"not signed in to {self.server}: pulse-trio login, or set PULSE_TOKEN")
        problem = token_problem(token)
        if problem is not None:
            raise Stop(Exit.NOT_SIGNED_IN, f"the stored token for {self.server} {problem}: pulse-trio login")

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
                warn(f"the renewed token could not be stored: {failure}")


def checked_server(url: str) -> str:
    """Returns the URL of a server in the form under which tokens are stored.

    Raises:
        Stop: the URL is not valid.
    """
    problem = text_problem(url)
    if problem is not None:
        raise Stop(Exit.USAGE, f"the URL of a server {problem}")
    try:
        return Address.parse(url).base_url
    except ValueError as error:
        raise Stop(Exit.USAGE, str(error)) from None


def title(conversation: Conversation, me: User) -> str:
    """Returns a title for a conversation, safe for a terminal."""
    return safe(name_of(conversation, me) or "group without a name")


def name_of(conversation: Conversation, me: User) -> str | None:
    """Returns the name of a conversation, or `@` and the other user's name, as `find` accepts it; not made safe."""
    if not conversation.is_group:
        others = [user.username for user in conversation.users if user.id != me.id]
        return f"@{others[0]}" if others else "@nobody"
    return conversation.name


async def find(client: Client, text: str, *, creates: bool) -> Conversation:
    """Finds a conversation by its id, its name, or `@username` for a one-to-one.

    Args:
        creates: create the one-to-one if it does not exist.

    Raises:
        Stop: there is no such conversation, or several have this name.
    """
    problem = text_problem(text)
    if problem is not None:
        raise Stop(Exit.USAGE, f"the name of a conversation {problem}")
    key = parse_uuid(text)
    if key is not None:
        try:
            return await client.conversation(key)
        except NotAMember:
            raise Stop(Exit.REFUSED, f"you are not in a conversation {text}") from None
    if text.startswith("@"):
        return await _find_direct(client, text[1:], creates=creates)
    found = await client.conversations(limit=None)
    named = [c for c in found if c.is_group and (c.name or "").casefold() == text.casefold()]
    if not named:
        about = "for a one-to-one give @USERNAME"
        raise Stop(Exit.REFUSED, f'you are not in a conversation named "{text}"; {about}')
    if len(named) > 1:
        ids = ", ".join(str(conversation.id) for conversation in named[:SHOWN])
        raise Stop(Exit.USAGE, f'{len(named)} conversations are named "{text}"; give the id: {ids}')
    return named[0]


async def _find_direct(client: Client, username: str, *, creates: bool) -> Conversation:
    if _is(client.user, username):
        raise Stop(Exit.REFUSED, f'"{username}" is you: a one-to-one is with another user')
    for conversation in await client.conversations(limit=None):
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
