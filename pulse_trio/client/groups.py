"""Exceptions of a block that has tasks beside it, as the block raised them."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio


@contextmanager
def unwrapped() -> Iterator[None]:
    """Around a nursery whose tasks raise nothing of their own: what its body raised comes out as it was raised.

    Cancellation beside it is left out, as it is wherever an error meets one.
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
