"""Tickets and limited attempts in memory."""

from collections.abc import Sequence
from uuid import UUID

import trio

from pulse_trio.store.memory.state import State
from pulse_trio.store.protections import (
    MAX_ATTEMPT_BUCKETS,
    MAX_REFILL,
    MAX_TICKETS,
    MAX_TICKETS_OF_USER,
    AttemptBucket,
    AttemptVerdict,
    Ticket,
    UsedTicket,
)

_ROUNDING = 1e-9  # tokens: a bucket has one after exactly the seconds that were announced


class Protections(State):
    """Operations of the contract on tickets and attempts, on Trio's clock."""

    max_tickets_of_user = MAX_TICKETS_OF_USER
    max_tickets = MAX_TICKETS
    max_attempt_buckets = MAX_ATTEMPT_BUCKETS

    def __init__(self, epoch: str = "memory") -> None:
        super().__init__(epoch)
        self._tickets: dict[bytes, tuple[Ticket, float]] = {}  # with the end of their lives, the oldest first
        self._tickets_of_user: dict[UUID, dict[bytes, None]] = {}
        self._buckets: dict[bytes, tuple[float, float]] = {}  # key → missing tokens and when; the least recent first

    # --- tickets ---

    async def draw_ticket(self, ticket: Ticket) -> None:
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        self._forget_tickets(now, self.max_tickets - 1)
        of_user = self._tickets_of_user.get(ticket.user_id, {})
        if len(of_user) >= self.max_tickets_of_user:
            self._take_ticket(next(iter(of_user)))
        self._tickets[ticket.digest] = ticket, now + ticket.lifetime
        self._tickets_of_user.setdefault(ticket.user_id, {})[ticket.digest] = None

    async def use_ticket(self, digest: bytes) -> UsedTicket | None:
        await trio.lowlevel.checkpoint()
        if digest not in self._tickets:
            return None
        ticket, until = self._take_ticket(digest)
        account = self._accounts.get(ticket.user_id)
        if until <= trio.current_time() or account is None:
            return None
        conversation = None if ticket.conversation_id is None else self._conversations.get(ticket.conversation_id)
        is_member = conversation is not None and ticket.user_id in conversation.members
        return UsedTicket(
            account.user,
            ticket.conversation_id,
            ticket.token_expires,
            ticket.signed_in,
            conversation.members_rev if conversation is not None and is_member else None,
        )

    def _take_ticket(self, digest: bytes) -> tuple[Ticket, float]:
        ticket, until = self._tickets.pop(digest)
        of_user = self._tickets_of_user[ticket.user_id]
        del of_user[digest]
        if not of_user:
            del self._tickets_of_user[ticket.user_id]
        return ticket, until

    def _forget_tickets(self, now: float, most: int) -> None:
        """Forgets expired tickets at the front, and the oldest beyond `most`."""
        while self._tickets:
            digest, (_, until) = next(iter(self._tickets.items()))
            if until > now and len(self._tickets) <= most:
                return
            self._take_ticket(digest)

    # --- attempts ---

    async def take_tokens(self, groups: Sequence[Sequence[AttemptBucket]]) -> AttemptVerdict:
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        waits = tuple(max((self._wait(bucket, now) for bucket in group), default=0.0) for group in groups)
        taken = tuple(index for index, wait in enumerate(waits) if not wait)
        if 0 not in taken or (len(groups) > 1 and len(taken) == 1):
            return AttemptVerdict((), waits)
        for index in taken:
            for bucket in groups[index]:
                self._set(bucket.key, self._missing(bucket, now) + 1, now)
        self._forget_buckets(now)
        return AttemptVerdict(taken, waits)

    async def give_back_tokens(self, buckets: Sequence[AttemptBucket]) -> None:
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        for bucket in buckets:
            self._set(bucket.key, self._missing(bucket, now) - 1, now)

    def _missing(self, bucket: AttemptBucket, now: float) -> float:
        missing, since = self._buckets.get(bucket.key, (0.0, now))
        return max(0.0, missing - (now - since) * bucket.rate)

    def _wait(self, bucket: AttemptBucket, now: float) -> float:
        lacking = self._missing(bucket, now) + 1 - bucket.burst
        return lacking / bucket.rate if lacking > _ROUNDING else 0.0

    def _set(self, key: bytes, missing: float, now: float) -> None:
        self._buckets.pop(key, None)
        if missing > 0:
            self._buckets[key] = missing, now

    def _forget_buckets(self, now: float) -> None:
        """Forgets the buckets that are full again, and the least recently used beyond the bound."""
        while self._buckets:
            key, (_, since) = next(iter(self._buckets.items()))
            if since > now - MAX_REFILL and len(self._buckets) <= self.max_attempt_buckets:
                return
            del self._buckets[key]

    async def forget_stale(self) -> None:
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        self._forget_tickets(now, self.max_tickets)
        self._forget_buckets(now)
