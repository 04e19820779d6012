"""The versions of Hypercorn into which the limits can be installed."""

import pytest

from pulse_trio.edge.server import workarounds
from pulse_trio.errors import LaunchError
from pulse_trio.settings import Settings


def test_an_unknown_version_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workarounds, "version", lambda _: "0.99.0")
    with pytest.raises(LaunchError) as caught:
        workarounds.install(Settings())
    line = str(caught.value)
    assert "Hypercorn 0.99.0" in line
    assert f"hypercorn=={workarounds.SUPPORTED_VERSIONS[-1]}" in line
    assert "PULSE_ALLOW_ANY_HYPERCORN=true" in line
    assert "\n" not in line


def test_a_setting_overrides_that_and_installs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workarounds, "version", lambda _: "0.99.0")
    monkeypatch.delattr(workarounds.TcpConnection, "gate", raising=False)
    workarounds.install(Settings(allow_any_hypercorn=True))
    assert not hasattr(workarounds.TcpConnection, "gate")
