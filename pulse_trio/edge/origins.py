"""Web pages that may use the service: origins (RFC 6454), for CORS and for the WebSocket handshake alike."""

from urllib.parse import urlsplit


class Origins:
    """The allowed origins: the service's own, and those of `PULSE_ALLOWED_ORIGINS`, compared exactly."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._allowed = frozenset(allowed)

    def is_listed(self, origin: str) -> bool:
        """Returns whether this is an origin of `PULSE_ALLOWED_ORIGINS`."""
        return origin.lower() in self._allowed

    def allows(self, origin: str | None, host: str | None) -> bool:
        """Returns whether a request may come from a page of `origin`.

        Args:
            origin: the Origin header; None if the client is no browser.
            host: the Host header. The scheme is not compared, because a proxy may have ended TLS.
        """
        if origin is None or self.is_listed(origin):
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        is_plain = parts.scheme in {"http", "https"} and origin.lower() == f"{parts.scheme}://{parts.netloc.lower()}"
        return is_plain and host is not None and host != "" and parts.netloc.lower() == host.lower()
