"""Cursors of lists: only what may be a position of the list is followed."""

import base64
import hashlib

import pytest
from msgspec import UNSET

from pulse_trio.edge.rest.cursors import next_cursor, number_of, text_of
from pulse_trio.errors import PulseError

LIST = b"a list"


def forged(data: bytes) -> str:
    """Makes a cursor as anybody can: its checksum is right."""
    checksum = hashlib.blake2b(data, digest_size=8, key=LIST).digest()
    return base64.urlsafe_b64encode(data + checksum).rstrip(b"=").decode()


@pytest.mark.parametrize("position", [0, 1, 2**63 - 1, -1])
def test_a_number_comes_back(position: int) -> None:
    assert number_of(LIST, next_cursor(LIST, position) or "") == position


@pytest.mark.parametrize("position", ["a", "Łukasz", "x" * 200])
def test_a_text_comes_back(position: str) -> None:
    assert text_of(LIST, next_cursor(LIST, position) or "") == position


@pytest.mark.parametrize("data", [b"", b"\x00" * 7, b"\x01" * 9, b"\x7f" * 100, b"\x7f" * 700])
def test_a_number_of_another_length_is_refused(data: bytes) -> None:
    with pytest.raises(PulseError) as refused:
        number_of(LIST, forged(data))
    assert (refused.value.code.code, refused.value.field) == ("invalid_field", "cursor")


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a\0b", b"\xed\xa0\x80"])
def test_a_text_that_no_name_can_have_is_refused(data: bytes) -> None:
    with pytest.raises(PulseError) as refused:
        text_of(LIST, forged(data))
    assert (refused.value.code.code, refused.value.field) == ("invalid_field", "cursor")


@pytest.mark.parametrize("cursor", ["", "!", "AAAA", "A" * 1_000])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    for read in (number_of, text_of):
        with pytest.raises(PulseError):
            read(LIST, cursor)


def test_a_cursor_of_another_list_is_refused() -> None:
    with pytest.raises(PulseError):
        number_of(b"another", next_cursor(LIST, 5) or "")


def test_no_cursor_is_the_first_page() -> None:
    assert number_of(LIST, UNSET) is None
    assert text_of(LIST, UNSET) is None
    assert next_cursor(LIST, None) is None
