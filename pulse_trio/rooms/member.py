"""A member: one connection's place in a room, with its bounded outbox."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog
import trio

from pulse_trio.protocol import CloseCode, Encoded
from pulse_trio.store.base import User

# The outbox is bounded by bytes; this bounds the memory of the channel itself. A typing frame, the
# smallest, has about 150 bytes, so the default of 1 MiB is reached first.
OUTBOX_FRAMES: Final = 8_192
CLOSE_TIMEOUT: Final = 2.0  # seconds for a close frame to leave; whoever does not read it is cut off


log = structlog.get_logger(__name__)


class Transport(Protocol):
    """What a member needs of its connection; the edge provides it."""

    async def send(self, text: str) -> None:
        """Sends one text message; returns when it is on its way. A dead connection is not an error."""

    async def close(self, code: int, reason: str) -> None:
        """Sends a close frame."""


class Member:
    """A connection in a room. `run` is its task in the room's nursery; the rest never blocks.

    Args:
        user: whose connection it is.
        transport: the connection.
        outbox_bytes: how much may wait for it; from half of it on frames that may be missed are dropped,
            beyond it the connection is closed with `CloseCode.TOO_SLOW`.
        pending_messages: how many messages it may have waiting for the store.
        after_rev: the last change that the client has seen, if it resumes; None for a fresh start.
        on_ended: called once when the member's task has ended, so that the connection's own task can go.
    """

    __slots__ = (
        "_close",
        "_on_ended",
        "_outbox",
        "_outbox_bytes",
        "_queued_bytes",
        "_scope",
        "_source",
        "capacity",
        "cursor",
        "dropped_frames",
        "is_live",
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
        after_rev: int | None = None,
    ) -> None:
        self.user = user
        self.transport = transport
        self.capacity = trio.Semaphore(pending_messages, max_value=pending_messages)
        self.dropped_frames = 0
        self.is_live = after_rev is None
        self.cursor = 0 if after_rev is None else after_rev  # the last change put out to the client
        self._outbox, self._source = trio.open_memory_channel[Encoded](OUTBOX_FRAMES)
        self._outbox_bytes = outbox_bytes
        self._queued_bytes = 0
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

    def deliver(self, frame: Encoded, *, ephemeral: bool = False) -> None:
        """Puts a frame into the outbox; after `close` it is dropped.

        Args:
            frame: what to send.
            ephemeral: it may be missed (typing, presence): dropped when the connection lags.
        """
        if self._close is not None or self._scope.cancel_called:
            return
        if ephemeral and self._queued_bytes > self._outbox_bytes // 2:
            self.dropped_frames += 1
            return
        try:
            # One frame may be larger than the outbox, or a long list of users would close everybody.
            if self._queued_bytes and self._queued_bytes + frame.size > self._outbox_bytes:
                raise trio.WouldBlock
            self._outbox.send_nowait(frame)
        except trio.WouldBlock:
            self.close(CloseCode.TOO_SLOW, "reading too slowly; reconnect and load what you missed")
        except trio.BrokenResourceError:
            return  # the member's task has ended: its connection is gone
        else:
            self._queued_bytes += frame.size

    def deliver_change(self, rev: int, frame: Encoded) -> None:
        """Puts a change of the conversation into the outbox, if the client is due for it.

        One that still catches up gets it from the store, and one that has caught up may have got it there.
        """
        if self.is_live and rev > self.cursor:
            self.cursor = rev
            self.deliver(frame)

    async def send(self, frame: Encoded) -> None:
        """Sends a frame past the outbox: for the member's own task, while it catches up."""
        await self.transport.send(frame.text)

    def close(self, code: CloseCode, reason: str) -> None:
        """Closes the connection: nothing that still waits is sent, only the close frame."""
        if self._close is None:
            self._close = (code, reason)
            self._scope.cancel()

    def leave(self) -> None:
        """Ends the member's task without a close frame: the connection is gone already."""
        if self._close is None:
            self._outbox.close()
            self._scope.cancel()

    async def run(self, catch_up: Callable[["Member"], Awaitable[None]]) -> None:
        """Sends what comes into the outbox until the member leaves or is closed.

        Args:
            catch_up: sends the changes that the client missed, and makes the member live.

        Cancelled: closes the connection with `CloseCode.INTERNAL_ERROR`, within `CLOSE_TIMEOUT` seconds:
        who stops in order closes the members first. A fault of the connection ends this member only.
        """
        try:
            with self._scope, self._source:
                async for frame in self._source:
                    if self._scope.cancel_called:
                        break  # the frame was handed over just before `close` or `leave`
                    self._queued_bytes -= frame.size
                    await self.transport.send(frame.text)
                    if not self.is_live:  # after the first frame, which says where the conversation stands
                        await catch_up(self)
        except trio.Cancelled:
            self.close(CloseCode.INTERNAL_ERROR, "the server failed; reconnect")
            raise
        except Exception:
            log.exception("a connection failed", user_id=str(self.user.id))
            self.close(CloseCode.INTERNAL_ERROR, "the connection failed; reconnect")
        finally:
            try:
                if self._close is not None:
                    await self._send_close(*self._close)  # noqa: ASYNC102  # shields itself, with a deadline
            finally:
                self._on_ended()

    async def _send_close(self, code: CloseCode, reason: str) -> None:
        try:
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await self.transport.close(code, reason)
        except Exception:
            log.exception("a connection could not be closed in order", user_id=str(self.user.id))
