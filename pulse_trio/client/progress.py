"""The position of a room in its conversation's changes: where it resumes, how far the head is, what is missing."""

from typing import Final
from urllib.parse import quote

from msgspec import UNSET

from pulse_trio.client.frame_codec import ChangeFrame
from pulse_trio.client.records import Conversation
from pulse_trio.protocol import SystemFrame

FEATURES: Final = "members,conversation"
"""Names the kinds of changes that the client asks for; a server that knows no features ignores it."""


class Progress:
    """The position of a room in its conversation's changes, of all kinds that the server sends.

    Attributes:
        cursor: the highest rev received in order; None until known.
        epoch: the epoch of `cursor`.
        head_rev, head_seq, head_epoch: the newest state of the conversation that is known.
        is_caught_up: True once all that was missed before this connection has been received.
        gaps: number of changes that a connection left out.
        unfilled_gaps: those in a row for which a new connection brought nothing; a later edit may have replaced it.
    """

    def __init__(self, conversation: Conversation, after: int | None, epoch: str | None) -> None:
        self.cursor = after
        self.epoch = epoch
        self.head_seq = conversation.last_seq
        self.head_rev = conversation.last_rev
        self.head_epoch = conversation.epoch
        self.is_caught_up = False
        self.gaps = 0
        self.unfilled_gaps = 0
        self._target_rev = 0  # a connection has caught up when it reaches this rev
        self._gap: int | None = None  # the rev before which a change is missing, until a reconnection

    def query(self, *, resumes: bool) -> str:
        """Returns the query of a handshake; without `resumes` the connection starts at the present."""
        text = f"features={FEATURES}"
        if resumes and self.cursor is not None:
            text += f"&after={self.cursor}"
            if self.epoch:
                text += f"&epoch={quote(self.epoch, safe='')}"
        return text

    def begin(self, frame: SystemFrame) -> None:
        """Applies the first frame of a connection."""
        self.head_rev, self.head_seq, self.head_epoch = frame.last_rev, frame.last_seq, frame.epoch
        self._target_rev = frame.last_rev
        if self.cursor is None:
            self.cursor = frame.last_rev
            self.epoch = frame.epoch
        elif self.epoch is None:
            self.epoch = frame.epoch
        self.is_caught_up = self.cursor >= frame.last_rev

    def see(self, rev: int, seq: int) -> None:
        """Notes that the conversation goes at least this far."""
        self.head_rev = max(self.head_rev, rev)
        self.head_seq = max(self.head_seq, seq)

    def has(self, rev: int) -> bool:
        """Returns True if this change was received before."""
        return self.cursor is not None and rev <= self.cursor

    def is_gap(self, frame: ChangeFrame) -> bool:
        """Returns True if a change before this one is missing and no new connection has looked for it yet.

        Only a server that sends `prev_rev` tells; the changes of others may skip revs for other reasons.
        """
        assert self.cursor is not None
        if self._gap is not None:
            self.unfilled_gaps = 0 if frame.rev < self._gap else self.unfilled_gaps + 1
            self._gap = None
        elif frame.prev_rev is not UNSET and frame.prev_rev > self.cursor:
            self._gap = frame.rev
            self.gaps += 1
            return True
        return False

    def advance(self, rev: int, seq: int = 0) -> None:
        """Moves to a change that was received; `seq`: of its message, if it is one."""
        self.cursor = rev
        self.is_caught_up = self.is_caught_up or rev >= self._target_rev
        self.see(rev, seq)

    def reset(self) -> None:
        """Starts at the present of a history that cannot be resumed."""
        self.cursor = self.epoch = self._gap = None
