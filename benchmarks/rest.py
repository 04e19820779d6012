"""A client of the servers' REST pages: plain HTTP/1.1."""

import asyncio

from benchmarks.dialects import Lost


class Http:
    """One HTTP/1.1 connection for one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str, token: str) -> bytes:
        """Requests a path and returns the body of the answer.

        Raises:
            Lost: the answer is not 200.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
        reader, writer = self._streams
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        body = await reader.readexactly(length)
        if b"connection: close" in head.lower():  # some servers close a connection after a number of requests
            self.close()
            self._streams = None
        if not head.startswith(b"HTTP/1.1 200"):
            raise Lost(f"{head[:40]!r} {body[:200]!r}")
        return body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
