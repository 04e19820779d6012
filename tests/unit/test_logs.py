"""The log: what it takes over from the interpreter."""

import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest
import structlog

from pulse_trio import console, logs
from pulse_trio.settings import Settings


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts back what the configuration changes."""
    root, shown = logging.getLogger(), warnings.showwarning
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    warnings.showwarning = shown
    structlog.reset_defaults()
    console.send_reports_to(None)


def test_a_hook_for_lost_exceptions_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that arrives in a finalizer is lost unless the hook of `StopSignals` raises it again."""

    def raise_again(_problem: object) -> None:
        pass

    monkeypatch.setattr(sys, "unraisablehook", raise_again)
    logs.configure(Settings(log_format="json"))
    assert sys.unraisablehook is raise_again


def test_without_one_lost_exceptions_are_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    logs.configure(Settings(log_format="json"))
    assert sys.unraisablehook is logs._log_unraisable
