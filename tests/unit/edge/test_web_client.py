"""The files of the web client."""

import pytest
import trio

from pulse_trio.edge import compression
from pulse_trio.edge.compression import GZIP, Coding
from pulse_trio.edge.pages import web_client


async def test_requests_at_the_same_time_compress_a_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a start each page that was loaded again compressed every file anew."""
    file, runs, results = web_client._file("client.js", b"x" * 1_000), [], set()

    async def compress(data: bytes, coding: Coding) -> bytes:
        runs.append(coding.name)
        return await compression.compress_often_sent(data, coding)

    monkeypatch.setattr(web_client, "compress_often_sent", compress)

    async def request() -> None:
        results.add(await file.encode(GZIP))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(request)
    assert (runs, results) == (["gzip"], {GZIP.best(b"x" * 1_000)})
