"""A subscription: a connection's place in one conversation, and how far its client has seen it."""

from collections.abc import Sequence
from uuid import UUID

from pulse_trio.errors import PulseError
from pulse_trio.protocol import Encoded, encode, error_frame
from pulse_trio.rooms.connection import Connection


class Subscription:
    """A connection's place in a conversation; the connection's member task serves it.

    A session's connection has one in each conversation where something has happened since it came; a
    conversation's own connection has this one alone, and keeps the room open.

    Args:
        connection: the connection.
        conversation_id: the conversation.
        cursor: the last change that the client has seen.
        of_session: whether the connection is a session's.
    """

    __slots__ = ("connection", "conversation_id", "cursor", "is_live", "is_removed", "of_session", "target")

    def __init__(self, connection: Connection, conversation_id: UUID, cursor: int, *, of_session: bool = False) -> None:
        self.connection = connection
        self.conversation_id = conversation_id
        self.cursor = cursor
        self.of_session = of_session
        self.is_live = False
        self.is_removed = False
        self.target = cursor  # the last change that is due to the client

    def deliver(self, frame: Encoded, *, ephemeral: bool = False) -> None:
        """Puts a frame of the conversation into the connection's outbox."""
        self.connection.deliver(frame, self, ephemeral=ephemeral)

    def deliver_change(self, rev: int, frame: Encoded) -> None:
        """Puts a change of the conversation into the outbox, if the client is due for it.

        One that still catches up gets it from the store, and one that has caught up may have got it there.
        """
        if not self.is_live:
            self.target = max(self.target, rev)
        elif rev > self.cursor:
            self.cursor = rev
            self.connection.deliver(frame, self)

    def deliver_changes(self, revs: Sequence[int], frames: Sequence[Encoded], wire: bytes) -> None:
        """As `deliver_change` for each, in order; `wire` is all of them."""
        if self.is_live and self.cursor < revs[0]:
            self.cursor = revs[-1]
            self.connection.deliver_joined(frames, wire, self)
        else:
            for rev, frame in zip(revs, frames, strict=True):
                self.deliver_change(rev, frame)

    def deliver_again(self, rev: int, frame: Encoded) -> None:
        """Answers a resend, to who resent it; one that still catches up gets it in its turn."""
        if self.is_live or rev <= self.cursor:
            self.connection.metrics.frames_out[frame.kind] += 1
            self.connection.deliver(frame, self)

    def start(self) -> None:
        """Lets changes flow: those up to `target` from the store, then live."""
        self.is_live = self.cursor >= self.target
        if not self.is_live:
            self.connection.catch_up_later(self)

    def refuse(self, error: PulseError, client_id: str | None = None) -> None:
        """Tells the client that something it asked for was not done."""
        self.connection.metrics.errors[error.code.code] += 1
        key = self.conversation_id if self.of_session else None
        self.connection.deliver(encode(error_frame(error, client_id, key)))

    def remove(self) -> None:
        """Nothing of the conversation is delivered to this connection any more; it goes on without."""
        self.is_removed = True
        self.connection.cut_off(self)
