"""Bytes of a terminal as presses of keys, however they are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulse_trio.terminal.keys import MAX_PASTE_BYTES, Key, KeyReader, Pasted, Press, Typed

STREAM = (
    "hé\x1b[D\x1b[1;5C\x1bOH日\x1b[200~two\r\nlines\x1b[31m\x03\x1b[201~\x7f\x1b\r\x1b[3~\x1bb\x01\x04\x1b[99;99uend\r"
).encode()
PRESSES = [
    Typed("hé"),
    Key.LEFT,
    Key.WORD_RIGHT,
    Key.HOME,
    Typed("日"),
    Pasted("two\nlines[31m"),
    Key.BACKSPACE,
    Key.NEW_LINE,
    Key.DELETE,
    Key.WORD_LEFT,
    Key.HOME,
    Key.END_OF_INPUT,
    Typed("end"),
    Key.ENTER,
]


def joined(presses: list[Press]) -> list[Press]:
    """Characters that came apart are put together."""
    found: list[Press] = []
    for press in presses:
        if isinstance(press, Typed) and found and isinstance(found[-1], Typed):
            found[-1] = Typed(found[-1].text + press.text)
        else:
            found.append(press)
    return found


def test_a_stream_of_keys() -> None:
    assert KeyReader().feed(STREAM) == PRESSES


@given(st.lists(st.integers(0, len(STREAM))))
def test_it_does_not_matter_where_the_stream_is_cut(cuts: list[int]) -> None:
    reader = KeyReader()
    places = [0, *sorted(cuts), len(STREAM)]
    presses = [p for a, b in pairwise(places) for p in reader.feed(STREAM[a:b])]
    assert joined(presses) == PRESSES


def test_the_escape_key_alone_means_nothing() -> None:
    reader = KeyReader()
    assert reader.feed(b"\x1b") == []
    assert reader.is_waiting
    reader.flush()
    assert reader.feed(b"f") == [Typed("f")]


@given(st.binary())
def test_no_bytes_harm_it(data: bytes) -> None:
    reader = KeyReader()
    for press in [*reader.feed(data), *reader.feed(b"\x1b[201~x\x1b")]:
        text = press.text if isinstance(press, Typed | Pasted) else ""
        assert not any(c != "\n" and (c < " " or "\x7f" <= c <= "\x9f") for c in text)


def test_a_paste_without_an_end_is_bounded() -> None:
    reader = KeyReader()
    reader.feed(b"\x1b[200~")
    for _ in range(10):
        reader.feed(b"x" * MAX_PASTE_BYTES)
    (paste,) = reader.feed(b"\x1b[201~")
    assert isinstance(paste, Pasted)
    assert len(paste.text) == MAX_PASTE_BYTES


@pytest.mark.parametrize("cut", [b"\xe6", b"\xe6\x97"])
def test_a_character_may_come_in_two_pieces(cut: bytes) -> None:
    reader = KeyReader()
    assert reader.feed(cut) == []
    assert reader.feed("日".encode()[len(cut) :]) == [Typed("日")]
