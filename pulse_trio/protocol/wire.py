"""Frames as bytes."""

from typing import Final, get_args

import msgspec

from pulse_trio.protocol.frames import ServerFrame

_encoder = msgspec.json.Encoder()
_KINDS: Final = {frame: str(frame.__struct_config__.tag) for frame in get_args(ServerFrame)}


class Encoded:
    """A frame ready for the wire: encoded once, sent to every member."""

    __slots__ = ("data", "kind", "wire")

    def __init__(self, data: bytes, kind: str = "") -> None:
        self.data = data
        self.kind = kind
        """The `type` of the frame."""
        self.wire = text_header(len(data)) + data
        """The whole WebSocket frame, as a server sends it."""

    @property
    def text(self) -> str:
        """The text of the WebSocket message."""
        return self.data.decode()

    @property
    def size(self) -> int:
        """Bytes of the message, without the WebSocket header."""
        return len(self.data)


def text_header(size: int) -> bytes:
    """What goes before a text message of so many bytes in one frame, unmasked (RFC 6455, section 5.2)."""
    if size <= 125:
        return bytes((0x81, size))
    if size <= 0xFFFF:
        return b"\x81\x7e" + size.to_bytes(2)
    return b"\x81\x7f" + size.to_bytes(8)


def encode(frame: ServerFrame) -> Encoded:
    """The frame as a WebSocket message."""
    return Encoded(_encoder.encode(frame), _KINDS[type(frame)])
