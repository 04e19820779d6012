"""Keeps outgoing frames until they are acknowledged. No I/O: `Room` takes the next one from here."""

from copy import copy
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

import trio

from pulse_trio.client import frame_codec
from pulse_trio.client.backoff import Backoff
from pulse_trio.client.errors import ClientError, NotAMember, NotStored, Refused
from pulse_trio.client.records import Message
from pulse_trio.errors import ErrorCode
from pulse_trio.protocol.fields import MAX_CLIENT_ID_CHARS
from pulse_trio.texts import text_problem

RESEND_AFTER: Final = 30.0  # seconds without an acknowledgement on a live connection; the server gives up after 10
RATE_PAUSE: Final = 1.5  # seconds: for one second after `rate_limited` the server drops further frames without an error
SLOW_FOR: Final = 60.0  # seconds after `rate_limited` during which each frame is followed by a pause
SLOW_PAUSE: Final = 0.05  # seconds: 20 frames a second, a fifth of the default limit of a connection
TYPING_EVERY: Final = 2.0  # seconds between two `typing` frames
STORE_ATTEMPTS: Final = 3  # `not_stored` errors before `send` raises NotStored; each took the server seconds


@dataclass(slots=True, eq=False)
class Pending:
    """A message without an acknowledgement.

    Attributes:
        connection: number of the connection that it was last sent on; 0 if it must be sent.
        sent_at, not_before: seconds of Trio's clock.
    """

    client_id: str
    content: str
    connection: int = 0
    sent_at: float = 0.0
    not_before: float = 0.0
    refusals: int = 0
    outcome: Message | ClientError | None = None
    resolved: trio.Event = field(default_factory=trio.Event)

    def resolve(self, outcome: Message | ClientError) -> None:
        """Wakes the sender with the message or the error."""
        self.outcome = outcome
        self.resolved.set()


class Outgoing:
    """Pending messages in the order of `add`; of `typing` and read positions only the latest, so it stays small."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._pending: dict[str, Pending] = {}
        self._typing = False
        self._next_typing = 0.0
        self._read_seq = 0
        self._sent_seq = 0
        self._read_refusals = 0
        self._read_not_before = 0.0
        self._hold_until = 0.0
        self._slow_until = 0.0
        self._connection = 0

    @property
    def has_unanswered(self) -> bool:
        """True while a sender waits for an acknowledgement."""
        return bool(self._pending)

    def add(self, client_id: str, content: str) -> Pending:
        """Adds a message to send.

        Raises:
            ValueError: a message with this client_id is pending.
        """
        if client_id in self._pending:
            raise ValueError("a message with this client_id is pending")
        pending = self._pending[client_id] = Pending(client_id, content)
        return pending

    def forget(self, pending: Pending) -> None:
        """Removes a message whose sender no longer waits; if it was sent, it may be stored."""
        if self._pending.get(pending.client_id) is pending:
            del self._pending[pending.client_id]

    def type(self) -> None:
        """Requests a `typing` frame; dropped when the connection ends, since it would be stale."""
        self._typing = True

    def read(self, seq: int) -> None:
        """Moves the read position up to this seq; a lower one changes nothing."""
        self._read_seq = max(self._read_seq, seq)

    def forget_read(self) -> None:
        """Drops the read position after a reset: the seqs of the new history are lower."""
        self._read_seq = self._sent_seq = 0

    def connected(self, number: int) -> None:
        """Starts on a new connection: all pending frames are due again."""
        self._connection = number
        self._typing = False
        self._sent_seq = self._read_refusals = 0
        self._read_not_before = 0.0

    def slow_down(self) -> None:
        """Sends more slowly for `SLOW_FOR` seconds, after the server reported a flood."""
        self._slow_until = trio.current_time() + SLOW_FOR

    def next_frame(self, *, with_messages: bool) -> str | None:
        """Returns the frame to send now, which then counts as sent; None if there is none."""
        now = trio.current_time()
        if now < self._hold_until:
            return None
        text = self._next(now, with_messages=with_messages)
        if text is not None and now < self._slow_until:
            self._hold_until = now + SLOW_PAUSE
        return text

    def _next(self, now: float, *, with_messages: bool) -> str | None:
        if with_messages:
            for pending in self._pending.values():
                if self._is_due(pending, now):
                    pending.connection, pending.sent_at = self._connection, now
                    return frame_codec.encode("message", content=pending.content, client_id=pending.client_id)
        if self._typing and now >= self._next_typing:
            self._typing = False
            self._next_typing = now + TYPING_EVERY
            return frame_codec.encode("typing")
        if self._read_seq > self._sent_seq and now >= self._read_not_before:
            self._sent_seq = self._read_seq
            return frame_codec.encode("read", seq=self._read_seq)
        return None

    def _is_due(self, pending: Pending, now: float) -> bool:
        if pending.connection == self._connection:
            return now >= pending.sent_at + RESEND_AFTER
        return now >= pending.not_before

    def next_time(self) -> float:
        """Returns the time at which the next frame may be due if nothing is added; seconds of Trio's clock."""
        now = trio.current_time()
        times = [p.sent_at + RESEND_AFTER for p in self._pending.values() if p.connection == self._connection]
        times += [p.not_before for p in self._pending.values() if p.not_before > now]
        if self._typing:
            times.append(self._next_typing)
        if self._read_seq > self._sent_seq:
            times.append(self._read_not_before)
        if self._hold_until > now:
            times.append(self._hold_until)
        return min((time for time in times if time > now), default=float("inf"))

    def acknowledge(self, message: Message) -> None:
        """Resolves the pending message of this user that the server has sent back."""
        pending = self._pending.pop(message.client_id or "", None)
        if pending is not None:
            pending.resolve(message)

    def refuse(self, code: str, text: str, field: str | None, client_id: str | None) -> bool:
        """Handles an `error` frame; returns True if a sender gets the error or the frame will be resent."""
        if code == ErrorCode.RATE_LIMITED.code:
            # The server does not report every frame that it drops: any pending one may be among them.
            self._hold_until = trio.current_time() + RATE_PAUSE
            self.slow_down()
            for pending in self._pending.values():
                pending.connection = 0
            self._sent_seq = 0
            return True
        if code == ErrorCode.NOT_STORED.code and field == "seq":
            self._read_refusals += 1
            self._read_not_before = trio.current_time() + self._backoff.delay(self._read_refusals)
            self._sent_seq = 0
            return True
        refused = self._pending.get(client_id or "")
        if refused is None:
            return False
        if code == ErrorCode.NOT_STORED.code and refused.refusals + 1 < STORE_ATTEMPTS:
            refused.refusals += 1
            refused.connection = 0
            refused.not_before = trio.current_time() + self._backoff.delay(refused.refusals)
            return True
        del self._pending[refused.client_id]
        if code == ErrorCode.NOT_STORED.code:
            refused.resolve(NotStored(refused.client_id))
        elif code == ErrorCode.NOT_A_MEMBER.code:
            refused.resolve(NotAMember(text))
        else:
            refused.resolve(Refused(code, text, field=field))
        return True

    def drop_largest(self) -> None:
        """Fails the largest message sent on this connection, which the server closed for a message too big."""
        sent = [pending for pending in self._pending.values() if pending.connection == self._connection]
        if sent:
            largest = max(sent, key=lambda pending: len(pending.content.encode("utf-8", "replace")))
            del self._pending[largest.client_id]
            largest.resolve(Refused("content_too_long", "the message is too large for the server", field="content"))

    def fail(self, error: ClientError) -> None:
        """Fails all pending messages, each with an exception of its own."""
        for pending in self._pending.values():
            pending.resolve(copy(error))
        self._pending.clear()


def new_client_id() -> str:
    """Makes a client_id for a message that the program gave none."""
    return str(uuid4())


def check_client_id(client_id: str) -> None:
    """Raises ValueError if this cannot be a client_id, TypeError if it is no text."""
    if not isinstance(client_id, str):
        raise TypeError(f"a client_id is a str, not {type(client_id).__name__}")
    if not 1 <= len(client_id) <= MAX_CLIENT_ID_CHARS or text_problem(client_id) is not None:
        raise ValueError(f"a client_id has 1 to {MAX_CLIENT_ID_CHARS} characters, without NUL or lone surrogates")


def check_text(content: str) -> None:
    """Raises Refused if no frame and no request can carry this text, TypeError if it is no text."""
    if not isinstance(content, str):
        raise TypeError(f"the content of a message is a str, not {type(content).__name__}")
    problem = text_problem(content)
    if problem is not None:
        raise Refused(ErrorCode.INVALID_TEXT.code, f"the text {problem}", field="content")
