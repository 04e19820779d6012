"""The service of the fuzz: with low limits, and killed and started again on the same port."""

import signal
from typing import Final

import trio

from tests.support.server import Server

LIMITS: Final = {
    "PULSE_FRAMES_PER_SECOND": "15",
    "PULSE_FRAMES_BURST": "20",
    "PULSE_MAX_FRAME_BYTES": "4096",
    "PULSE_RESUME_CONVERSATIONS": "3",
    "PULSE_EDITS_PER_SECOND": "10",
    "PULSE_EDITS_BURST": "20",
    "PULSE_CONNECTIONS_PER_USER": "4",
    "PULSE_OUTBOX_BYTES": "65536",
    "PULSE_PENDING_MESSAGES": "2",
    "PULSE_INBOX_MESSAGES": "4",
    "PULSE_BATCH_MESSAGES": "3",
    "PULSE_STORE_TIMEOUT": "2",
    "PULSE_ROOM_LINGER": "0",
    "PULSE_WRITE_TIMEOUT": "3",
    "PULSE_REGISTRATIONS_PER_ADDRESS": "0",
    "PULSE_GROUP_CHANGES_PER_SECOND": "0",
}
"""Low, so that clients meet them. Those without a limit concern what the driver does for itself."""


class Service:
    """The process, and its port, which stays."""

    def __init__(self, conninfo: str) -> None:
        self._settings = {"DATABASE_URL": conninfo, **LIMITS}
        self._server = Server(self._settings)
        self.kills = 0

    @property
    def port(self) -> int:
        """Returns its port."""
        return self._server.port

    @property
    def url(self) -> str:
        """Returns its address, without the bad network."""
        return self._server.base_url

    async def wait_ready(self) -> None:
        """Returns when it listens."""
        await trio.to_thread.run_sync(self._server.wait_ready)

    async def kill(self, how: signal.Signals) -> None:
        """Ends it by a signal, and starts it again.

        Cancelled: after the new process listens.
        """
        self.kills += 1
        with trio.CancelScope(shield=True):  # the port is known by the process alone
            port = self._server.port
            await trio.to_thread.run_sync(self._server.stop, how)
            self.check()
            self._server = Server(self._settings, "--port", str(port))
            await self.wait_ready()

    def check(self) -> None:
        """Fails if the service has printed a traceback."""
        assert "Traceback" not in self._server.output, self._server.output

    def stop(self) -> None:
        """Ends it."""
        self._server.stop()
        self.check()
