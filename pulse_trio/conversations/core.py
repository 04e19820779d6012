"""The parts of a running service that use cases work with."""

from dataclasses import dataclass

from pulse_trio.clock import Clock
from pulse_trio.ids import IdSource
from pulse_trio.rooms.hub import Hub
from pulse_trio.settings import Settings
from pulse_trio.store.base import Store


@dataclass(frozen=True, slots=True)
class Core:
    """The parts of a running service that every use case may need; `edge.services.Services` extends them."""

    settings: Settings
    clock: Clock
    ids: IdSource
    store: Store
    hub: Hub
