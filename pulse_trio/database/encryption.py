"""The encryption of sessions: libpq's default, `sslmode=prefer`, accepts a plain connection, and any certificate."""

import ipaddress
from typing import Final

import psycopg

ENCRYPTION_ADVICE: Final = "set sslmode=verify-full and sslrootcert in DATABASE_URL"
_DEFAULT_MODE: Final = "prefer"  # of libpq


def encryption_problem(connection: psycopg.Connection) -> str | None:
    """Describes what is missing for safe sessions with another machine; None if nothing is, or all are on this one.

    Args:
        connection: an open session. Every host of its connection string counts, also those for a failover.
    """
    params = connection.info.get_parameters()  # with those from the environment and from service files
    given = params.get("hostaddr") or params.get("host") or ""
    remote = [host for host in given.split(",") if not _is_local(host)]
    mode = params.get("sslmode", _DEFAULT_MODE)
    if not remote or mode == "verify-full":
        return None
    if not connection.pgconn.ssl_in_use:
        return f"sessions with {', '.join(remote)} are not encrypted (sslmode={mode})"
    if mode == "verify-ca":
        return f"the name in the certificate of {', '.join(remote)} is not checked (sslmode={mode})"
    return f"the certificate of {', '.join(remote)} is not checked (sslmode={mode})"


def _is_local(host: str) -> bool:
    """Tells a Unix socket and this machine's own addresses from other hosts."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
