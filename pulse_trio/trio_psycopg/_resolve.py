"""Turn connection parameters into single attempts, resolving names without blocking the event loop."""

from __future__ import annotations

import random
import socket

import psycopg
import trio

# Private: the parts of psycopg's own conninfo_attempts_async, of which only getaddrinfo depends on asyncio.
from psycopg._conninfo_utils import get_param, get_param_def, is_ip_address, split_attempts
from psycopg.abc import ConnDict


async def attempts(params: ConnDict, timeout: float) -> list[ConnDict]:  # noqa: ASYNC109
    """List the connections to try, in order: one for each address of each host.

    Args:
        params: Parameters in the form of `conninfo_to_dict`.
        timeout: Seconds to resolve each name.

    Raises:
        psycopg.OperationalError: no host could be resolved.
    """
    standby_first = get_param(params, "target_session_attrs") == "prefer-standby"
    if standby_first:
        params = {k: v for k, v in params.items() if k != "target_session_attrs"}
    found: list[ConnDict] = []
    failure: psycopg.OperationalError | None = None
    for attempt in split_attempts(params):
        try:
            with trio.fail_after(timeout):
                found.extend(await _resolve(attempt))
        except (OSError, trio.TooSlowError) as error:
            reason = str(error) or "timeout"
            failure = psycopg.OperationalError(f"failed to resolve host {attempt.get('host')!r}: {reason}")
            failure.__cause__ = error
    if not found:
        assert failure is not None
        raise failure
    if get_param(params, "load_balance_hosts") == "random":
        random.shuffle(found)
    if standby_first:
        found = [{**a, "target_session_attrs": "standby"} for a in found] + found
    return found


async def _resolve(params: ConnDict) -> list[ConnDict]:
    host = get_param(params, "host")
    if not host or host.startswith(("/", "@")) or get_param(params, "hostaddr"):
        return [params]
    if is_ip_address(host):
        return [{**params, "hostaddr": host}]
    port = get_param(params, "port")
    if not port:
        default = get_param_def("port")
        port = (default and default.compiled) or "5432"
    answers = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    # Keep `host`: libpq connects to hostaddr, but verifies the certificate and looks up .pgpass by host.
    return [{**params, "hostaddr": str(answer[4][0])} for answer in answers]
