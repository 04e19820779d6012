"""Ids of leases: those of one worker begin alike, so that its successor can end them."""

import os
import secrets
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import psycopg

OWNER_BYTES: Final = 8  # of an id, the same in all leases of a worker
_ID_BYTES: Final = 16

_END: Final = "DELETE FROM process_leases WHERE id BETWEEN %s AND %s"


def new_owner() -> str:
    """Returns the name of a new worker, as hexadecimal digits."""
    return secrets.token_hex(OWNER_BYTES)


def new_lease_id(owner: str) -> UUID:
    """Returns the id of a new lease of a worker."""
    return UUID(bytes=bytes.fromhex(owner) + os.urandom(_ID_BYTES - OWNER_BYTES))


def end_leases(connection: psycopg.Connection, owners: Sequence[str]) -> None:
    """Ends the leases of workers that do not live any more, so that no removal waits for them.

    Raises:
        psycopg.Error: the database cannot be reached.
    """
    for owner in owners:
        first = bytes.fromhex(owner)
        rest = _ID_BYTES - OWNER_BYTES
        connection.execute(_END, (UUID(bytes=first + b"\0" * rest), UUID(bytes=first + b"\xff" * rest)))
