"""A time limit for reads of the store."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from pulse_trio.store.base import StoreUnavailable


@contextmanager
def in_time(seconds: float, what: str) -> Iterator[None]:
    """Bounds a block that reads from the store.

    Args:
        seconds: that it may take.
        what: it reads, for the error.

    Raises:
        StoreUnavailable: it took longer.
    """
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise StoreUnavailable(f"{what} took too long") from None
