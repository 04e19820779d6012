"""A subscription: a connection's place in one conversation, and the last change that its client has."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeAlias
from uuid import UUID

import trio

from pulse_trio.errors import PulseError
from pulse_trio.model import highest_rev
from pulse_trio.protocol import Encoded
from pulse_trio.rooms.connection import Connection

_NO_REVS: Final[Mapping[int, int]] = {}

SendPage: TypeAlias = Callable[["Subscription"], Awaitable[None]]
"""Sends a subscription the next page of the changes that its client missed."""


class Subscription:
    """A connection's place in a conversation; the connection's member task serves it.

    A session's connection has one in each conversation where something has happened since it opened. A
    conversation's own connection has only this one, and keeps the room open.

    Args:
        connection: the connection.
        conversation_id: the conversation.
        cursor: the rev of the last change that the client has, of the kinds that it asked for.
        send_page: sends the next page of missed changes; see `CatchUp.send_page`.

    Attributes:
        mask: from `Features.mask`: the kinds of changes that its client is sent.
        member_rev: the rev of the conversation's members as of which the user is one of them.
        origin: until a session starts, the highest rev of each kind when it was subscribed: where the cursor of other
            features would stand.
        left_revs: until a session starts, the highest rev of each kind that a room had delivered which has ended: what
            other features would have to catch up with.
        follows: the subscription that this one goes on from, while the outbox may have changes of it that are not sent.
        target: the rev up to which the client must get changes from the store, before it is live. The user is a member
            as of it, so nothing above it is read for them: they may have been removed there.
        is_live: changes are delivered as they are committed.
        is_waiting: the client has everything up to `target`, and more is committed that the room has not delivered.
        is_removed: the user is no longer a member.
    """

    __slots__ = (
        "_send_page",
        "connection",
        "conversation_id",
        "cursor",
        "follows",
        "is_live",
        "is_removed",
        "is_waiting",
        "left_revs",
        "mask",
        "member_rev",
        "origin",
        "target",
    )

    def __init__(self, connection: Connection, conversation_id: UUID, cursor: int, send_page: SendPage) -> None:
        self.connection = connection
        self.conversation_id = conversation_id
        self.cursor = cursor
        self._send_page = send_page
        self.follows: Subscription | None = None
        self.is_live = False
        self.is_removed = False
        self.is_waiting = False
        self.mask = connection.features.mask
        self.member_rev = 0
        self.origin = _NO_REVS
        self.left_revs = _NO_REVS
        self.target = cursor

    def deliver(self, frame: Encoded, *, ephemeral: bool = False) -> None:
        """Delivers a frame of the conversation; see `Connection.deliver`."""
        if not self.is_removed:  # it may have been while a large audience was sent the frame in turns
            self.connection.deliver(frame, self, ephemeral=ephemeral)

    def deliver_change(self, rev: int, frame: Encoded) -> None:
        """Delivers a change of the conversation, unless the client has it.

        While the subscription catches up, its client gets the change from the store.
        """
        if not self.is_live:
            self.raise_target(rev)
        elif rev > self.cursor:
            prev_rev, self.cursor = self.cursor, rev
            self.connection.deliver(frame, self, prev_rev=prev_rev)

    def deliver_merged(self, first_rev: int, rev: int, frame: Encoded) -> None:
        """Delivers one frame for several changes; a client that has some of them gets the others from the store.

        A client may be ahead of the room: it has loaded what was committed with a lost answer.
        """
        if self.is_live and first_rev <= self.cursor < rev:
            self.is_live = False
            self.target = rev
            self.catch_up_later()
        else:
            self.deliver_change(rev, frame)

    def deliver_changes(self, revs: Sequence[int], frames: Sequence[Encoded], wire: bytes) -> None:
        """Delivers changes in order; `wire` is all of them, to be written in one call."""
        if self.is_live and self.cursor < revs[0] and self.connection.deliver_joined(wire, self):
            self.cursor = revs[-1]
        else:
            for rev, frame in zip(revs, frames, strict=True):
                self.deliver_change(rev, frame)

    def deliver_again(self, rev: int, frame: Encoded) -> None:
        """Acknowledges a resend by delivering the stored message; while catching up it comes from the store."""
        if self.follows is not None:  # it is not known yet where its client stands
            self.connection.run_later(partial(self._deliver_again, rev, frame))
        elif self.is_live or rev <= self.cursor:
            self.connection.metrics.frames_out[frame.kind] += 1
            self.connection.deliver(frame, self)

    async def _deliver_again(self, rev: int, frame: Encoded) -> None:
        self.deliver_again(rev, frame)
        await trio.lowlevel.checkpoint()

    def note_dropped(self, prev_rev: int) -> None:
        """Sets the cursor back: what follows `prev_rev` waited in the outbox, and is not sent."""
        self.cursor = min(self.cursor, prev_rev)

    def wait_for(self, rev: int) -> None:
        """Waits until the room has delivered what follows `target`, up to this rev; then catches up further."""
        if self.target >= rev:  # delivered while the frames before it were being sent
            self.catch_up_later()
        else:
            self.is_waiting = True

    def raise_target(self, rev: int) -> None:
        """Lets the client get the changes up to a rev from the store; the room has delivered that rev."""
        self.target = max(self.target, rev)
        if self.is_waiting:
            self.is_waiting = False
            self.catch_up_later()

    def start(self) -> None:
        """Starts delivery: the changes up to `target` from the store, then live."""
        self.origin = self.left_revs = _NO_REVS
        self.is_live = self.cursor >= self.target and self.follows is None
        if not self.is_live:
            self.catch_up_later()

    def catch_up_later(self) -> None:
        """Sends the next page of missed changes when everything in the outbox is sent."""
        self.connection.run_later(self._catch_up)

    def go_on(self, ended: "Subscription") -> None:
        """Begins, before `start`, where one ended whose client does not know of the end; at the rev it has at most."""
        self.cursor = min(self.cursor, ended.cursor_with(self.mask))
        self.follows = ended

    async def _catch_up(self) -> None:
        if self.follows is not None:  # all that waited of it has been dropped by now
            self.cursor = min(self.cursor, self.follows.cursor)
            self.follows = None
        if not self.is_removed:
            await self._send_page(self)

    def cursor_with(self, mask: int) -> int:
        """Returns the rev of the last change that the client has, if it asks for these kinds; before it starts."""
        if mask == self.mask or self.cursor < highest_rev(self.origin, self.mask):  # else its client resumes before it
            return self.cursor
        return highest_rev(self.origin, mask)

    def renewed(self) -> "Subscription":
        """Returns a subscription in place of this one, for a connection with other features; only before it starts.

        What waits in the outbox was made for the features of before, and is not sent.
        """
        self.is_removed = True
        renewed = Subscription(self.connection, self.conversation_id, self.cursor, self._send_page)
        renewed.origin = self.origin
        renewed.cursor = self.cursor_with(renewed.mask)
        renewed.target = max(self.target, renewed.cursor, highest_rev(self.left_revs, renewed.mask))
        renewed.member_rev = self.member_rev
        return renewed

    def room_ended(self, last_revs: Mapping[int, int]) -> None:
        """Notes what the room has delivered that ends; the next one may begin after changes of other features."""
        if self.origin:
            self.left_revs = dict(last_revs)

    def refuse(self, error: PulseError, client_id: str | None = None) -> None:
        """Sends an `error` frame about something in this conversation."""
        self.connection.refuse(error, client_id, self.conversation_id)

    def remove(self) -> None:
        """Stops delivery of this conversation; the connection stays open."""
        self.is_removed = True
        self.is_live = False  # what is being delivered in turns does not reach it any more
        self.connection.cut_off(self)
