"""Tickets: what a client shows in the URL of a WebSocket instead of its token.

A ticket opens one connection of one user, to what it was drawn for, once and for a few seconds. A URL that ends up in
somebody's log is then worth nothing. They are kept in this process's memory, as hashes; a restart forgets them.
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import trio

from pulse_trio.auth.tokens import Identity
from pulse_trio.clock import Clock
from pulse_trio.errors import ErrorCode, PulseError

RANDOM_BYTES: Final = 32  # twice what nobody guesses
PER_USER: Final = 100  # as many as a user may have connections by default: all of them may reconnect at once
IN_ALL: Final = 65_536  # an entry has some 500 bytes


@dataclass(frozen=True, slots=True)
class _Ticket:
    identity: Identity
    conversation_id: UUID | None
    until: float  # on Trio's clock


class Tickets:
    """The tickets that were drawn and not used yet, `per_user` of one user and `in_all` at most.

    Beyond that the oldest, of that user or of all, is forgotten. Nobody is refused one, so nobody can keep others from
    drawing; who connects at once, as one should, never notices.

    Args:
        lifetime: how long a ticket is good, in seconds.
        clock: what time it is for the tokens that tickets are drawn with.
        per_user: most tickets of one user.
        in_all: most tickets.
    """

    __slots__ = ("_clock", "_found", "_in_all", "_of_user", "_per_user", "lifetime")

    def __init__(self, lifetime: int, clock: Clock, *, per_user: int = PER_USER, in_all: int = IN_ALL) -> None:
        self.lifetime = lifetime
        self._clock = clock
        self._per_user = per_user
        self._in_all = in_all
        self._found: dict[bytes, _Ticket] = {}  # all live equally long, so the oldest is the first
        self._of_user: dict[UUID, dict[bytes, None]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def draw(self, identity: Identity, conversation_id: UUID | None) -> str:
        """A ticket.

        Args:
            identity: who draws it, and until when their token is good: the connection ends then, too.
            conversation_id: what it opens; None is the session.
        """
        now = trio.current_time()
        while self._found and (len(self._found) >= self._in_all or self._oldest().until <= now):
            self._take(next(iter(self._found)))
        of_user = self._of_user.get(identity.user.id, {})
        if len(of_user) >= self._per_user:
            self._take(next(iter(of_user)))
        text = secrets.token_urlsafe(RANDOM_BYTES)
        key = _digest(text)
        self._found[key] = _Ticket(identity, conversation_id, now + self.lifetime)
        self._of_user.setdefault(identity.user.id, {})[key] = None
        return text

    def redeem(self, text: str, conversation_id: UUID | None) -> Identity:
        """Who drew the ticket. It is used up by this, also when it is refused.

        There is no checkpoint in it: of two who show one ticket at the same moment the first has it.

        Raises:
            PulseError: it was never drawn, was used, has run out, or was drawn for something else; does not say which.
        """
        key = _digest(text)
        ticket = self._take(key) if key in self._found else None
        if (
            ticket is None
            or ticket.until <= trio.current_time()
            or ticket.conversation_id != conversation_id
            or ticket.identity.expires <= self._clock().timestamp()
        ):
            raise PulseError(
                ErrorCode.INVALID_TOKEN,
                "The ticket is not valid: each is good once, for a few seconds, and for what it was drawn for",
            )
        return ticket.identity

    def _oldest(self) -> _Ticket:
        return next(iter(self._found.values()))

    def _take(self, key: bytes) -> _Ticket:
        ticket = self._found.pop(key)
        of_user = self._of_user[ticket.identity.user.id]
        del of_user[key]
        if not of_user:
            del self._of_user[ticket.identity.user.id]
        return ticket


def _digest(text: str) -> bytes:
    """What is kept of a ticket: who reads the memory, or measures the look-up, gets none of it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
