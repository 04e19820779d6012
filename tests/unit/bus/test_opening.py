"""The engine that `PULSE_BUS_URL` chooses."""

from pathlib import Path
from uuid import UUID

import pytest
from pydantic import SecretStr

from pulse_trio.bus import make_bus
from pulse_trio.bus.local import LocalBus
from pulse_trio.bus.numbered import NumberedBus
from pulse_trio.bus.postgres import MAX_PAYLOAD_BYTES, PostgresTransport
from pulse_trio.bus.redis import RedisTransport
from pulse_trio.errors import LaunchError
from pulse_trio.settings import Settings

PUBLISHER = UUID(int=1)


def engine(url: str | None, *, is_alone: bool = True, service: str = "") -> object:
    settings = Settings(bus_url=None if url is None else SecretStr(url))
    bus = make_bus(settings, "host=/nowhere", PUBLISHER, is_alone=is_alone, service=service)
    assert bus.publisher == PUBLISHER
    return bus._transport if isinstance(bus, NumberedBus) else bus


def test_without_a_url_several_processes_use_postgres_and_one_none() -> None:
    assert isinstance(engine(None), LocalBus)
    assert isinstance(engine(None, is_alone=False), PostgresTransport)


def test_a_url_chooses_whatever_the_number_of_processes() -> None:
    assert isinstance(engine("local", is_alone=False), LocalBus)
    assert isinstance(engine("postgres"), PostgresTransport)
    assert isinstance(engine("redis+cluster://h"), RedisTransport)


@pytest.mark.parametrize(
    ("url", "service", "channel"),
    [
        ("redis://h", "", b"pulse_trio.bus"),
        ("redis://h", "7412.16384", b"pulse_trio.bus.7412.16384"),
        ("redis://h?channel=own", "7412.16384", b"own"),
    ],
)
def test_services_on_one_redis_have_channels_of_their_own(url: str, service: str, channel: bytes) -> None:
    transport = engine(url, service=service)
    assert isinstance(transport, RedisTransport)
    assert transport._channel == channel


def test_a_file_for_tls_that_cannot_be_used_is_a_launch_error(tmp_path: Path) -> None:
    empty = tmp_path / "hunter2.pem"
    empty.touch()
    for option in ("ssl_ca_certs", "ssl_certfile"):
        for path in (empty, tmp_path / "none.pem"):
            with pytest.raises(LaunchError, match="PULSE_BUS_URL") as caught:
                engine(f"rediss://user:hunter2@h?{option}={path}")
            assert "hunter2" not in str(caught.value)


def test_every_engine_takes_items_of_a_usual_message() -> None:
    """A message of 4,000 characters of ASCII as a frame; on all engines, so that callers need one path."""
    for url in ("local", "postgres", "redis://h"):
        bus = make_bus(Settings(bus_url=SecretStr(url)), "host=/nowhere", PUBLISHER, is_alone=True)
        assert bus.max_item_bytes > 7_000
    assert LocalBus(PUBLISHER).max_item_bytes < MAX_PAYLOAD_BYTES
