"""Tickets: sent in the URL of a WebSocket instead of a token.

A ticket opens one connection of one user, to one conversation or the session, once and within a few seconds. So a URL
in somebody's log is worth nothing. The store keeps tickets, as hashes: a ticket drawn in one process works in any.
"""

import hashlib
import secrets
from typing import Final
from uuid import UUID

from pulse_trio.auth.tokens import Identity
from pulse_trio.clock import Clock
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.store.base import Store, Ticket

RANDOM_BYTES: Final = 32  # 16 could not be guessed either


class Tickets:
    """Issues and redeems tickets.

    No request for a ticket is rejected: beyond the store's bounds the oldest one, of that user or of all, is forgotten.
    So nobody can keep others from getting one; a client that connects right away does not notice.

    Args:
        store: keeps them.
        lifetime: seconds that a ticket is valid.
        clock: the time by which the users' tokens expire.
    """

    __slots__ = ("_clock", "_store", "lifetime")

    def __init__(self, store: Store, lifetime: int, clock: Clock) -> None:
        self.lifetime = lifetime
        self._store = store
        self._clock = clock

    async def issue(self, identity: Identity, conversation_id: UUID | None) -> str:
        """Issues a ticket.

        Args:
            identity: the user; the connection ends when the user's token expires.
            conversation_id: the conversation that it opens; None for the session.

        Raises:
            StoreUnavailable: it is not stored.
        """
        text = secrets.token_urlsafe(RANDOM_BYTES)
        await self._store.draw_ticket(
            Ticket(
                digest=_digest(text),
                user_id=identity.user.id,
                conversation_id=conversation_id,
                token_expires=identity.expires,
                signed_in=identity.signed_in,
                lifetime=self.lifetime,
            )
        )
        return text

    async def redeem(self, text: str, conversation_id: UUID | None) -> tuple[Identity, int | None]:
        """Returns the user of a ticket and uses it up, also when it is rejected.

        With the user comes the rev of the conversation's members, as of which they are one of them; None if they are
        not, or for the session. Of simultaneous requests with one ticket, in any processes, one at most gets the user.

        Raises:
            PulseError: the ticket is unknown, used, expired, or for another conversation; does not say which.
            StoreUnavailable: it may be used up.
        Cancelled: it may be used up.
        """
        used = await self._store.use_ticket(_digest(text))
        if used is None or used.conversation_id != conversation_id or used.token_expires <= self._clock().timestamp():
            raise PulseError(
                ErrorCode.INVALID_TOKEN,
                "The ticket is not valid: each works once, within a few seconds, for what it was issued for",
            )
        return Identity(used.user, used.token_expires, used.signed_in), used.members_rev


def _digest(text: str) -> bytes:
    """Hashes a ticket, so that neither the database nor the time of a look-up reveals one."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
