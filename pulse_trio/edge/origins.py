"""Web pages that may use the service: origins (RFC 6454), for CORS and for the WebSocket handshake alike."""

from typing import Final

from pulse_trio.authority import DEFAULT_PORTS, parse_authority, parse_origin
from pulse_trio.settings import Settings

NULL: Final = "null"  # of pages without an origin: sandboxed frames, files


class Origins:
    """The allowed origins: the service's own, and those of the settings.

    They are compared as scheme, host and port; a missing port is the scheme's default (RFC 6454, section 4).
    """

    def __init__(self, settings: Settings) -> None:
        self._allowed = frozenset(settings.allowed_origins)
        self._allows_null = settings.allow_null_origin

    def is_listed(self, origin: str) -> bool:
        """Returns whether this is an origin of `PULSE_ALLOWED_ORIGINS`, or `null` and allowed."""
        if origin == NULL:
            return self._allows_null
        parsed = parse_origin(origin)
        return parsed is not None and str(parsed) in self._allowed

    def allows(self, origin: str | None, host: str | None) -> bool:
        """Returns whether a request may come from a page of `origin`.

        Args:
            origin: the Origin header; None if the client is no browser.
            host: the Host header. The scheme is not compared, because a proxy may have ended TLS; without a port it
                has the default one of the origin's scheme. A dot at the end of a name does not count: DNS takes both
                for the same host.
        """
        if origin is None or self.is_listed(origin):
            return True
        page, own = parse_origin(origin), parse_authority(host or "")
        if page is None or own is None or page.scheme not in DEFAULT_PORTS:
            return False
        default = DEFAULT_PORTS[page.scheme]
        return (page.host.removesuffix("."), page.port or default) == (own.host.removesuffix("."), own.port or default)
