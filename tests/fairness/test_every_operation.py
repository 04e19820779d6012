"""Each operation and each frame at its largest input, from 50 connections at once, beside a canary's conversation.

Times are printed and not compared: a machine that is busy would fail them. `make fairness` compares.
"""

from collections import Counter
from collections.abc import Callable

import trio

from tests.fairness.largest import frame_bytes, frames, in_order
from tests.fairness.town import CONNECTIONS, open_town
from tests.fairness.unread import MIB, memory_attacks, memory_grown
from tests.support.client import Api
from tests.support.server import Server

LIMIT = 280  # seconds
DONE = {
    "login": "401"
}  # the status of an input that was fully handled, where it is not 2xx: a wrong password is hashed
ROUNDS = 2


async def test_no_operation_starves_a_conversation(database: str, start_server: Callable[..., Server]) -> None:
    server = start_server()
    with trio.fail_after(LIMIT):
        document = (await Api(server.base_url).get("/openapi.json")).json()
        async with open_town(server, database, messages=40) as town:
            for operation in in_order(document):
                data = [operation.request(town.place(number)) for number in range(CONNECTIONS)]
                async with town.canary.singing() as figures:
                    seen = await town.attackers.attack(town.requests(data, count=ROUNDS))
                print(f"{operation.name:20} {dict(seen)} {figures}")
                assert seen.total() == ROUNDS * CONNECTIONS, (operation.name, seen)
                assert "no answer" not in seen, (operation.name, seen)
                assert not [status for status in seen if status in {"400", "422", "500"}], (operation.name, seen)
                done = [status for status in seen if status.startswith(DONE.get(operation.name, "2"))]
                assert done, (operation.name, "its largest input is refused", seen)


async def test_unread_pages_of_many_addresses_cost_bounded_memory(
    database: str, start_server: Callable[..., Server]
) -> None:
    server = start_server()
    with trio.fail_after(LIMIT):
        async with open_town(server, database) as town:
            attack, allowed = next(memory_attacks(town, seconds=5))
            grown, seen, figures = await memory_grown(town, attack)
            print(f"{len(attack.data)} unread: {grown / MIB:.0f} MiB {dict(seen)} {figures}")
            assert grown < allowed
            assert seen["200"] >= 100
            assert seen.keys() <= {"200", "503"}


async def test_no_frame_starves_a_conversation(database: str, start_server: Callable[..., Server]) -> None:
    server = start_server()
    with trio.fail_after(LIMIT):
        async with open_town(server, database, messages=40) as town:
            total: Counter[str] = Counter()
            for name, kind in frames().items():
                data = [frame_bytes(kind, town.place(number)) for number in range(CONNECTIONS)]
                async with town.canary.singing() as figures:
                    seen = await town.attackers.attack(town.sessions(data, count=ROUNDS))
                print(f"{name:20} {dict(seen)} {figures}")
                assert seen["sent"] == ROUNDS * CONNECTIONS, (name, seen)
                assert "no answer" not in seen, (name, seen)
                assert seen["pong"] == CONNECTIONS, (name, seen)
                total += seen
            assert total["sent"]
