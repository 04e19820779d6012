"""Which web pages may use the service: RFC 6454's origins, for CORS and for the WebSocket's Origin alike."""

from urllib.parse import urlsplit


class Origins:
    """The page's own origin is allowed, and those of `PULSE_ALLOWED_ORIGINS`, compared exactly."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._allowed = frozenset(allowed)

    def is_listed(self, origin: str) -> bool:
        """Whether this is one of the further origins of the settings."""
        return origin.lower() in self._allowed

    def allows(self, origin: str | None, host: str | None) -> bool:
        """Whether a request may come from a page of `origin`.

        Args:
            origin: the Origin header; None means that no browser sent this.
            host: the Host header. The scheme is not compared: a proxy may have ended TLS.
        """
        if origin is None or self.is_listed(origin):
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        is_plain = parts.scheme in {"http", "https"} and origin.lower() == f"{parts.scheme}://{parts.netloc.lower()}"
        return is_plain and host is not None and host != "" and parts.netloc.lower() == host.lower()
