"""The part of a bus that differs between engines: it carries payloads, and knows nothing of what is in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final

CHECKPOINT_EVERY: Final = 64  # payloads handed over in a row, so that a backlog does not hold up other tasks


class TransportError(Exception):
    """The engine cannot be reached, refuses to serve, or the connection to it is lost.

    Its text goes into the log: it holds no secret.
    """


class Link(ABC):
    """A connection that publishes and hears. It is used until its first error."""

    @abstractmethod
    async def send(self, payloads: Sequence[bytes]) -> None:
        """Publishes payloads, and waits until the engine has taken them. Only while `receive` runs; one call at a time.

        Raises:
            TransportError: the engine refuses, or the connection is lost.

        Cancelled: the payloads may or may not be published, and the link is not usable any more.
        """

    @abstractmethod
    async def receive(self, on_payload: Callable[[bytes], None]) -> None:
        """Hands over every payload published since the link was made, this process's own included.

        Raises:
            TransportError: the connection is lost. It ends in no other way.
        """

    @abstractmethod
    def close(self) -> None:
        """Closes the connection at once. Closing twice is fine."""


class Transport(ABC):
    """Makes links.

    Attributes:
        name: the engine, for the log.
        max_payload_bytes: the longest payload that it takes.
        max_payloads: payloads in one call of `Link.send`, at least two.
    """

    name: str
    max_payload_bytes: int
    max_payloads: int

    @abstractmethod
    async def connect(self) -> Link:
        """Connects and subscribes.

        Raises:
            TransportError: it cannot.

        Cancelled: nothing is left open.
        """
