"""Runs every test of the rooms with transports that write at once, and with such that do not."""

import pytest

from .world import FakeTransport


@pytest.fixture(autouse=True, params=[True, False], ids=["short", "long"])
def way_out(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTransport, "has_short_way", request.param)
