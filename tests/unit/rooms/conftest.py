"""Runs every test of the rooms on the short ways, and on the long ones.

Short: transports write at once, and the store takes handovers.
"""

import pytest

from .world import FakeTransport, FaultyStore


@pytest.fixture(autouse=True, params=[True, False], ids=["short", "long"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTransport, "has_short_way", request.param)
    monkeypatch.setattr(FaultyStore, "has_short_way", request.param)
