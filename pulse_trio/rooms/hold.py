"""A hold: keeps a room open while it is about to be used."""

from collections.abc import Callable


class Hold:
    """A context manager that may be entered several times at once; `with room.held(): ...`.

    One object serves all holds of a room, because each message takes one.

    Args:
        on_released: called when the last block has ended.

    Attributes:
        count: the blocks that have been entered and have not ended.
    """

    __slots__ = ("_on_released", "count")

    def __init__(self, on_released: Callable[[], None]) -> None:
        self._on_released = on_released
        self.count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_exc: object) -> None:
        self.count -= 1
        if not self.count:
            self._on_released()
