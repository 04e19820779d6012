"""A connection: one WebSocket with its bounded outbox and the task that sends from it.

Nearly always the network takes a frame at once, so most connections are idle: the outbox, a bounded memory channel, and
the task exist only while something waits to be sent, or the connection is being closed. That is a third of the memory
of a connection.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import Final, Protocol, TypeAlias
from uuid import UUID

import structlog
import trio

from pulse_trio.errors import PulseError
from pulse_trio.metrics import GONE, Metrics
from pulse_trio.model import NO_FEATURES, Features, User
from pulse_trio.protocol import CloseCode, Encoded, encode, error_frame
from pulse_trio.settings import Settings

# The outbox is bounded by bytes; this bounds the memory of the channel itself. A typing frame, the
# smallest, has about 150 bytes, so the default of 1 MiB is reached first.
MAX_OUTBOX_ITEMS: Final = 8_192
# Bytes of frames that are written in one call. Each connection may hold that many that the network did not take.
MAX_JOINED_BYTES: Final = 65_536
CLOSE_TIMEOUT: Final = 2.0  # seconds for a close frame to leave; then the connection is cut


class Owner(Protocol):
    """A part of a connection's traffic that can end before the connection does: its frames are then dropped.

    A session's connection, for example, has an owner for each conversation. The user is removed from one: the frames
    of that one which wait in the outbox are not sent, all others are.
    """

    @property
    def is_removed(self) -> bool:
        """True when nothing more of it may reach the client."""

    def note_dropped(self, prev_rev: int) -> None:
        """Notes that a change which waited in the outbox is not sent: the client has those up to `prev_rev`."""


_OwnedFrame: TypeAlias = tuple[Encoded, Owner | None, int | None]
"""A frame in the outbox, with its owner if it has one, and the rev that its client has before it if it is a change."""
_Job: TypeAlias = Callable[[], Awaitable[None]]
"""Work in the outbox, done by the connection's task when all frames before it are sent."""

log = structlog.get_logger(__name__)


def pieces(frames: Sequence[Encoded]) -> list[list[Encoded]]:
    """Splits frames, in order, into pieces of at most `MAX_JOINED_BYTES`; a larger frame is a piece of its own."""
    found: list[list[Encoded]] = []
    free = 0
    for frame in frames:
        if not found or len(frame.wire) > free:
            found.append([])
            free = MAX_JOINED_BYTES
        free -= len(frame.wire)
        found[-1].append(frame)
    return found


def split(encoded: Sequence[tuple[int, Encoded]]) -> list[tuple[list[int], list[Encoded]]]:
    """Splits frames as `pieces`; returns the revs and the frames of each piece."""
    revs = iter([rev for rev, _ in encoded])
    return [([next(revs) for _ in piece], piece) for piece in pieces([frame for _, frame in encoded])]


def encode_refusal(
    metrics: Metrics, error: PulseError, client_id: str | None = None, conversation_id: UUID | None = None
) -> Encoded:
    """Encodes the `error` frame of a refusal, and counts it in the metrics."""
    metrics.errors[error.code.code] += 1
    return encode(error_frame(error, client_id, conversation_id))


NOT_TAKEN: Final = -1
"""Returned by `Transport.write_nowait` when the caller must use `send`."""


class Permit(Protocol):
    """The permit that a connection needs in order to deliver; see `lease.Lease`."""

    def is_valid(self) -> bool:
        """Returns whether frames may be delivered now."""

    async def wait_valid(self) -> None:
        """Returns when they may."""


class Transport(Protocol):
    """A WebSocket as a connection uses it; the edge provides two implementations (edge/server/transport.py)."""

    def write_nowait(self, data: bytes) -> int:
        """Writes whole WebSocket frames if that is possible without waiting.

        Returns:
            The bytes that the network has not taken: they are kept, and if there are any `flush` must follow.
            NOT_TAKEN: nothing was written, use `send`.
        """

    async def flush(self) -> None:
        """Writes what `write_nowait` kept. A dead connection is no error."""

    def abandon(self) -> None:
        """Drops frames that the network has not taken; if there were any, the connection ends with no close frame."""

    async def send(self, frames: Sequence[Encoded]) -> None:
        """Sends frames, after what was kept. A dead connection is no error."""

    async def close(self, code: int, reason: str) -> None:
        """Sends a close frame."""


class Connection:
    """A user's WebSocket; all methods but `send_now` return at once.

    Its life: made; begun, when it has a nursery for its task; ended, when it was closed or the client has left. A frame
    that cannot be written at once goes into the outbox and starts the task, which sends until nothing waits and ends.
    The owner of the nursery closes it before the nursery ends, as an idle connection has no task that could notice.

    Args:
        user: the user.
        transport: the WebSocket.
        outbox_bytes: bytes that may wait in the outbox. From half of it on ephemeral frames are dropped,
            beyond it the connection is closed with `CloseCode.TOO_SLOW`.
        pending_messages: messages of this connection that may wait for the store.
        on_ended: called once when it has ended after `begin`, to stop the task that reads from the WebSocket.
        metrics: counts its frames and its end.
        features: the kinds of changes that its client asked for.
        is_session: it carries all of its user's conversations: `greeting` is sent first, and everything else waits in
            the outbox until `release`.
        permit: asked next to each write of frames; what may not be written waits in the outbox. None: always.

    Attributes:
        features: may be replaced until `release`.
        greeting: the first frame of a session; must be set before `begin`.
        first_frame: sent before what waits in the outbox when `release` is called; the answer to a `resume`.
    """

    __slots__ = (
        "_capacity",
        "_close",
        "_context",
        "_flushing",
        "_is_open",
        "_nursery",
        "_on_ended",
        "_outbox",
        "_outbox_bytes",
        "_pending",
        "_pending_messages",
        "_permit",
        "_queued_bytes",
        "_released",
        "_scope",
        "_sending",
        "_source",
        "_write_nowait",
        "dropped_frames",
        "features",
        "first_frame",
        "greeting",
        "is_session",
        "metrics",
        "transport",
        "user",
    )

    def __init__(
        self,
        user: User,
        transport: Transport,
        *,
        outbox_bytes: int,
        pending_messages: int,
        on_ended: Callable[[], object],
        metrics: Metrics | None = None,
        features: Features = NO_FEATURES,
        is_session: bool = False,
        permit: Permit | None = None,
    ) -> None:
        self.user = user
        self.metrics = Metrics() if metrics is None else metrics
        self.features = features
        self.is_session = is_session
        self.greeting: Encoded | None = None
        self.first_frame: Encoded | None = None
        self._released = trio.Event() if is_session else None
        self.transport = transport
        self._permit = permit
        # Bound once: it is called for every frame of every connection.
        self._write_nowait = transport.write_nowait if permit is None else self._write_permitted
        self._capacity: trio.Semaphore | None = None  # made at its first use
        self._pending_messages = pending_messages
        self.dropped_frames = 0
        # Made when something has to wait; bounded by `MAX_OUTBOX_ITEMS`.
        self._outbox: trio.MemorySendChannel[_OwnedFrame | _Job] | None = None
        self._source: trio.MemoryReceiveChannel[_OwnedFrame | _Job] | None = None
        self._outbox_bytes = outbox_bytes
        self._queued_bytes = 0
        self._flushing = 0  # bytes that the transport has taken and not flushed
        # Items in the outbox or at the task, and the greeting. While there is any, no frame may overtake it.
        self._pending = 1 if is_session else 0
        self._sending: list[Owner] = []  # of the frames that the transport is sending
        self._is_open = True
        self._nursery: trio.Nursery | None = None  # from `begin` until the connection ends
        self._context: Context | None = None  # that of `begin`: log lines of the task carry this connection's ids
        self._scope: trio.CancelScope | None = None  # of the task, while it runs
        self._close: tuple[CloseCode, str] | None = None
        self._on_ended = on_ended

    @property
    def capacity(self) -> trio.Semaphore:
        """Bounds the messages of this connection that wait for the store."""
        if self._capacity is None:
            self._capacity = trio.Semaphore(self._pending_messages, max_value=self._pending_messages)
        return self._capacity

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait in the outbox."""
        return self._queued_bytes

    @property
    def close_code(self) -> CloseCode | None:
        """The code with which the server closes this connection; None while it does not."""
        return None if self._close is None else self._close[0]

    @property
    def is_open(self) -> bool:
        """True until `close` or `leave` is called."""
        return self._is_open

    def deliver(
        self,
        frame: Encoded,
        owner: Owner | None = None,
        *,
        ephemeral: bool = False,
        prev_rev: int | None = None,
    ) -> None:
        """Sends a frame at once, or puts it into the outbox; drops it after `close`.

        Args:
            frame: the frame.
            owner: the conversation's subscription, for a frame of one conversation. Its room counts the frame.
            ephemeral: drop the frame if the client reads slowly (typing, presence).
            prev_rev: for a change in the order of its conversation, the rev that the client has before it.
        """
        if not self._is_open:
            return
        if owner is None:
            self.metrics.frames_out[frame.kind] += 1
        if not self._pending:
            left = self._write_nowait(frame.wire)
            if left == 0:
                return
            if left > 0:
                self._flush_later(frame.size, owner)
                return
        if ephemeral and self._queued_bytes > self._outbox_bytes // 2:
            self.dropped_frames += 1
            self.metrics.dropped_frames += 1
            return
        # One frame may be larger than the outbox, or a long list of users would close every connection.
        if self._queued_bytes and self._queued_bytes + frame.size > self._outbox_bytes:
            self._close_slow()
        elif self._put((frame, owner, prev_rev)):
            self._queued_bytes += frame.size

    def deliver_joined(self, wire: bytes, owner: Owner) -> bool:
        """Sends frames of one owner in one call; returns False, and does nothing, if that is not possible at once."""
        if not self._is_open or self._pending or (left := self._write_nowait(wire)) < 0:
            return False
        if left:
            self._flush_later(len(wire), owner)
        return True

    def refuse(self, error: PulseError, client_id: str | None = None, conversation_id: UUID | None = None) -> None:
        """Sends an `error` frame, and counts it.

        Args:
            error: the reason.
            client_id: of the refused frame, if it had one.
            conversation_id: of the refused frame; only a session's client is sent it, any other has but one.
        """
        about = conversation_id if self.is_session else None
        self.deliver(encode_refusal(self.metrics, error, client_id, about))

    def run_later(self, job: Callable[[], Awaitable[None]]) -> None:
        """Puts a job into the outbox: the connection's task runs it when everything before it is sent."""
        if self._is_open:
            self._put(job)

    def release(self) -> None:
        """Sends what waits in the outbox of a session's connection; from then on frames are sent at once."""
        if self._released is not None:
            self._released.set()

    def _flush_later(self, size: int, owner: Owner | None) -> None:
        """Lets the task write the bytes that the transport took and the network did not."""
        if owner is not None:
            self._sending.append(owner)
        self._queued_bytes += size
        self._flushing = size
        self._put(self._flush)

    def _write_permitted(self, data: bytes) -> int:
        assert self._permit is not None
        return self.transport.write_nowait(data) if self._permit.is_valid() else NOT_TAKEN

    async def _wait_permit(self) -> None:
        if self._permit is not None:
            await self._permit.wait_valid()

    async def _flush(self) -> None:
        await self._wait_permit()
        await self.transport.flush()
        self._queued_bytes -= self._flushing
        self._flushing = 0

    async def send_now(self, frames: Sequence[Encoded], owner: Owner | None = None) -> None:
        """Sends frames past the outbox; only for a job that `run_later` runs."""
        self.metrics.catch_up_frames += len(frames)
        if owner is not None:
            self._sending.append(owner)
        await self._wait_permit()
        if owner is not None and owner.is_removed:
            self._sending.clear()
            return
        if self._write_nowait(b"".join(frame.wire for frame in frames)) >= 0:
            await self.transport.flush()
        else:
            await self.transport.send(frames)
        self._sending.clear()

    def cut_off(self, owner: Owner) -> None:
        """Closes the connection if a frame of a removed owner is being sent and its client does not read it."""
        if owner in self._sending:
            self._close_slow()
            self.transport.abandon()

    def cut_unfinished(self) -> None:
        """Closes the connection if frames of a conversation are being sent and its client does not read them."""
        if self._sending:
            self._close_slow()
            self.transport.abandon()

    def begin(self, nursery: trio.Nursery) -> None:
        """Begins to send; the task runs in `nursery`, whose owner must `close` this before it cancels or ends it."""
        self._nursery = nursery
        self._context = copy_context()
        self.metrics.connections[self] = None
        if not self._is_open and self._close is None:
            self._end()
        elif self._pending or self._close is not None:
            self._wake()

    def close(self, code: CloseCode, reason: str) -> None:
        """Closes the connection: only the close frame is still sent, nothing that waits in the outbox."""
        if self._close is None and (self._is_open or self._scope is not None):
            self._close = (code, reason)
            self._is_open = False
            if code == CloseCode.REMOVED or not (self._permit is None or self._permit.is_valid()):
                self.transport.abandon()  # the user may have been removed meanwhile
            self._wake()

    def abandon(self, code: CloseCode, reason: str) -> None:
        """Closes the connection, and drops what the network has not taken."""
        self.transport.abandon()
        self.close(code, reason)

    def leave(self) -> None:
        """Ends the connection without a close frame, because the client has gone."""
        if self._close is None and self._is_open:
            self._is_open = False
            if self._scope is not None:
                self._scope.cancel()
            elif self._nursery is not None:
                self._end()

    def _wake(self) -> None:
        """Makes the task act on what has changed: starts it if there is none."""
        if self._scope is not None:
            if not self._is_open:
                self._scope.cancel()
        elif self._nursery is not None and self._context is not None:
            self._scope = trio.CancelScope()
            name = f"{'session' if self.is_session else 'member'} {self.user.id}"
            self._context.run(partial(self._nursery.start_soon, self._run, self._scope, name=name))

    def _end(self) -> None:
        """Counts the end, and stops the task that reads."""
        self._count_end()
        self._on_ended()

    def _count_end(self) -> None:
        self._nursery = self._context = None
        del self.metrics.connections[self]
        self.metrics.closes[GONE if self._close is None else self._close[0]] += 1

    async def _run(self, scope: trio.CancelScope) -> None:
        """Sends from the outbox until it is empty, or `leave` or `close` is called.

        A fault of the connection ends only this connection.

        Cancelled: closes the connection with `CloseCode.INTERNAL_ERROR`, within `CLOSE_TIMEOUT` seconds.
        An orderly stop closes the connections before it cancels.
        """
        try:
            with scope:
                await self._greet()
                await self._send_waiting()
        except trio.Cancelled:
            self.close(CloseCode.INTERNAL_ERROR, "the server failed; reconnect")
            raise
        except Exception:
            log.exception("a connection failed", user_id=str(self.user.id))
            self.close(CloseCode.INTERNAL_ERROR, "the connection failed; reconnect")
        finally:
            if self._is_open:  # idle; nothing can have come since the outbox was found empty
                self._scope = self._outbox = self._source = None
            else:
                self._count_end()
                try:
                    if self._close is not None:
                        await self._send_close(*self._close)  # noqa: ASYNC102  # shields itself, with a deadline
                finally:
                    self._scope = None
                    self._on_ended()

    async def _send_waiting(self) -> None:
        """Sends what is in the outbox until it is empty."""
        held: _OwnedFrame | _Job | None = None
        while self._is_open and self._source is not None:
            try:
                item = self._source.receive_nowait() if held is None else held
            except trio.WouldBlock:
                return
            held, taken = None, 1
            if isinstance(item, tuple):
                await self._wait_permit()
                frames, taken, held = self._join_frames(self._source, item)
                if frames:
                    await self.transport.send(frames)
            else:
                await item()
            self._sending.clear()
            self._pending -= taken

    async def _greet(self) -> None:
        """Sends the greeting of a session's connection, and waits for `release`."""
        if self.greeting is None or self._released is None or not self._is_open:
            return
        await self._send_alone(self.greeting)
        await self._released.wait()
        if self.first_frame is not None:
            await self._send_alone(self.first_frame)
        self.greeting = self.first_frame = self._released = None
        self._pending -= 1

    async def _send_alone(self, frame: Encoded) -> None:
        self.metrics.frames_out[frame.kind] += 1
        if self._write_nowait(frame.wire) >= 0:
            await self.transport.flush()
        else:
            await self.transport.send([frame])

    def _join_frames(
        self, source: trio.MemoryReceiveChannel[_OwnedFrame | _Job], first: _OwnedFrame
    ) -> tuple[list[Encoded], int, _OwnedFrame | _Job | None]:
        """Takes frames from the outbox to be sent in one call.

        Returns the frames, the number of items taken, and the item that must come after them.
        """
        frames: list[Encoded] = []
        size = taken = 0
        item: _OwnedFrame | _Job = first
        while True:
            if not isinstance(item, tuple) or size > MAX_JOINED_BYTES:
                return frames, taken, item
            frame, owner, prev_rev = item
            taken += 1
            self._queued_bytes -= frame.size
            if owner is None or not owner.is_removed:
                frames.append(frame)
                size += frame.size
                if owner is not None:
                    self._sending.append(owner)
            elif prev_rev is not None:
                owner.note_dropped(prev_rev)
            try:
                item = source.receive_nowait()
            except trio.WouldBlock:
                return frames, taken, None

    def _put(self, item: _OwnedFrame | _Job) -> bool:
        """Puts an item into the outbox; returns False if it is full."""
        if self._outbox is None:
            self._outbox, self._source = trio.open_memory_channel[_OwnedFrame | _Job](MAX_OUTBOX_ITEMS)
        try:
            self._outbox.send_nowait(item)
        except trio.WouldBlock:
            self._close_slow()
            return False
        self._pending += 1
        if self._scope is None:
            self._wake()
        return True

    def _close_slow(self) -> None:
        self.close(CloseCode.TOO_SLOW, "reading too slowly; reconnect and load what you missed")

    async def _send_close(self, code: CloseCode, reason: str) -> None:
        try:
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await self.transport.close(code, reason)
        except Exception:
            log.exception("close frame not sent", user_id=str(self.user.id))


def open_connection(
    user: User,
    transport: Transport,
    settings: Settings,
    on_ended: Callable[[], object],
    metrics: Metrics,
    *,
    features: Features = NO_FEATURES,
    is_session: bool = False,
    permit: Permit | None = None,
) -> Connection:
    """Makes a connection with the bounds from the settings."""
    return Connection(
        user,
        transport,
        outbox_bytes=settings.outbox_bytes,
        pending_messages=settings.pending_messages,
        on_ended=on_ended,
        metrics=metrics,
        features=features,
        is_session=is_session,
        permit=permit,
    )
