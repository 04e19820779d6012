"""A connection: one WebSocket with its bounded outbox and the task that sends what is in it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import structlog
import trio

from pulse_trio.metrics import GONE, Metrics
from pulse_trio.protocol import CloseCode, Encoded
from pulse_trio.settings import Settings
from pulse_trio.store.base import User

if TYPE_CHECKING:
    from pulse_trio.rooms.subscription import Subscription

# The outbox is bounded by bytes; this bounds the memory of the channel itself. A typing frame, the
# smallest, has about 150 bytes, so the default of 1 MiB is reached first.
OUTBOX_FRAMES: Final = 8_192
# Most bytes of frames that are written together: what is not written at once is kept for each connection.
JOINED_BYTES: Final = 65_536
CLOSE_TIMEOUT: Final = 2.0  # seconds for a close frame to leave; whoever does not read it is cut off


_Item: TypeAlias = "tuple[Encoded | None, Subscription | None]"
"""A frame, with the subscription that it is for if it is of one conversation. No frame: this subscription catches up
now; with no subscription, what the transport took is flushed."""

log = structlog.get_logger(__name__)


def pieces(frames: Sequence[Encoded]) -> list[list[Encoded]]:
    """Frames in their order, in pieces of at most `JOINED_BYTES` each; a frame that is larger is a piece of its own."""
    found: list[list[Encoded]] = []
    room = 0
    for frame in frames:
        if not found or len(frame.wire) > room:
            found.append([])
            room = JOINED_BYTES
        room -= len(frame.wire)
        found[-1].append(frame)
    return found


class Transport(Protocol):
    """What a connection needs of its WebSocket; the edge provides it."""

    def write_now(self, data: bytes) -> int:
        """Takes whole WebSocket frames at once if nothing else is on its way.

        Returns how many bytes are not out yet: if there are any `flush` must follow. Below zero: nothing was taken,
        and the frames must be sent.
        """

    async def flush(self) -> None:
        """Returns when what `write_now` took is on its way."""

    def abandon(self) -> None:
        """What `write_now` took and is not out yet must not reach the client; if it was any, nothing else does."""

    async def send(self, frames: Sequence[Encoded]) -> None:
        """Sends frames; returns when they are on their way. A dead connection is not an error."""

    async def close(self, code: int, reason: str) -> None:
        """Sends a close frame."""


class Connection:
    """A user's WebSocket. `run` is its task; the rest never blocks.

    Args:
        user: whose connection it is.
        transport: the WebSocket.
        outbox_bytes: how much may wait for it; from half of it on frames that may be missed are dropped,
            beyond it the connection is closed with `CloseCode.TOO_SLOW`.
        pending_messages: how many messages it may have waiting for the store.
        on_ended: called once when `run` has ended, so that whoever reads from the WebSocket can go.
        metrics: where its frames and its end are counted.
        greeting: makes it a session's connection, which carries all of its user's conversations: `run` sends this
            frame first, and everything else waits in the outbox until `release`.
    """

    __slots__ = (
        "_close",
        "_flushing",
        "_greeting",
        "_is_open",
        "_on_ended",
        "_outbox",
        "_outbox_bytes",
        "_pending",
        "_queued_bytes",
        "_released",
        "_scope",
        "_sending",
        "_source",
        "_write_now",
        "capacity",
        "dropped_frames",
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
        greeting: Encoded | None = None,
    ) -> None:
        self.user = user
        self.metrics = Metrics() if metrics is None else metrics
        self.is_session = greeting is not None
        self._greeting = greeting
        self._released = None if greeting is None else trio.Event()
        self.transport = transport
        self._write_now = transport.write_now  # bound here, once: it is called for every frame of every subscription
        self.capacity = trio.Semaphore(pending_messages, max_value=pending_messages)
        self.dropped_frames = 0
        self._outbox, self._source = trio.open_memory_channel[_Item](OUTBOX_FRAMES)
        self._outbox_bytes = outbox_bytes
        self._queued_bytes = 0
        self._flushing = 0  # bytes of what the transport has taken and not flushed
        # What is in the outbox, at the task, or holds the outbox back; while there is any, nothing may overtake it.
        self._pending = 0 if greeting is None else 1
        self._sending: list[Subscription] = []  # whose frames are on their way out of here
        self._is_open = True
        self._scope = trio.CancelScope()
        self._close: tuple[CloseCode, str] | None = None
        self._on_ended = on_ended

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait in the outbox."""
        return self._queued_bytes

    @property
    def close_code(self) -> CloseCode | None:
        """Why the server is closing this connection, if it is."""
        return None if self._close is None else self._close[0]

    @property
    def is_open(self) -> bool:
        """Whether it may still be sent to: neither `close` nor `leave` was called."""
        return self._is_open

    def deliver(self, frame: Encoded, subscription: "Subscription | None" = None, *, ephemeral: bool = False) -> None:
        """Puts a frame into the outbox; after `close` it is dropped.

        Args:
            frame: what to send.
            subscription: the one that it belongs to, if to one: it is dropped when that has been removed.
            ephemeral: it may be missed (typing, presence): dropped when the connection lags.
        """
        if not self._is_open:
            return
        if subscription is None:  # those of a conversation are counted by its room, once for all
            self.metrics.frames_out[frame.kind] += 1
        if not self._pending:
            left = self._write_now(frame.wire)
            if left == 0:
                return
            if left > 0:
                self._flush_later(frame.size, subscription)
                return
        if ephemeral and self._queued_bytes > self._outbox_bytes // 2:
            self.dropped_frames += 1
            self.metrics.dropped_frames += 1
            return
        # One frame may be larger than the outbox, or a long list of users would close everybody.
        if self._queued_bytes and self._queued_bytes + frame.size > self._outbox_bytes:
            self._close_slow()
        elif self._put(frame, subscription):
            self._queued_bytes += frame.size

    def deliver_joined(self, frames: Sequence[Encoded], wire: bytes, subscription: "Subscription") -> None:
        """As `deliver` for each; `wire` is all of them."""
        if self._is_open and not self._pending and (left := self._write_now(wire)) >= 0:
            if left:
                self._flush_later(len(wire), subscription)
            return
        for frame in frames:
            self.deliver(frame, subscription)

    def catch_up_later(self, subscription: "Subscription") -> None:
        """Lets a subscription read on what it missed, after whatever waits in the outbox now."""
        if self._is_open:
            self._put(None, subscription)

    def release(self) -> None:
        """Ends the hold of a session's connection: what waits in the outbox is sent, and then everything at once."""
        if self._released is not None:
            self._released.set()

    def _flush_later(self, size: int, subscription: "Subscription | None") -> None:
        """The task must write what the transport took and the network did not."""
        if subscription is not None:
            self._sending.append(subscription)
        self._queued_bytes += size
        self._flushing = size
        self._put(None, None)

    async def send_now(self, frames: Sequence[Encoded], subscription: "Subscription") -> None:
        """Sends frames past the outbox: for this connection's own task, while a subscription catches up."""
        self.metrics.catch_up_frames += len(frames)
        self._sending.append(subscription)
        if self._write_now(b"".join(frame.wire for frame in frames)) >= 0:
            await self.transport.flush()
        else:
            await self.transport.send(frames)
        self._sending.clear()

    def cut_off(self, subscription: "Subscription") -> None:
        """A removed subscription must not get the frame that is being sent to it, if its client does not take it."""
        if subscription in self._sending:
            self._close_slow()
            self.transport.abandon()

    def close(self, code: CloseCode, reason: str) -> None:
        """Closes the connection: nothing that still waits is sent, only the close frame."""
        if self._close is None:
            self._close = (code, reason)
            self._is_open = False
            if code == CloseCode.REMOVED:
                self.transport.abandon()
            self._scope.cancel()

    def leave(self) -> None:
        """Ends the connection's task without a close frame: the connection is gone already."""
        if self._close is None:
            self._is_open = False
            self._outbox.close()
            self._scope.cancel()

    async def run(self, catch_up: Callable[["Subscription"], Awaitable[None]]) -> None:
        """Sends what comes into the outbox until `leave` or `close`.

        Args:
            catch_up: sends a subscription the next of the changes that it missed.

        Cancelled: closes the connection with `CloseCode.INTERNAL_ERROR`, within `CLOSE_TIMEOUT` seconds:
        who stops in order closes the connections first. A fault of the connection ends this one only.
        """
        self.metrics.connections[self] = None
        try:
            with self._scope, self._source:
                await self._greet()
                held: _Item | None = None
                while True:
                    try:
                        frame, subscription = await self._source.receive() if held is None else held
                    except trio.EndOfChannel:
                        break
                    held = None
                    if not self._is_open:
                        break  # the frame was handed over just before `close` or `leave`
                    taken = 1
                    if frame is not None:
                        frames, taken, held = self._gather(frame, subscription)
                        if frames:
                            await self.transport.send(frames)
                    elif subscription is None:
                        await self.transport.flush()
                        self._queued_bytes -= self._flushing
                        self._flushing = 0
                    elif not subscription.is_removed:
                        await catch_up(subscription)
                    self._sending.clear()
                    self._pending -= taken
        except trio.Cancelled:
            self.close(CloseCode.INTERNAL_ERROR, "the server failed; reconnect")
            raise
        except Exception:
            log.exception("a connection failed", user_id=str(self.user.id))
            self.close(CloseCode.INTERNAL_ERROR, "the connection failed; reconnect")
        finally:
            del self.metrics.connections[self]
            self.metrics.closes[GONE if self._close is None else self._close[0]] += 1
            try:
                if self._close is not None:
                    await self._send_close(*self._close)  # noqa: ASYNC102  # shields itself, with a deadline
            finally:
                self._on_ended()

    async def _greet(self) -> None:
        """Sends the greeting of a session's connection, and waits for `release`."""
        if self._greeting is None or self._released is None:
            return
        self.metrics.frames_out[self._greeting.kind] += 1
        if self._write_now(self._greeting.wire) >= 0:
            await self.transport.flush()
        else:
            await self.transport.send([self._greeting])
        await self._released.wait()
        self._greeting = self._released = None
        self._pending -= 1

    def _gather(self, frame: Encoded, subscription: "Subscription | None") -> tuple[list[Encoded], int, "_Item | None"]:
        """What can be sent together: the frames, how much of the outbox that was, and what must come after."""
        frames: list[Encoded] = []
        size = taken = 0
        item: _Item = frame, subscription
        while True:
            frame_or_none, subscription = item
            if frame_or_none is None or size > JOINED_BYTES:
                return frames, taken, item
            taken += 1
            self._queued_bytes -= frame_or_none.size
            if subscription is None or not subscription.is_removed:
                frames.append(frame_or_none)
                size += frame_or_none.size
                if subscription is not None:
                    self._sending.append(subscription)
            try:
                item = self._source.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return frames, taken, None

    def _put(self, frame: Encoded | None, subscription: "Subscription | None") -> bool:
        try:
            self._outbox.send_nowait((frame, subscription))
        except trio.WouldBlock:
            self._close_slow()
        except trio.BrokenResourceError:
            pass  # the connection's task has ended: the client is gone
        else:
            self._pending += 1
            return True
        return False

    def _close_slow(self) -> None:
        self.close(CloseCode.TOO_SLOW, "reading too slowly; reconnect and load what you missed")

    async def _send_close(self, code: CloseCode, reason: str) -> None:
        try:
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await self.transport.close(code, reason)
        except Exception:
            log.exception("a connection could not be closed in order", user_id=str(self.user.id))


def open_connection(
    user: User,
    transport: Transport,
    settings: Settings,
    on_ended: Callable[[], object],
    metrics: Metrics,
    *,
    greeting: Encoded | None = None,
) -> Connection:
    """A connection with the bounds that the settings give it."""
    return Connection(
        user,
        transport,
        outbox_bytes=settings.outbox_bytes,
        pending_messages=settings.pending_messages,
        on_ended=on_ended,
        metrics=metrics,
        greeting=greeting,
    )
