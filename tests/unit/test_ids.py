"""Identifiers: strictly increasing UUIDs of version 7, whatever the clock does."""

import itertools
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulse_trio.clock import rfc3339, utc_now
from pulse_trio.ids import IdSource, parse_uuid

START = datetime(2026, 2, 4, 10, 30, 0, 123_456, UTC)


def ticking(*milliseconds: int) -> Callable[[], datetime]:
    moments = iter([START + timedelta(milliseconds=offset) for offset in milliseconds])
    return lambda: next(moments)


def always(byte: int) -> Callable[[int], bytes]:
    return lambda count: bytes([byte]) * count


def assert_rising(ids: Iterable[UUID]) -> None:
    ids = list(ids)
    assert all(a < b for a, b in itertools.pairwise(ids))
    assert [str(i) for i in ids] == sorted(str(i) for i in ids)


def test_an_id_is_a_uuid_of_version_7() -> None:
    made = IdSource(lambda: START)()
    assert made.version == 7
    assert made.variant == RFC_4122
    assert made.int >> 80 == int(START.timestamp() * 1000)


def test_ids_rise_within_one_millisecond() -> None:
    make = IdSource(lambda: START)
    assert_rising(make() for _ in range(10_000))


def test_ids_rise_when_the_clock_steps_back() -> None:
    make = IdSource(ticking(0, 1, -3_600_000, -5, 2, 1, 3))
    assert_rising(make() for _ in range(7))


@given(st.lists(st.integers(-5_000, 5_000), min_size=2, max_size=50), st.integers(0, 255))
def test_ids_rise_with_any_clock_and_randomness(offsets: list[int], byte: int) -> None:
    make = IdSource(ticking(*offsets), always(byte))
    made = [make() for _ in offsets]
    assert_rising(made)
    assert {(i.version, i.variant) for i in made} == {(7, RFC_4122)}


def test_a_full_millisecond_borrows_the_next_one() -> None:
    make = IdSource(lambda: START, always(0xFF))
    first = make()
    make._random = (1 << 74) - 2  # it takes 2**41 ids in one millisecond to get here
    second = make()
    assert second.int >> 80 == (first.int >> 80) + 1
    assert second.version == 7
    assert_rising([first, second, make(), make()])


def test_randomness_leaves_room_to_rise() -> None:
    make = IdSource(lambda: START, always(0xFF))
    first = make()
    assert first.int >> 64 & 0xFFF == 0x7FF  # rand_a with its top bit free
    assert_rising([first, make()])


def test_two_sources_make_different_ids() -> None:
    one, other = IdSource(lambda: START), IdSource(lambda: START)
    assert not {one() for _ in range(1_000)} & {other() for _ in range(1_000)}


def test_a_canonical_uuid_is_parsed_in_any_case() -> None:
    made = IdSource()()
    assert parse_uuid(str(made)) == made
    assert parse_uuid(str(made).upper()) == made


@pytest.mark.parametrize(
    "text",
    [
        "",
        "conv-123",
        "0198c5b6f8a37c1e9d2e4b5a6c7d8e9f",
        "{0198c5b6-f8a3-7c1e-9d2e-4b5a6c7d8e9f}",
        "urn:uuid:0198c5b6-f8a3-7c1e-9d2e-4b5a6c7d8e9f",
        "0198c5b6-f8a3-7c1e-9d2e-4b5a6c7d8e9g",
        "0198c5b6f8a37c1e9d2e4b5a6c7d8e9f----",
        "0198c5b6f8a3-7c1e-9d2e-4b5a6c7d8e-9f",
        "{{0198c5b6f8a37c1e9d2e4b5a6c7d8e9f}}",
        "0_98c5b6-f8a3-7c1e-9d2e-4b5a6c7d8e9f",
        "+198c5b6-f8a3-7c1e-9d2e-4b5a6c7d8e9f",
        " 198c5b6-f8a3-7c1e-9d2e-4b5a6c7d8e9f",
        "0198c5b6-f8a3-7c1e-9d2e-4b5a6c7d8e9\n",
        "\uff10198c5b6-f8a3-7c1e-9d2e-4b5a6c7d8e9f",  # a full-width zero
        "\x00" * 36,
        "\ud800" * 36,
    ],
)
def test_other_forms_are_rejected(text: str) -> None:
    assert parse_uuid(text) is None


@given(st.text(alphabet="0123456789abcdefABCDEF-_{} +\n\uff11", min_size=34, max_size=38) | st.text())
def test_a_parsed_uuid_formats_to_the_same_text(text: str) -> None:
    found = parse_uuid(text)
    assert found is None or str(found) == text.lower()


def test_times_are_formatted_in_utc_with_microseconds() -> None:
    assert rfc3339(START) == "2026-02-04T10:30:00.123456Z"
    assert rfc3339(START.replace(microsecond=0)) == "2026-02-04T10:30:00.000000Z"
    elsewhere = datetime.fromisoformat("2026-02-04T19:30:00.123456+09:00")
    assert rfc3339(elsewhere) == "2026-02-04T10:30:00.123456Z"
    assert utc_now().tzinfo is UTC
