"""WebSocket frames from clients, cut out of the bytes of a connection (RFC 6455, section 5.2).

Nearly all of them are whole text messages in one frame, or pongs: these are read here, at a fraction of the cost of a
full parser. Everything else (other control frames, fragments, binary messages, frames that break a rule) is passed on
to the full parser, always at the border of a frame. No I/O.
"""

from typing import Final

_FIN_TEXT: Final = 0x81
_FIN: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_FIRST_CONTROL: Final = 8
_FIN_PONG: Final = 0x8A
_MAX_CONTROL_BYTES: Final = 125


class FrameSplitter:
    """Splits the bytes of one connection into frames.

    Args:
        max_bytes: longest payload that is kept; a longer one is passed on as it arrives.
    """

    __slots__ = ("_held", "_in_fragments", "_max_bytes", "_need", "_passes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = bytearray()  # the beginning of a frame; at most a header and `max_bytes`
        self._need = 2  # bytes of it that must be there to continue
        self._in_fragments = False
        self._passes = False

    @property
    def is_inside(self) -> bool:
        """True while a frame has begun and not ended."""
        return bool(self._held)

    def feed(self, data: bytes) -> list[str | bytes | None]:
        """Returns what the bytes complete, in order.

        A str is a whole text message, None a pong, bytes are frames for the full parser. After a frame that breaks a
        rule everything is for the parser.
        """
        if self._passes:
            return [data]
        if self._held:
            self._held += data
            if len(self._held) < self._need:
                return []
            data = bytes(self._held)
            self._held.clear()
        done: list[str | bytes | None] = []
        at, end = 0, len(data)
        self._need = 2
        while end - at >= 2:
            first, second = data[at], data[at + 1]
            size = second & 0x7F
            payload, shortest = at + 6, 0
            if size >= 126:
                header, shortest = (4, 126) if size == 126 else (10, 65_536)
                payload = at + header + 4
                if end - at < header:
                    self._need = header
                    break
                size = int.from_bytes(data[at + 2 : at + header])
            if not second & _MASKED or first & _RESERVED or not shortest <= size <= self._max_bytes:
                return self._pass(done, data[at:])
            if payload + size > end:
                self._need = payload + size - at
                break
            if first == _FIN_TEXT and not self._in_fragments:
                try:
                    done.append(_unmasked(data, payload, size).decode())
                except UnicodeDecodeError:
                    return self._pass(done, data[at:])
            elif first == _FIN_PONG and size <= _MAX_CONTROL_BYTES:
                done.append(None)
            else:
                if first & 0x0F < _FIRST_CONTROL:
                    self._in_fragments = not first & _FIN
                done.append(data[at : payload + size])
            at = payload + size
        if at < end:
            self._held += data[at:]
        return done

    def _pass(self, done: list[str | bytes | None], rest: bytes) -> list[str | bytes | None]:
        self._passes = True
        done.append(rest)
        return done


def _unmasked(data: bytes, start: int, size: int) -> bytes:
    """Returns the payload at `start`; its mask is the 4 bytes before it."""
    if not size:
        return b""
    mask = data[start - 4 : start] * (size // 4 + 1)
    return (int.from_bytes(data[start : start + size]) ^ int.from_bytes(mask[:size])).to_bytes(size)
