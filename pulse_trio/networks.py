"""Networks of IPv6 addresses, as limits count them.

One client of IPv6 usually has all of a /64, so that is the address of a limit. Providers give a customer a /56 or a
/48, which are 256 and 65,536 of these: limits count them as well, with larger bounds.
"""

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

SUFFIX: Final = "/64"  # of the keys of IPv6 addresses


@dataclass(frozen=True, slots=True)
class Networks:
    """Factors by which the bounds of wider networks are larger.

    Attributes:
        per_56: addresses (/64) that a /56 may use as much as.
        per_48: addresses (/64) that a /48 may use as much as.
    """

    per_56: int
    per_48: int

    def of(self, address: str) -> tuple[tuple[str, int], ...]:
        """Returns the keys for limits of an address: its own first, then wider networks, each with its factor.

        Args:
            address: the key of a `Client`.

        Example: `2001:db8:1:2::/64` gives itself with 1, `2001:db8:1::/56` with `per_56`, `2001:db8:1::/48` with
        `per_48`. An IPv4 address gives itself alone.
        """
        widened = _widened(address)
        if widened is None:
            return ((address, 1),)
        return (address, 1), (widened[0], self.per_56), (widened[1], self.per_48)


def widest(address: str) -> str:
    """Returns the key of the widest network that limits count for an address."""
    widened = _widened(address)
    return address if widened is None else widened[1]


@lru_cache(maxsize=4_096)
def _widened(address: str) -> tuple[str, str] | None:
    """Returns the /56 and the /48 of an IPv6 address; None for another."""
    if not address.endswith(SUFFIX):
        return None
    number = int(ipaddress.IPv6Address(address.removesuffix(SUFFIX)))
    fifty_six, forty_eight = (ipaddress.IPv6Address(number >> bits << bits) for bits in (72, 80))
    return f"{fifty_six}/56", f"{forty_eight}/48"
