"""The contract of a store on what protects accounts: tickets that work once, and the counts of limited attempts.

All processes on one database share them, so an attacker who reaches several of them gains nothing. A crash or failover
of the database forgets them: tickets are then rejected, and limits begin anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from pulse_trio.model import User

MAX_TICKETS_OF_USER: Final = 100  # the default bound of connections of a user: all of them may reconnect at once
MAX_TICKETS: Final = 65_536  # an entry has some 500 bytes
MAX_ATTEMPT_BUCKETS: Final = 262_144  # an entry has some 250 bytes, with its entries in indexes
MAX_REFILL: Final = 3_600.0  # seconds in which every bucket fills up


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket as it is stored.

    Attributes:
        digest: SHA-256 of its text, 32 bytes.
        user_id: the user whom it identifies.
        conversation_id: the conversation that it opens; None for the session.
        token_expires: the end of the token that it was drawn with, in seconds since the epoch.
        signed_in: the time of the login that the token comes from, if it has it.
        lifetime: seconds that it is valid, by the clock of the store.
    """

    digest: bytes
    user_id: UUID
    conversation_id: UUID | None
    token_expires: float
    signed_in: float | None
    lifetime: float


@dataclass(frozen=True, slots=True)
class UsedTicket:
    """A ticket that was in time, and is now used up.

    Attributes:
        user: its user as they now are.
        conversation_id: the conversation that it opens; None for the session.
        token_expires: as in `Ticket`.
        signed_in: as in `Ticket`.
        members_rev: the rev of the conversation's members, as of which the user is one; None if they are not.
    """

    user: User
    conversation_id: UUID | None
    token_expires: float
    signed_in: float | None
    members_rev: int | None


@dataclass(frozen=True, slots=True)
class AttemptBucket:
    """A token bucket that counts attempts; full until its first use.

    Attributes:
        key: identifies it, 16 bytes.
        rate: tokens that it gains a second; `burst / rate` is at most MAX_REFILL.
        burst: tokens that it holds, 1 or more.
    """

    key: bytes
    rate: float
    burst: float


@dataclass(frozen=True, slots=True)
class AttemptVerdict:
    """The answer about an attempt.

    Attributes:
        taken: the groups of which tokens were taken, by their index; none if the attempt is rejected.
        waits: for each group the seconds until all of its buckets have a token, if nobody takes one; 0 if they have.
    """

    taken: tuple[int, ...]
    waits: tuple[float, ...]


class Protections(Protocol):
    """The operations on tickets and attempts; a part of `Store`."""

    max_tickets_of_user: int
    """Unused tickets of one user; beyond that their oldest one is forgotten."""

    max_tickets: int
    """Unused tickets in all. Beyond that the oldest ones are forgotten, when `forget_stale` runs next at the latest."""

    max_attempt_buckets: int
    """Buckets that are not full. Beyond that those that were used longest ago are forgotten, likewise."""

    async def draw_ticket(self, ticket: Ticket) -> None:
        """Stores a ticket. Draws of one moment may share a statement, and then exceed the bound of a user together."""

    async def use_ticket(self, digest: bytes) -> UsedTicket | None:
        """Uses up the ticket with this digest; None if it is unknown, used or expired, or its user does not exist.

        Of several simultaneous uses, in any processes, one at most gets it.
        """

    async def take_tokens(self, groups: Sequence[Sequence[AttemptBucket]]) -> AttemptVerdict:
        """Takes a token from each bucket of the first group, and of each further group in which all have one.

        Takes none, and so rejects the attempt, if a bucket of the first group has none, or there are further groups and
        none of them can give. All of it is one step: parallel attempts never take more tokens than there are.

        Args:
            groups: the buckets, each in one group only; an empty first group always gives.

        Cancelled, or StoreUnavailable: tokens may be taken.
        """

    async def give_back_tokens(self, buckets: Sequence[AttemptBucket]) -> None:
        """Gives a token back to each of these buckets."""

    async def forget_stale(self) -> None:
        """Removes expired tickets, full buckets, and what exceeds the bounds. A store that runs does so by itself."""
