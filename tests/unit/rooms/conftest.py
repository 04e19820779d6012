"""Every test of the rooms runs with connections that have the short way out, and with such that have not."""

import pytest

from .world import FakeTransport


@pytest.fixture(autouse=True, params=[True, False], ids=["short", "long"])
def way_out(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTransport, "has_short_way", request.param)
