"""The value of `PULSE_BUS_URL`: `local`, `postgres`, or the address of a Redis.

    redis://user:password@host:6379?channel=chat
    rediss://host                                   over TLS
    redis+sentinel://user:password@host1:26379,host2:26379/name?sentinel_password=…
    redis+cluster://host1:6379,host2:6379           rediss+sentinel and rediss+cluster: over TLS

No error shows a part of the URL, which has a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote

from pulse_trio.authority import parse_authority

DEFAULT_PORT: Final = 6_379
DEFAULT_SENTINEL_PORT: Final = 26_379

Kind: TypeAlias = Literal["plain", "sentinel", "cluster"]

_URL: Final = re.compile(
    r"(?P<tls>redis|rediss)(?:\+(?P<kind>sentinel|cluster))?://"
    r"(?:(?P<user>[^:@/?#]*)(?::(?P<password>[^@/?#]*))?@)?"
    r"(?P<servers>[^@/?#]+)(?:/(?P<path>[^/?#]*))?(?:\?(?P<query>[^#]*))?"
)
_OPTIONS: Final = ("channel", "sentinel_password", "sentinel_user", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_CHANNEL: Final = re.compile(r"[A-Za-z0-9._:{}-]{1,128}", re.ASCII)


@dataclass(frozen=True)
class Credentials:
    """A user of Redis's ACL, and the password; an empty password: none. Its repr shows neither."""

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


@dataclass(frozen=True)
class RedisUrl:
    """A parsed URL.

    Attributes:
        kind: `plain`, or what finds the server: `sentinel`, `cluster`.
        servers: hosts, without brackets, and ports.
        is_tls: connect over TLS.
        credentials: for the server.
        sentinel_credentials: for the sentinels.
        primary: the name by which sentinels know the primary.
        channel: the channel; empty: the default.
        ca_file: certificates of authorities; empty: the system's.
        certificate_file: the certificate that is shown to the server; empty: none.
        key_file: its key; empty: in the same file.
    """

    kind: Kind
    servers: tuple[tuple[str, int], ...]
    is_tls: bool
    credentials: Credentials
    sentinel_credentials: Credentials
    primary: str
    channel: str
    ca_file: str
    certificate_file: str
    key_file: str


BusUrl: TypeAlias = Literal["local", "postgres"] | RedisUrl


def parse_bus_url(text: str) -> BusUrl:
    """Parses a value of `PULSE_BUS_URL`.

    Raises:
        ValueError: it is none; says what is wrong, and shows no part of it.
    """
    if text == "local":
        return "local"
    if text == "postgres":
        return "postgres"
    found = _URL.fullmatch(text)
    if found is None:
        raise ValueError(
            "it must be local, postgres, or a URL like redis://host:6379, rediss://user:password@host, "
            "redis+sentinel://host1,host2/name or redis+cluster://host1,host2, with / : @ ? # in a password as %2F "
            "and the like"
        )
    kinds: dict[str | None, Kind] = {None: "plain", "sentinel": "sentinel", "cluster": "cluster"}
    kind = kinds[found["kind"]]
    pairs = parse_qsl(found["query"] or "", keep_blank_values=True)
    options = dict(pairs)
    if len(options) != len(pairs) or any(name not in _OPTIONS for name in options):
        raise ValueError(f"its options, each at most once, are {', '.join(_OPTIONS)}")
    if options.get("channel") and not _CHANNEL.fullmatch(options["channel"]):
        raise ValueError("its channel must have 1 to 128 letters, digits and . _ : { } -")
    is_tls = found["tls"] == "rediss"
    if not is_tls and any(name.startswith("ssl_") for name in options):
        raise ValueError("its ssl_ options need rediss://")
    if options.get("ssl_keyfile") and not options.get("ssl_certfile"):
        raise ValueError("its ssl_keyfile needs ssl_certfile")
    if options.get("sentinel_user") and not options.get("sentinel_password"):
        raise ValueError("its sentinel_user needs sentinel_password")
    if kind != "sentinel" and any(name.startswith("sentinel_") for name in options):
        raise ValueError("its sentinel_ options need redis+sentinel://")
    path = unquote(found["path"] or "")
    if kind == "sentinel" and not path:
        raise ValueError("it must name the primary that the sentinels watch: redis+sentinel://host1,host2/name")
    if kind != "sentinel" and path and not path.isdecimal():
        raise ValueError("after its host there may be only the number of a database, which has no effect here")
    servers = _servers(found["servers"], DEFAULT_SENTINEL_PORT if kind == "sentinel" else DEFAULT_PORT)
    if kind == "plain" and len(servers) > 1:
        raise ValueError("it names several hosts: use redis+sentinel:// or redis+cluster://")
    user, password = unquote(found["user"] or ""), unquote(found["password"] or "")
    if user and not password:
        raise ValueError("it names a user without a password; write redis://:password@host for a password alone")
    return RedisUrl(
        kind=kind,
        servers=servers,
        is_tls=is_tls,
        credentials=Credentials(user, password),
        sentinel_credentials=Credentials(options.get("sentinel_user", ""), options.get("sentinel_password", "")),
        primary=path if kind == "sentinel" else "",
        channel=options.get("channel", ""),
        ca_file=options.get("ssl_ca_certs", ""),
        certificate_file=options.get("ssl_certfile", ""),
        key_file=options.get("ssl_keyfile", ""),
    )


def _servers(text: str, default_port: int) -> tuple[tuple[str, int], ...]:
    found = [parse_authority(part) for part in text.split(",")]
    servers = [(each.host.strip("[]"), each.port or default_port) for each in found if each is not None]
    if len(servers) != len(found):
        raise ValueError("each of its hosts must be like redis.example, redis.example:6379 or [2001:db8::1]:6379")
    return tuple(servers)
