"""Responses with errors: what their headers promise."""

from contextlib import asynccontextmanager

import pytest

from pulse_trio.app import create_app
from pulse_trio.edge.responses import error_answer
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.settings import Settings
from pulse_trio.store.memory import MemoryStore
from tests.support.server import SECRET


@pytest.mark.parametrize("code", list(ErrorCode))
async def test_every_503_says_when_to_retry(code: ErrorCode) -> None:
    app = create_app(Settings.load(secret_key=SECRET), asynccontextmanager(MemoryStore))  # type: ignore[arg-type]
    async with app.app_context():
        without, exact = error_answer(PulseError(code)), error_answer(PulseError(code, retry_after=2.5))
    assert (without.headers.get("Retry-After") == "1") is (code.status == 503)
    assert exact.headers["Retry-After"] == "3"
