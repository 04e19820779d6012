"""The frame splitter finds the same messages as the full parser, however the bytes arrive."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Message, Ping, TextMessage

from pulse_trio.edge.server.frame_splitter import FrameSplitter

MAX_BYTES = 1_000


def masked(payload: bytes, first: int = 0x81, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    size = len(payload)
    if size < 126:
        header = bytes((first, 0x80 | size))
    elif size < 65_536:
        header = bytes((first, 0x80 | 126)) + size.to_bytes(2)
    else:
        header = bytes((first, 0x80 | 127)) + size.to_bytes(8)
    return header + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, 999, 1_000])
def test_a_text_in_one_frame(size: int) -> None:
    text = "ü" * (size // 2) + "x" * (size % 2)
    assert FrameSplitter(MAX_BYTES).feed(masked(text.encode())) == [text]


def test_a_text_with_a_64_bit_length() -> None:
    text = "x" * 70_000
    assert FrameSplitter(100_000).feed(masked(text.encode())) == [text]


def test_several_frames_and_a_rest() -> None:
    splitter = FrameSplitter(MAX_BYTES)
    last = masked(b"three")
    assert splitter.feed(masked(b"one") + masked(b"two") + last[:7]) == ["one", "two"]
    assert splitter.feed(last[7:]) == ["three"]


def test_byte_by_byte() -> None:
    splitter = FrameSplitter(MAX_BYTES)
    wire = masked(b"x" * 300) + masked(b"", 0x89) + masked(b"end")
    found = [item for byte in wire for item in splitter.feed(bytes((byte,)))]
    assert found == ["x" * 300, masked(b"", 0x89), "end"]


def test_other_frames_are_passed_on_whole() -> None:
    splitter = FrameSplitter(MAX_BYTES)
    ping, binary = masked(b"ping", 0x89), masked(b"\x00", 0x82)
    part, rest = masked(b"a", 0x01), masked(b"b", 0x80)
    assert splitter.feed(ping + binary + part + ping + rest + masked(b"c")) == [ping, binary, part, ping, rest, "c"]


@pytest.mark.parametrize(
    "wrong",
    [
        masked(b"x", 0xC1),
        b"\x81\x01x",
        masked(b"\xff"),
        masked(b"x" * 1_001),
        b"\x81\xff" + (1 << 40).to_bytes(8) + b"1234",
        b"\x81\xfe\x00\x01" + bytes(4) + b"x",
        b"\x81\xff" + (1_000).to_bytes(8) + bytes(4) + b"x" * 1_000,
    ],
    ids=["reserved bit", "not masked", "not UTF-8", "too long", "far too long", "long form", "longest form"],
)
def test_a_broken_rule_passes_everything_to_the_parser(wrong: bytes) -> None:
    splitter = FrameSplitter(MAX_BYTES)
    assert splitter.feed(masked(b"fine") + wrong) == ["fine", wrong]
    assert splitter.feed(b"and") == [b"and"]


def test_a_text_between_fragments_is_for_the_parser() -> None:
    """It breaks a rule (RFC 6455, section 5.4) that only the parser checks."""
    splitter = FrameSplitter(MAX_BYTES)
    part, text = masked(b"a", 0x01), masked(b"b")
    assert splitter.feed(part + text) == [part, text]


def test_at_most_one_frame_is_held() -> None:
    splitter = FrameSplitter(MAX_BYTES)
    frame = masked(b"x" * MAX_BYTES)
    for byte in frame[:-1]:
        assert splitter.feed(bytes((byte,))) == []
    assert len(splitter._held) == len(frame) - 1
    assert splitter.feed(frame[-1:]) == ["x" * MAX_BYTES]
    assert len(splitter._held) == 0


frames = st.one_of(
    st.text(max_size=200).map(lambda text: masked(text.encode(), 0x81)),
    st.binary(max_size=50).map(lambda data: masked(data, 0x82)),
    st.binary(max_size=20).map(lambda data: masked(data, 0x89)),
    st.lists(st.text(max_size=50), min_size=2, max_size=4).map(
        lambda parts: b"".join(
            masked(part.encode(), (0x01 if not place else 0x00) | (0x80 if place == len(parts) - 1 else 0))
            for place, part in enumerate(parts)
        )
    ),
)


class Parser:
    """The full parser."""

    def __init__(self) -> None:
        self._server = Connection(ConnectionType.SERVER)
        self.unfinished = ""

    def feed(self, piece: bytes) -> Iterator[object]:
        """Returns the texts and other frames that end in a piece."""
        self._server.receive_data(piece)
        for event in self._server.events():
            if isinstance(event, TextMessage):
                self.unfinished += event.data
                if event.message_finished:
                    yield self.unfinished
                    self.unfinished = ""
            elif isinstance(event, BytesMessage | Ping):
                yield type(event), bytes(event.data if isinstance(event, Message) else event.payload)


@given(st.lists(frames, max_size=8), st.integers(0, 2**32))
def test_the_splitter_agrees_with_the_full_parser(drawn: list[bytes], seed: int) -> None:
    wire, rand = b"".join(drawn), random.Random(seed)
    splitter, rest, parser = FrameSplitter(MAX_BYTES), Parser(), Parser()
    found: list[object] = []
    while wire:
        piece, wire = wire[: (cut := rand.randint(1, 60))], wire[cut:]
        for item in splitter.feed(piece):
            if isinstance(item, str):
                assert rest.unfinished == ""
                found.append(item)
            else:
                found += rest.feed(item)
    assert found == [item for piece in drawn for item in parser.feed(piece)]
