"""The bus: wakes the other processes of the service after a change was committed.

`base`: the contract and its guarantee. `opening`: chooses an engine by `PULSE_BUS_URL`.
`local`, `postgres`, `redis`: the engines. `numbered`: what `postgres` and `redis` share; an engine is its `transport`.
`batches`: the text of a batch, and the queue of items that wait for one. `publishers`: the numbers heard from others.
`redis_connection`: one connection to a Redis server. `redis_servers`: finds the server to connect to.
"""

from .base import Bus, BusCounters, BusListener
from .opening import make_bus

__all__ = ["Bus", "BusCounters", "BusListener", "make_bus"]
