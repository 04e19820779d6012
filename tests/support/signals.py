"""For apps of the tests that run in a server of their own."""

import signal

import trio


async def signalled() -> None:
    """Returns when this process is asked to end."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            return
