"""What is to be sent, kept until it is answered. No I/O: `Room` asks what is next."""

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

RESEND_AFTER: Final = 30.0  # seconds without an answer on a live connection; the server gives up in 10
RATE_PAUSE: Final = 1.5  # seconds: within one second of `rate_limited` further refusals are not told one by one
SLOW_FOR: Final = 60.0  # seconds after a flood in which there is a pause after each frame
SLOW_PAUSE: Final = 0.05  # seconds: 20 frames a second, a fifth of what a connection may send
TYPING_EVERY: Final = 2.0  # seconds between two frames that say that one is typing
STORE_ATTEMPTS: Final = 3  # refusals `not_stored` before the sender is told; each took the server seconds


@dataclass(slots=True, eq=False)
class Pending:
    """A message without an answer.

    Attributes:
        connection: the number of the connection that it was last sent on; 0: it is to be sent.
    """

    client_id: str
    content: str
    connection: int = 0
    sent_at: float = 0.0
    not_before: float = 0.0
    refusals: int = 0
    outcome: Message | ClientError | None = None
    settled: trio.Event = field(default_factory=trio.Event)

    def settle(self, outcome: Message | ClientError) -> None:
        self.outcome = outcome
        self.settled.set()


class Outgoing:
    """Messages, in the order they were given; of the rest only the latest: its size is bounded by the messages'."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._pending: dict[str, Pending] = {}
        self._typing = False
        self._next_typing = 0.0
        self._read_seq = 0
        self._told_seq = 0
        self._read_refusals = 0
        self._read_not_before = 0.0
        self._hold_until = 0.0
        self._slow_until = 0.0
        self._connection = 0

    @property
    def has_unanswered(self) -> bool:
        """Whether somebody waits for the answer to a message."""
        return bool(self._pending)

    def add(self, client_id: str, content: str) -> Pending:
        """A message to send.

        Raises:
            ValueError: one with this client_id is under way.
        """
        if client_id in self._pending:
            raise ValueError("a message with this client_id is under way")
        pending = self._pending[client_id] = Pending(client_id, content)
        return pending

    def forget(self, pending: Pending) -> None:
        """Nobody waits for it any more; if it was sent, it may be stored."""
        if self._pending.get(pending.client_id) is pending:
            del self._pending[pending.client_id]

    def type(self) -> None:
        """The user is typing. Nothing that is told later is of use: away, it is dropped."""
        self._typing = True

    def read(self, seq: int) -> None:
        """The user has read up to there; lower than before changes nothing."""
        self._read_seq = max(self._read_seq, seq)

    def forget_read(self) -> None:
        """What was read is of a history that is lost: the seqs begin again, lower."""
        self._read_seq = self._told_seq = 0

    def connected(self, number: int) -> None:
        """There is a new connection; what has no answer is due again."""
        self._connection = number
        self._typing = False
        self._told_seq = self._read_refusals = 0
        self._read_not_before = 0.0

    def slow_down(self) -> None:
        """The server was sent too much."""
        self._slow_until = trio.current_time() + SLOW_FOR

    def next_frame(self, *, with_messages: bool) -> str | None:
        """What to send now, or None. It counts as sent."""
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
        if self._read_seq > self._told_seq and now >= self._read_not_before:
            self._told_seq = self._read_seq
            return frame_codec.encode("read", seq=self._read_seq)
        return None

    def _is_due(self, pending: Pending, now: float) -> bool:
        if pending.connection == self._connection:
            return now >= pending.sent_at + RESEND_AFTER
        return now >= pending.not_before

    def next_time(self) -> float:
        """When there may be something to send, if nothing is added before; seconds of Trio's clock."""
        now = trio.current_time()
        times = [p.sent_at + RESEND_AFTER for p in self._pending.values() if p.connection == self._connection]
        times += [p.not_before for p in self._pending.values() if p.not_before > now]
        if self._typing:
            times.append(self._next_typing)
        if self._read_seq > self._told_seq:
            times.append(self._read_not_before)
        if self._hold_until > now:
            times.append(self._hold_until)
        return min((time for time in times if time > now), default=float("inf"))

    def acknowledge(self, message: Message) -> None:
        """A message of this user's has come back."""
        pending = self._pending.pop(message.client_id or "", None)
        if pending is not None:
            pending.settle(message)

    def refuse(self, code: str, text: str, field: str | None, client_id: str | None) -> bool:
        """The server refused a frame. Whether somebody was told, or it is sent again."""
        if code == ErrorCode.RATE_LIMITED.code:
            # Not every refusal is told: whatever has no answer may be among them.
            self._hold_until = trio.current_time() + RATE_PAUSE
            self.slow_down()
            for pending in self._pending.values():
                pending.connection = 0
            self._told_seq = 0
            return True
        if code == ErrorCode.NOT_STORED.code and field == "seq":
            self._read_refusals += 1
            self._read_not_before = trio.current_time() + self._backoff.delay(self._read_refusals)
            self._told_seq = 0
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
            refused.settle(NotStored(refused.client_id))
        elif code == ErrorCode.NOT_A_MEMBER.code:
            refused.settle(NotAMember(text))
        else:
            refused.settle(Refused(code, text, field=field))
        return True

    def drop_largest(self) -> None:
        """One of those that were sent was too big for the server: without it the others can go on."""
        sent = [pending for pending in self._pending.values() if pending.connection == self._connection]
        if sent:
            largest = max(sent, key=lambda pending: len(pending.content.encode("utf-8", "replace")))
            del self._pending[largest.client_id]
            largest.settle(Refused("content_too_long", "the message is too large for the server", field="content"))

    def fail(self, error: ClientError) -> None:
        """There will be no answers."""
        for pending in self._pending.values():
            pending.settle(error)
        self._pending.clear()


def new_client_id() -> str:
    """For a message that the program has no name for."""
    return str(uuid4())


def check_client_id(client_id: str) -> None:
    """Raises ValueError for what can be none."""
    if not 1 <= len(client_id) <= MAX_CLIENT_ID_CHARS or text_problem(client_id) is not None:
        raise ValueError(f"a client_id has 1 to {MAX_CLIENT_ID_CHARS} characters, without NUL and lone surrogates")


def check_text(content: str) -> None:
    """Raises Refused for a text that no frame and no request can hold."""
    problem = text_problem(content)
    if problem is not None:
        raise Refused(ErrorCode.INVALID_TEXT.code, f"the text {problem}", field="content")
