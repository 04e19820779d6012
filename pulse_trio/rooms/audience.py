"""The audience of a room: its subscriptions, grouped by what their clients asked for."""

from collections.abc import Iterator, Sequence
from uuid import UUID

from pulse_trio.rooms.connection import Transport
from pulse_trio.rooms.subscription import Subscription


class Audience:
    """The subscriptions of a room, by transport and by features.

    A frame is encoded once for each group of connections with the same features; most rooms have one or two groups.

    Attributes:
        groups: `Features.mask` → the subscriptions with these features, none of them empty.
    """

    __slots__ = ("_by_transport", "groups")

    def __init__(self) -> None:
        self._by_transport: dict[Transport, Subscription] = {}
        self.groups: dict[int, dict[Transport, Subscription]] = {}

    def __len__(self) -> int:
        return len(self._by_transport)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(list(self._by_transport.values()))

    def __contains__(self, transport: Transport) -> bool:
        return transport in self._by_transport

    def get(self, transport: Transport) -> Subscription | None:
        """Returns the subscription of a connection, if it has one here."""
        return self._by_transport.get(transport)

    def add(self, subscription: Subscription) -> None:
        """Adds a subscription."""
        transport = subscription.connection.transport
        self._by_transport[transport] = subscription
        self.groups.setdefault(subscription.mask, {})[transport] = subscription

    def discard(self, subscription: Subscription) -> bool:
        """Removes a subscription; returns False if it is not here."""
        transport = subscription.connection.transport
        if self._by_transport.get(transport) is not subscription:
            return False
        del self._by_transport[transport]
        group = self.groups[subscription.mask]
        del group[transport]
        if not group:
            del self.groups[subscription.mask]
        return True

    def clear(self) -> list[Subscription]:
        """Removes all subscriptions, and returns them."""
        subscriptions = list(self._by_transport.values())
        self._by_transport.clear()
        self.groups.clear()
        return subscriptions

    def of_user(self, user_id: UUID) -> list[Subscription]:
        """Returns the subscriptions of a user."""
        return [each for each in self._by_transport.values() if each.connection.user.id == user_id]

    def snapshot(self) -> Sequence[tuple[int, Sequence[Subscription]]]:
        """Returns the groups as they are now: delivering to one may close connections."""
        return [(mask, list(group.values())) for mask, group in self.groups.items()]
