"""Tickets: sent in the URL of a WebSocket instead of a token.

A ticket opens one connection of one user, to one conversation or the session, once and within a few seconds. So a URL
in somebody's log is worth nothing. Tickets are kept in this process's memory, as hashes; a restart forgets them.
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

RANDOM_BYTES: Final = 32  # 16 could not be guessed either
MAX_PER_USER: Final = 100  # the default bound of connections of a user: all of them may reconnect at once
MAX_TICKETS: Final = 65_536  # an entry has some 500 bytes


@dataclass(frozen=True, slots=True)
class _Ticket:
    identity: Identity
    conversation_id: UUID | None
    until: float  # on Trio's clock


class Tickets:
    """The unused tickets, at most `per_user` of one user and `in_all` of everybody.

    Beyond that the oldest one, of that user or of all, is forgotten. No request for a ticket is rejected, so nobody can
    keep others from getting one; a client that connects right away does not notice.

    Args:
        lifetime: seconds that a ticket is valid.
        clock: the time by which the users' tokens expire.
        per_user: maximum of one user.
        in_all: maximum of all users together.
    """

    __slots__ = ("_clock", "_found", "_in_all", "_of_user", "_per_user", "lifetime")

    def __init__(self, lifetime: int, clock: Clock, *, per_user: int = MAX_PER_USER, in_all: int = MAX_TICKETS) -> None:
        self.lifetime = lifetime
        self._clock = clock
        self._per_user = per_user
        self._in_all = in_all
        self._found: dict[bytes, _Ticket] = {}  # all live equally long, so the oldest is the first
        self._of_user: dict[UUID, dict[bytes, None]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def issue(self, identity: Identity, conversation_id: UUID | None) -> str:
        """Issues a ticket.

        Args:
            identity: the user; the connection ends when the user's token expires.
            conversation_id: the conversation that it opens; None for the session.
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
        """Returns the user of a ticket and uses it up, also when it is rejected.

        There is no checkpoint: of two simultaneous requests with one ticket the first gets the user.

        Raises:
            PulseError: the ticket is unknown, used, expired, or for another conversation; does not say which.
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
                "The ticket is not valid: each works once, within a few seconds, for what it was issued for",
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
    """Hashes a ticket, so that neither this memory nor the time of a look-up reveals one."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
