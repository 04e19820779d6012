"""Hosts, ports and origins as `Host`, `Origin` and settings write them (RFC 3986, section 3.2; RFC 6454)."""

import ipaddress
import re
from typing import Final, NamedTuple

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_AUTHORITY: Final = re.compile(r"([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{0,5}))?", re.ASCII)
_ORIGIN: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,63})://(.+)", re.ASCII)
_MAX_PORT: Final = 65_535
_MAX_LABEL: Final = 63  # characters of a part of a name (RFC 1035, section 2.3.4)


class Authority(NamedTuple):
    """A host in lower case, an IPv6 address in brackets and its shortest form; and its port, if one is named."""

    host: str
    port: int | None


class Origin(NamedTuple):
    """The scheme in lower case, the host, and the port, which is None for the scheme's default."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}" + ("" if self.port is None else f":{self.port}")


def parse_authority(text: str) -> Authority | None:
    """Parses `host` or `host:port`; returns None for anything else, user names included."""
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    host, port = found[1].lower(), int(found[2]) if found[2] else None
    if port is not None and port > _MAX_PORT:
        return None
    if not host.startswith("["):
        # A longer part, or an empty one but for the root's, is no name; frameworks fail when they encode it (IDNA).
        if not all(0 < len(label) <= _MAX_LABEL for label in host.removesuffix(".").split(".")):
            return None
    else:
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            return None
    return Authority(host, port)


def parse_origin(text: str) -> Origin | None:
    """Parses `scheme://host` or `scheme://host:port`; returns None for anything else, `null` included."""
    found = _ORIGIN.fullmatch(text)
    authority = None if found is None else parse_authority(found[2])
    if found is None or authority is None:
        return None
    scheme = found[1].lower()
    return Origin(scheme, authority.host, None if authority.port == DEFAULT_PORTS.get(scheme) else authority.port)
