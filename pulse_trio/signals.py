"""SIGINT, SIGTERM and SIGHUP: the first one ends the start or asks the service to stop; later ones are ignored."""

import atexit
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import trio

RAISE_AGAIN_SECONDS: Final = 0.02
_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class StopSignals:
    """Handles SIGINT, SIGTERM and SIGHUP from construction to the end of the program.

    The first signal interrupts the start with KeyboardInterrupt or, after `keep`, wakes `wait`. Later ones are
    ignored, so that PostgreSQL shuts down cleanly; Trio's own receiver would pass a second signal on to Python during
    that shutdown. SIGHUP, which a closing terminal sends, stays ignored under `nohup`.

    Attributes:
        name: the first signal, such as "SIGTERM"; None before it.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._is_asked = False
        self._is_kept = False
        self._wake: Callable[[], None] | None = None
        self._original_hook = sys.unraisablehook
        sys.unraisablehook = self._raise_again
        signal.signal(signal.SIGALRM, self._interrupt)
        for number in _STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN or number is signal.SIGINT:
                signal.signal(number, self._handle)
        atexit.register(_ignore_signals)

    def keep(self) -> None:
        """Stops raising KeyboardInterrupt: from now on a signal only wakes `wait`."""
        self._is_kept = True

    async def wait(self) -> None:
        """Returns once the first signal has arrived."""
        event, token = trio.Event(), trio.lowlevel.current_trio_token()
        self._wake = lambda: token.run_sync_soon(event.set, idempotent=True)
        try:
            if not self._is_asked:
                await event.wait()
        finally:
            self._wake = None

    def _handle(self, number: int, frame: object) -> None:
        is_first, self._is_asked = not self._is_asked, True
        if is_first:
            self.name = signal.Signals(number).name
        if self._wake is not None:
            self._wake()
        elif is_first:
            self._interrupt(number, frame)

    def _interrupt(self, _number: int, _frame: object) -> None:
        if not self._is_kept:
            raise KeyboardInterrupt

    def _raise_again(self, problem: Any) -> None:
        """Repeats an interrupt that Python discarded: fork hooks and finalizers cannot raise."""
        if isinstance(problem.exc_value, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, RAISE_AGAIN_SECONDS)
        else:
            self._original_hook(problem)


def _ignore_signals() -> None:
    # At its very end Python restores the default action, which kills, for handled signals but not for ignored ones.
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def unwrap_exit() -> Iterator[None]:
    """Raises a SystemExit that nurseries have wrapped in a group as a plain one; its reason is already logged."""
    try:
        yield
    except BaseExceptionGroup as group:
        exits, others = group.split(SystemExit)
        if exits is None or others is not None:
            raise
        raise SystemExit(1) from None
