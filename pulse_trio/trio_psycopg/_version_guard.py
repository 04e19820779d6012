"""Fail at import if the installed psycopg lacks a private name that this package relies on."""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg import AsyncConnection, AsyncTransaction, _conninfo_utils, errors, generators, waiting

# (owner, name), used in connection.py, _waiting.py or _resolve.py; psycopg 3.1, 3.2 and 3.3 each moved some.
_NEEDED: Final[tuple[tuple[object, str], ...]] = (
    (AsyncConnection, "_connect_gen"),
    (AsyncConnection, "_cancel_gen"),
    (AsyncConnection, "_should_cancel"),
    (AsyncConnection, "_start_query"),
    (AsyncConnection, "_pipeline_nolock"),
    (AsyncConnection, "_get_connection_params"),
    (AsyncTransaction, "_check_enter"),
    (AsyncTransaction, "_enter_gen"),
    (AsyncTransaction, "_exit_gen"),
    (errors, "_WaitTimeout"),
    (generators, "cancel"),
    (waiting, "Wait"),
    (_conninfo_utils, "get_param"),
    (_conninfo_utils, "get_param_def"),
    (_conninfo_utils, "is_ip_address"),
    (_conninfo_utils, "split_attempts"),
)


def check() -> None:
    """Check every private name.

    Raises:
        ImportError: psycopg changed; names the missing ones.
    """
    missing = [f"{getattr(o, '__name__', o)}.{name}" for o, name in _NEEDED if not hasattr(o, name)]
    if missing:
        raise ImportError(
            f"trio_psycopg was written for psycopg 3.3.9; psycopg {psycopg.__version__} lacks "
            f"{', '.join(missing)}: pin psycopg, or port this package"
        )
