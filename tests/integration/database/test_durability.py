"""Durability of commits: rejected servers, and the settings of sessions."""

import os
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pulse_trio.database.durability import commit_settings
from pulse_trio.database.sessions import open_session, with_keepalives
from pulse_trio.errors import LaunchError
from tests.support.cluster import Cluster


@pytest.fixture
def lasting(own_cluster: Cluster) -> Cluster:
    """A cluster with durable commits."""
    change(own_cluster, fsync="on")
    return own_cluster


@pytest.fixture(autouse=True)
def no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGOPTIONS", raising=False)


def change(cluster: Cluster, **settings: str) -> None:
    """Restarts the cluster with these settings, on the command line, which takes precedence."""
    cluster.stop()
    cluster.server._options.update(settings)
    cluster.start()


def shown(conninfo: str, name: str) -> str:
    """Reads a setting in a session."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return str(row[0])


def durable(conninfo: str) -> dict[str, str]:
    """Returns the settings with which commits of a session are durable."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return commit_settings(connection)


def kept(conninfo: str, settings: dict[str, str], name: str) -> str:
    """Reads a setting in a session of the service."""
    with closing(open_session(with_keepalives(conninfo, settings))) as connection:
        row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return str(row[0])


def test_a_server_without_fsync_is_rejected_by_name(own_cluster: Cluster) -> None:
    with pytest.raises(LaunchError) as refused:
        durable(own_cluster.conninfo)
    message = str(refused.value)
    assert "its fsync is off" in message
    assert "full_page_writes" not in message
    assert "PULSE_ALLOW_LOSING_COMMITS" in message
    assert "\n" not in message


def test_a_server_without_full_page_writes_is_rejected(lasting: Cluster) -> None:
    change(lasting, full_page_writes="off")
    with pytest.raises(LaunchError, match="its full_page_writes is off"):
        durable(lasting.conninfo)
    change(lasting, fsync="off")
    with pytest.raises(LaunchError, match="its fsync and full_page_writes are off"):
        durable(lasting.conninfo)
    change(lasting, fsync="on", full_page_writes="on")
    durable(lasting.conninfo)


@pytest.fixture
def switch(lasting: Cluster) -> Iterator[psycopg.Connection]:
    """A session that changes defaults."""
    with psycopg.connect(lasting.conninfo, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize(
    ("default", "held"),
    [
        ("off", "on"),
        ("on", "on"),
        ("local", "local"),
        ("remote_write", "remote_write"),
        ("remote_apply", "remote_apply"),
    ],
)
@pytest.mark.parametrize("whose", ["DATABASE pulse", "ROLE pulse"])
def test_sessions_wait_for_the_disk_despite_defaults(
    lasting: Cluster, switch: psycopg.Connection, whose: str, default: str, held: str
) -> None:
    switch.execute(f"ALTER {whose} SET synchronous_commit = {default}")
    assert shown(lasting.conninfo, "synchronous_commit") == default
    settings = durable(lasting.conninfo)
    assert kept(lasting.conninfo, settings, "synchronous_commit") == held
    switch.execute(f"ALTER {whose} SET synchronous_commit = off")
    assert kept(lasting.conninfo, settings, "synchronous_commit") == held


@pytest.mark.parametrize("place", ["conninfo", "environment"])
def test_given_options_are_kept(lasting: Cluster, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    options = "-c work_mem=5MB -c synchronous_commit=off -c tcp_keepalives_idle=77"
    conninfo = lasting.conninfo
    if place == "conninfo":
        conninfo = make_conninfo(conninfo, options=options)
    else:
        monkeypatch.setitem(os.environ, "PGOPTIONS", options)
    settings = durable(conninfo)
    assert kept(conninfo, settings, "work_mem") == "5MB"
    assert kept(conninfo, settings, "synchronous_commit") == "on"
    sessions = with_keepalives(conninfo, settings)
    assert "tcp_keepalives_idle" not in sessions.settings
    assert sessions.settings["tcp_keepalives_interval"] == "2"
