"""Chooses the engine of the bus."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import trio

from pulse_trio.bus_url import RedisUrl, parse_bus_url
from pulse_trio.settings import Settings

from .base import Bus
from .local import LocalBus
from .numbered import NumberedBus
from .postgres import PostgresTransport
from .redis import RedisTransport
from .transport import TransportError

CHANNEL: Final = "pulse_trio.bus"
PROBE_TIMEOUT: Final = 5.0  # seconds


def make_bus(settings: Settings, conninfo: str, publisher: UUID, *, is_alone: bool, service: str = "") -> Bus:
    """Makes the bus that `PULSE_BUS_URL` names; without one `local` for a single process, else `postgres`.

    Args:
        settings: the settings.
        conninfo: libpq connection string of the service's database, not through a pooler in transaction mode.
        publisher: the id of this process.
        is_alone: no other process serves this database.
        service: a name that all processes of this service have in common and no other service has. It tells several
            services on one Redis apart, unless the URL names a channel.

    Raises:
        LaunchError: a file that the URL names cannot be used.
    """
    url = "" if settings.bus_url is None else settings.bus_url.get_secret_value()
    target = parse_bus_url(url) if url else ("local" if is_alone else "postgres")
    if target == "local":
        return LocalBus(publisher)
    if isinstance(target, RedisUrl):
        default = f"{CHANNEL}.{service}" if service else CHANNEL
        return NumberedBus(RedisTransport(target, target.channel or default), publisher)
    return NumberedBus(PostgresTransport(conninfo), publisher)


async def probe_bus(settings: Settings) -> bool:
    """Subscribes to the Redis that `PULSE_BUS_URL` names, as a process of the service does; returns False if none is.

    Raises:
        TransportError: it does not answer, or refuses.
        LaunchError: a file that the URL names cannot be used.

    Cancelled: nothing is left open.
    """
    target = "" if settings.bus_url is None else parse_bus_url(settings.bus_url.get_secret_value())
    if not isinstance(target, RedisUrl):
        return False
    with trio.move_on_after(PROBE_TIMEOUT):
        link = await RedisTransport(target, target.channel or f"{CHANNEL}.doctor").connect()
        link.close()
        return True
    raise TransportError(f"no answer within {PROBE_TIMEOUT:.0f} seconds")
