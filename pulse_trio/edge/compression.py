"""Compression of large answers (gzip), where the client asks for it and the length of the answer reveals nothing.

Compression makes an answer shorter when what an attacker wrote repeats a secret beside it (BREACH). So only files,
documents and those operations are compressed whose content is known to all who can write into it: a page of one
conversation's history, but not the list of conversations, and no answer with a token.
"""

import zlib
from typing import Final

import trio
from quart import Request, Response

MIN_BYTES: Final = 512  # less fits in one packet anyway
LEVEL: Final = 4
BEST_LEVEL: Final = 9  # for what is compressed once
THREAD_BYTES: Final = 32_768  # from here on it takes so long that it must not hold up the event loop
ENCODING: Final = "gzip"

_GZIP_BITS: Final = 31  # zlib's number for the largest window, with gzip's header
_thread: Final = trio.CapacityLimiter(1)  # compression shall not take the processor from everything else


def accepts_gzip(request: Request) -> bool:
    """Returns whether the client takes gzip (RFC 9110, section 12.5.3)."""
    return request.accept_encodings.quality(ENCODING) > 0


def gzip(data: bytes, level: int = BEST_LEVEL) -> bytes:
    """Compresses; the same bytes give the same result."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, _GZIP_BITS)
    return compressor.compress(data) + compressor.flush()


async def compress(response: Response, request: Request) -> None:
    """Compresses the body of an answer, if it is large and the client takes it."""
    response.vary.add("Accept-Encoding")
    if (response.content_length or 0) < MIN_BYTES or response.status_code != 200 or not accepts_gzip(request):
        return
    data = await response.get_data(as_text=False)
    assert isinstance(data, bytes)
    if len(data) < THREAD_BYTES:
        response.set_data(gzip(data, LEVEL))
    else:
        response.set_data(await trio.to_thread.run_sync(gzip, data, LEVEL, limiter=_thread))
    response.headers["Content-Encoding"] = ENCODING
