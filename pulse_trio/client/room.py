"""A live conversation: events in, messages out. Opened by `Client.join`."""

from typing import Final, Self
from uuid import UUID

import trio

from pulse_trio.client.outgoing import check_client_id, check_text, new_client_id
from pulse_trio.client.records import Conversation, Event, Message, Reset
from pulse_trio.client.room_connections import RoomConnections

MAX_EVENTS: Final = 256  # unread: fits a burst, and 4 MB with the longest content
SENDS_AT_ONCE: Final = 32  # half of what the server lets wait for the database on a connection


class Room:
    """A live conversation.

    Reconnects by itself and resumes: every new message, edit and deletion comes once, in the order of `rev`; after a
    reconnection each message comes once in its present state. The same holds for those who are added and removed, and
    for the conversation's name and owner, if the server supports it. If the server cannot resume, a `Reset` event
    comes. If a change is known to have been lost on the way, the room reconnects to get it.

    Memory is bounded. At most `max_events` unread events are kept; then the room stops reading from the connection,
    and the server's bounds slow or close it until there is space again. A task that waits in `send` need not wait for
    that: after `BEHIND_AFTER` seconds the room reconnects at the present to get the acknowledgement, and fetches the
    skipped changes when events are read again.

    Attributes:
        conversation: its state when the room was opened.
    """

    def __init__(self, conversation: Conversation, connections: RoomConnections) -> None:
        self.conversation = conversation
        self._connections = connections
        self._outgoing = connections.outgoing
        self._unread = connections.unread
        self._slots = trio.Semaphore(SENDS_AT_ONCE)

    @property
    def rev(self) -> int:
        """The rev of the last change that `receive` returned; store it with `epoch` to resume later."""
        return self._unread.rev

    @property
    def epoch(self) -> str:
        """The epoch of `rev`, which changes with a `Reset`; empty until known."""
        return self._unread.epoch or ""

    @property
    def head_rev(self) -> int:
        """The highest rev of the conversation that this room knows."""
        return self._connections.progress.head_rev

    @property
    def head_epoch(self) -> str:
        """The epoch of `head_rev`; differs from `epoch` while a `Reset` is waiting to be read."""
        return self._connections.progress.head_epoch

    @property
    def last_seq(self) -> int:
        """The seq of the newest message that this room knows."""
        return self._connections.progress.head_seq

    @property
    def gaps(self) -> int:
        """Number of times that a connection left out a change; more than 0 is a fault of the server or the network.

        Stays 0 with a server that does not say which change comes before another.
        """
        return self._connections.progress.gaps

    @property
    def is_online(self) -> bool:
        """True while the room is connected."""
        return self._connections.is_online

    @property
    def active_users(self) -> frozenset[UUID]:
        """The users who have the conversation open, as far as this room knows."""
        return self._connections.roster.active

    def name_of(self, user_id: UUID) -> str:
        """Returns the username of a user, or their id if this room does not know it."""
        return self._connections.roster.name_of(user_id)

    async def send(self, content: str, *, client_id: str | None = None) -> Message:
        """Sends a message; returns it when it is stored. Messages of one task are stored in the order it sent them.

        Resends until there is an acknowledgement, also on new connections; the message is stored once. A program that
        repeats a message after a restart gives the same `client_id` again (1 to 64 characters; by default a new UUID).

        There is no timeout: put `trio.fail_after` around it.
        Cancelled: the message may or may not be stored. Resend it with its `client_id` to be sure, or look for it in
        the events and the history.

        Raises:
            Refused: the server rejects it; `code` and `field` say why.
            NotStored: the server failed to store it three times; it may be stored.
            NotAMember, AuthenticationFailed, ConnectionLost: the room has failed; the message may be stored.
            ValueError: the client_id is not valid, or a message with it is pending.
        """
        check_text(content)
        if client_id is None:
            client_id = new_client_id()
        check_client_id(client_id)
        async with self._slots:
            self._connections.check()
            pending = self._outgoing.add(client_id, content)
            self._connections.wakeup.notify()
            try:
                await pending.resolved.wait()
            finally:
                self._outgoing.forget(pending)
                self._connections.wakeup.notify()
        if isinstance(pending.outcome, Message):
            return pending.outcome
        assert pending.outcome is not None
        raise pending.outcome

    def typing(self) -> None:
        """Notifies the others that this user is typing; at most every two seconds, and not while offline."""
        if self._connections.is_online:
            self._outgoing.type()
            self._connections.wakeup.notify()

    def mark_read(self, seq: int) -> None:
        """Moves the user's read position up to this seq; sent as soon as there is a connection.

        A lower seq changes nothing, except after a `Reset`.
        """
        self._outgoing.read(seq)
        self._connections.wakeup.notify()

    async def receive(self) -> Event:
        """Waits for the next event. If several tasks receive, each event goes to one of them.

        Cancelled: no event is lost.

        Raises:
            NotAMember: the user was removed from the conversation.
            AuthenticationFailed: the token has expired and cannot be renewed, or another user has signed in.
            ConnectionLost: as many attempts to connect as `Backoff` allows have failed.
            ProtocolError: the client and the server speak different protocols.
            trio.ClosedResourceError: the block of `Client.join` has ended.
        """
        connections = self._connections
        await connections.wakeup.wait_until(lambda: len(self._unread) > 0 or connections.failure is not None)
        if not len(self._unread):
            connections.check()
        event = self._unread.take()
        if isinstance(event, Reset):
            self._outgoing.forget_read()
        return event

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return await self.receive()
