"""Host names under which the service answers (`PULSE_ALLOWED_HOSTS`)."""

from typing import Final

from pulse_trio.authority import Authority, parse_authority
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.settings import Settings

# Probes and Prometheus ask by address, and learn nothing that depends on a name.
ANY_HOST_PATHS: Final = frozenset({b"/healthz", b"/readyz", b"/metrics"})


class Hosts:
    """The allowed host names; all if none is set. One without a port is allowed with any."""

    def __init__(self, settings: Settings) -> None:
        self._allowed = frozenset(map(_parse, settings.allowed_hosts))

    def check(self, host: str | None, path: bytes) -> None:
        """Checks the host of a request.

        Args:
            host: the `Host` header, or the host in its target; None if it has neither, as HTTP/1.0 permits.
            path: its path.

        Raises:
            PulseError: it is no host (RFC 9112, section 3.2), or not an allowed one (RFC 9110, section 15.5.20).
        """
        found = _parse(host) if host else None
        if host and found is None:
            raise PulseError(ErrorCode.BAD_REQUEST, "`Host` is not a host name with or without a port")
        if not self._allowed or path in ANY_HOST_PATHS:
            return
        if found is None or not (found in self._allowed or found._replace(port=None) in self._allowed):
            raise PulseError(ErrorCode.MISDIRECTED)


def _parse(text: str) -> Authority | None:
    """Parses a host; a dot at the end of a name does not count."""
    found = parse_authority(text)
    return None if found is None else found._replace(host=found.host.removesuffix("."))
