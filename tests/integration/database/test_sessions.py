"""Sessions of the service: each connection has its own, with the requested settings."""

from functools import partial

import pytest
import trio

from pulse_trio.database.sessions import require_own_sessions, with_keepalives
from pulse_trio.errors import LaunchError
from tests.support.proxy import Proxy, open_proxy

SETTINGS = {"synchronous_commit": "on", "statement_timeout": "5000", "plan_cache_mode": "force_generic_plan"}


async def check(proxy: Proxy) -> None:
    await trio.to_thread.run_sync(partial(require_own_sessions, with_keepalives(proxy.conninfo, SETTINGS)))


async def test_sessions_of_a_direct_connection_are_accepted(database: str) -> None:
    with trio.fail_after(30):
        async with open_proxy(database) as proxy:
            await check(proxy)


async def test_a_setting_changed_in_between_is_named(database: str) -> None:
    with trio.fail_after(30):
        async with open_proxy(database) as proxy:
            proxy.replace = (b"5000", b"0000")
            with pytest.raises(LaunchError, match=r"lose their settings .statement_timeout.: .* directly"):
                await check(proxy)


async def test_settings_lost_after_a_statement_are_rejected(database: str) -> None:
    with trio.fail_after(30):
        async with open_proxy(database) as proxy:
            proxy.replace = (b"set_config(name, value, false)", b"set_config(name, value, true )")
            with pytest.raises(LaunchError, match="pool_mode"):
                await check(proxy)
