"""Sessions with another machine are encrypted and checked, or the start and the doctor say what is missing."""

from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from pulse_trio.database.encryption import encryption_problem
from tests.support.cluster import Cluster


def session(*, is_encrypted: bool, **params: str) -> psycopg.Connection:
    """A session as psycopg shows one: there is no other machine in a test."""
    info = SimpleNamespace(get_parameters=lambda: params)
    return cast("Any", SimpleNamespace(info=info, pgconn=SimpleNamespace(ssl_in_use=is_encrypted)))


@pytest.mark.parametrize(
    ("params", "is_encrypted", "problem"),
    [
        ({"host": "db.example"}, False, "db.example are not encrypted (sslmode=prefer)"),
        ({"host": "db.example", "sslmode": "disable"}, False, "not encrypted (sslmode=disable)"),
        ({"host": "db.example"}, True, "certificate of db.example is not checked (sslmode=prefer)"),
        ({"host": "db.example", "sslmode": "require"}, True, "not checked (sslmode=require)"),
        ({"host": "db.example", "sslmode": "verify-ca"}, True, "name in the certificate of db.example"),
        ({"host": "db.example", "sslmode": "verify-full"}, True, None),
        ({"hostaddr": "192.0.2.1", "host": "localhost"}, False, "192.0.2.1 are not encrypted"),
        ({"host": "2001:db8::1"}, False, "2001:db8::1"),
        ({"host": "127.0.0.1,b.example"}, False, "with b.example are not encrypted"),  # a host for the failover
        ({"host": "/run/postgresql"}, False, None),
        ({"host": "127.0.0.2,::1,localhost"}, False, None),
        ({}, False, None),
    ],
)
def test_what_is_missing_is_named(params: dict[str, str], is_encrypted: bool, problem: str | None) -> None:
    found = encryption_problem(session(is_encrypted=is_encrypted, **params))
    assert found is None if problem is None else found is not None and problem in found


def test_parameters_from_the_environment_count(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(cluster.conninfo) as connection:
        assert encryption_problem(connection) is None
        assert connection.info.get_parameters()["host"] == cluster.socket_folder
    monkeypatch.setenv("PGHOST", cluster.socket_folder)
    monkeypatch.setenv("PGSSLMODE", "allow")
    with psycopg.connect("port=5432 user=pulse dbname=postgres") as connection:
        found = connection.info.get_parameters()
        assert (found["host"], found["sslmode"]) == (cluster.socket_folder, "allow")
