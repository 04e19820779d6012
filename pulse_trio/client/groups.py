"""Takes the only exception of a group out of it. Trio has this too, but only in a private module."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio


@contextmanager
def unwrapped() -> Iterator[None]:
    """Lets the exception of a nursery's body come out as it was raised, not in a group.

    For a nursery whose tasks raise nothing. Cancelled exceptions in the group are dropped, as Trio does when an error
    and a cancellation meet.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        others = group.split(trio.Cancelled)[1]
        if others is None or len(others.exceptions) != 1:
            raise
        error = others.exceptions[0]
        if error.__cause__ is not None:
            raise error from error.__cause__
        raise error from None
