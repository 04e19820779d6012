"""Times in the answers of REST: the text of `rfc3339`, whoever writes it."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulse_trio.clock import rfc3339
from pulse_trio.edge.rest.operation import json_time

MOMENT = datetime(2026, 2, 4, 10, 30, 0, 123456, tzinfo=UTC)


@given(
    st.datetimes(
        datetime(1970, 1, 2),
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), ZoneInfo("UTC")]),
    )
)
def test_every_time_has_the_text_of_rfc_3339(moment: datetime) -> None:
    assert msgspec.json.encode(json_time(moment)) == f'"{rfc3339(moment)}"'.encode()


@pytest.mark.parametrize("microsecond", [0, 1, 100_000, 999_999])
def test_microseconds_are_always_written(microsecond: int) -> None:
    moment = MOMENT.replace(microsecond=microsecond)
    assert msgspec.json.encode(json_time(moment)) == f'"2026-02-04T10:30:00.{microsecond:06}Z"'.encode()
