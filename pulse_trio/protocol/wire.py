"""Frames as bytes.

The one WebSocket detail of the protocol stands here on purpose: a frame goes to all members of a conversation as the
same bytes, so the header of RFC 6455 is made once with it and not once a connection. Another transport would use
`Encoded.data`.
"""

from typing import Final, get_args

import msgspec

from pulse_trio.protocol.frames import ServerFrame

_encoder: Final = msgspec.json.Encoder()
_TAGS: Final = {frame: str(frame.__struct_config__.tag) for frame in get_args(ServerFrame)}


class Encoded:
    """A frame as bytes: encoded once, sent to every member.

    Attributes:
        data: the text of the WebSocket message, in UTF-8.
        kind: the `type` of the frame.
        wire: the whole WebSocket frame, as a server sends it.
    """

    __slots__ = ("data", "kind", "wire")

    def __init__(self, data: bytes, kind: str = "") -> None:
        self.data = data
        self.kind = kind
        self.wire = text_header(len(data)) + data

    @property
    def text(self) -> str:
        """The text of the WebSocket message."""
        return self.data.decode()

    @property
    def size(self) -> int:
        """Bytes of the message, without the WebSocket header."""
        return len(self.data)


def text_header(size: int) -> bytes:
    """Returns the header of an unfragmented, unmasked text frame of `size` bytes (RFC 6455, section 5.2)."""
    if size <= 125:
        return bytes((0x81, size))
    if size <= 0xFFFF:
        return b"\x81\x7e" + size.to_bytes(2)
    return b"\x81\x7f" + size.to_bytes(8)


def encode(frame: ServerFrame) -> Encoded:
    """Encodes a frame as a WebSocket message."""
    return Encoded(_encoder.encode(frame), _TAGS[type(frame)])
