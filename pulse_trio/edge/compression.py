"""Compression of large answers (br, gzip), where the client asks for it and the length of the answer reveals nothing.

Compression makes an answer shorter when what an attacker wrote repeats a secret beside it (BREACH). So only files,
documents and those operations are compressed whose content is known to all who can write into it: a page of one
conversation's history, but not the list of conversations, and no answer with a token.

Brotli (RFC 7932) makes them about a sixth smaller than gzip does in the same time. Its package comes from the authors
of the format, is under the MIT licence, and depends on nothing.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import brotli
import trio
from quart import Request, Response

MIN_BYTES: Final = 512  # less fits in one packet anyway
THREAD_BYTES: Final = 32_768  # from here on it takes so long that it must not hold up the event loop

_GZIP_BITS: Final = 31  # zlib's number for the largest window, with gzip's header
_thread: Final = trio.CapacityLimiter(1)  # compression shall not take the processor from everything else


@dataclass(frozen=True, slots=True)
class Coding:
    """A content coding (RFC 9110, section 8.4.1). The same bytes give the same result.

    Attributes:
        name: its name in headers.
        fast: compresses an answer that is sent once.
        best: compresses what is sent often, smaller and slower.
    """

    name: str
    fast: Callable[[bytes], bytes]
    best: Callable[[bytes], bytes]


def _brotli(quality: int) -> Callable[[bytes], bytes]:
    def compress_bytes(data: bytes) -> bytes:
        return bytes(brotli.compress(data, quality=quality))

    return compress_bytes


def _gzip(level: int) -> Callable[[bytes], bytes]:
    def compress_bytes(data: bytes) -> bytes:
        compressor = zlib.compressobj(level, zlib.DEFLATED, _GZIP_BITS)
        return compressor.compress(data) + compressor.flush()

    return compress_bytes


BROTLI: Final = Coding("br", _brotli(4), _brotli(11))
GZIP: Final = Coding("gzip", _gzip(4), _gzip(9))


def chosen_coding(request: Request) -> Coding | None:
    """Returns the coding that the client likes best, br before gzip; None if it takes neither."""
    quality = request.accept_encodings.quality
    best = max((BROTLI, GZIP), key=lambda coding: quality(coding.name))  # the first of equals
    return best if quality(best.name) > 0 else None


async def compress_often_sent(data: bytes, coding: Coding) -> bytes:
    """Compresses what will be sent often, in a thread."""
    return await trio.to_thread.run_sync(coding.best, data, limiter=_thread)


async def compress(response: Response, request: Request) -> None:
    """Compresses the body of an answer, if it is large and the client takes it."""
    response.vary.add("Accept-Encoding")
    coding = chosen_coding(request)
    if (response.content_length or 0) < MIN_BYTES or response.status_code != 200 or coding is None:
        return
    data = await response.get_data(as_text=False)
    assert isinstance(data, bytes)
    if len(data) < THREAD_BYTES:
        response.set_data(coding.fast(data))
    else:
        response.set_data(await trio.to_thread.run_sync(coding.fast, data, limiter=_thread))
    response.headers["Content-Encoding"] = coding.name
