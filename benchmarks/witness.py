"""A client that keeps every frame, for the trials of promises."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import picows

from benchmarks.client import Client, Tally
from benchmarks.dialects import Dialect


class Witness(Client):
    """A connection that keeps what it gets.

    Attributes:
        port: the server's.
        room, user: numbers of the conversation and the user.
        frames: the text of each frame since the server let it in.
        pongs: the times of the pongs, by the clock of `time.perf_counter`.
    """

    def __init__(self, dialect: Dialect, room: int, user: int, number: int, tally: Tally, more: str = "") -> None:
        super().__init__(dialect, room, user, number, tally, more)
        self.room, self.user, self.port = room, user, 0
        self.frames: list[bytes] = []
        self.pongs: list[float] = []
        self._news = asyncio.Event()

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        was_open = self.is_open
        super().on_ws_frame(transport, frame)
        if frame.msg_type == picows.WSMsgType.PONG:
            self.pongs.append(time.perf_counter())
        elif was_open and frame.msg_type == picows.WSMsgType.TEXT:
            self.frames.append(frame.get_payload_as_bytes())
        self._news.set()

    def on_ws_disconnected(self, transport: Any) -> None:
        super().on_ws_disconnected(transport)
        self._news.set()

    def ping(self) -> None:
        """Sends a ping of RFC 6455."""
        self.transport.send_ping()

    async def wait(self, is_true: Callable[[], bool], seconds: float) -> bool:
        """Waits until something is true of its frames; returns False if it is not in time."""
        deadline = time.monotonic() + seconds
        while not is_true():
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                return is_true()
        return True
