"""Callers: what the store's connections are used for, and the share of the pool that each use has.

A use holds at most half of the pool, and a part is reserved for each, so that none takes what the others need: neither
users who load long lists, nor rooms that open after a restart, nor changes that wait for a locked row.
"""

from enum import Enum

from pulse_trio.trio_psycopg import Share


class Caller(Enum):
    """A use of the main pool; messages are stored on a pool of their own."""

    LISTS = "lists"  # and searches, history and presence: what a user reads, page by page
    ROOMS = "rooms"  # that open or catch up, and sessions that open or resume
    LOOK_UPS = "look-ups"  # of an account or a membership: every request and handshake needs one
    CHANGES = "changes"  # of members, properties, read positions and accounts; messages of isolated rooms


def shares(size: int) -> dict[Caller, Share]:
    """Returns the share of each use in a pool of `size` connections; below 8 nothing is reserved."""
    share = Share(reserved=size // (2 * len(Caller)), most=max(1, size // 2))
    return dict.fromkeys(Caller, share)
