"""Answers that are requested and not read, and the memory that they cost the server."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

import trio

from tests.fairness.attackers import Attack
from tests.fairness.canary import Figures
from tests.fairness.largest import Place
from tests.fairness.town import CONVERSATIONS, Town
from tests.support.raw import resident_bytes

MIB: Final = 2**20
POLL: Final = 0.1  # seconds


def page(place: Place) -> bytes:
    """Returns the request for the largest page of an attacker's history."""
    return get(f"{CONVERSATIONS}/{place.conversation_id}/messages?limit=200", place)


def conversation_list(place: Place) -> bytes:
    """Returns the request for the largest list of an attacker's conversations."""
    return get(f"{CONVERSATIONS}?limit=200", place)


def get(target: str, place: Place) -> bytes:
    """Returns a request of an attacker."""
    head = f"GET {target} HTTP/1.1\r\nHost: chat.example\r\nAuthorization: Bearer {place.token}\r\n\r\n"
    return head.encode()


def memory_attacks(town: Town, *, seconds: float) -> Iterator[tuple[Attack, int]]:
    """Yields attacks, and the bytes of memory that each may cost."""
    pages = [page(town.place(number)) for number in range(200)]
    yield town.requests(pages, seconds=seconds, is_unread=True, addresses=40), 100 * MIB
    mixed = [(page if number % 3 else conversation_list)(town.place(number)) for number in range(1_000)]
    yield town.requests(mixed, seconds=seconds, is_unread=True, addresses=100, pause=0.2), 300 * MIB


async def memory_grown(town: Town, attack: Attack) -> tuple[int, Counter[str], Figures]:
    """Carries out an attack; returns the most memory that the server had more than before, in bytes."""
    pid = town.server.process.pid
    before = most = resident_bytes(pid)

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, resident_bytes(pid))
            await trio.sleep(POLL)

    async with town.canary.singing() as figures, trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        seen = await town.attackers.attack(attack)
        nursery.cancel_scope.cancel()
    return most - before, seen, figures
