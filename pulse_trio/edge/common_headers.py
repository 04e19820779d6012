"""The headers that every answer has, also one made before the application: security, request id, CORS."""

from typing import Final

from pulse_trio.edge.origins import Origins
from pulse_trio.edge.tracing import HEADER
from pulse_trio.settings import Settings

SECURITY: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
DEFAULTS: Final = {  # pages and files have their own
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers": f"Authorization, Content-Type, {HEADER}",
    "Access-Control-Max-Age": "600",
}


class CommonHeaders:
    """Makes the headers for one answer after another; `Vary: Origin` is among them, since CORS depends on it."""

    def __init__(self, settings: Settings) -> None:
        self._origins = Origins(settings)

    def make(self, origin: str | None, request_id: str, *, is_preflight: bool = False) -> dict[str, str]:
        """Returns the headers of an answer, without `DEFAULTS`.

        Args:
            origin: the request's `Origin`. CORS headers are added for listed origins only.
            request_id: the id of the request.
            is_preflight: the request asks which methods and headers a page may use (OPTIONS).
        """
        headers = {HEADER: request_id, **SECURITY, "Vary": "Origin"}
        if origin is not None and self._origins.is_listed(origin):
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = f"Retry-After, {HEADER}"
            if is_preflight:
                headers.update(_PREFLIGHT)
        return headers
