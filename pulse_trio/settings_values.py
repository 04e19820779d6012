"""Rules for values of settings that bounds cannot state: keys, tokens, origins, hosts, networks and the bus."""

import ipaddress
import os
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

from pulse_trio.authority import Authority, parse_authority, parse_origin
from pulse_trio.bus_url import parse_bus_url

# RFC 7518, section 3.2: a key is at least as long as its algorithm's hash.
MIN_SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
MIN_SECRET_VARIETY: Final = 8  # different characters
MIN_METRICS_TOKEN_CHARS: Final = 20

_PLACEHOLDERS: Final = (
    "secret",
    "secretkey",
    "changeme",
    "password",
    "yoursecretkey",
    "default",
    "test",
    "insecure",
)


def check_secret(secret: str, algorithm: str = "HS256") -> None:
    """Rejects a signing key that can be guessed.

    Raises:
        ValueError: it is shorter than the algorithm's hash, or a well-known placeholder; does not show it.
    """
    minimum = MIN_SECRET_BYTES[algorithm]
    try:
        size = len(secret.encode())
    except UnicodeEncodeError:  # its text would quote the key
        raise ValueError("SECRET_KEY must be text in UTF-8") from None
    if size < minimum:
        raise ValueError(
            f"SECRET_KEY is too short: {algorithm} needs at least {minimum} random bytes, "
            "for example from: openssl rand -base64 48"
        )
    letters = "".join(character for character in secret.lower() if character.isalnum())
    is_placeholder = letters != "" and any(letters.replace(word, "") == "" for word in _PLACEHOLDERS)
    if len(set(secret)) < MIN_SECRET_VARIETY or is_placeholder:
        raise ValueError(
            "SECRET_KEY is a placeholder or repeats itself: give random bytes, for example from: "
            "openssl rand -base64 48"
        )


def _check_metrics_token(token: SecretStr) -> SecretStr:
    text = token.get_secret_value()
    if len(text) < MIN_METRICS_TOKEN_CHARS or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(
            f"it must have at least {MIN_METRICS_TOKEN_CHARS} characters, printable ASCII without blanks, for "
            "example from: openssl rand -hex 24"
        )
    return token


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Returns them in the form in which they are compared."""
    parsed = [parse_origin(origin) for origin in origins]
    if any(origin.lower() == "null" for origin in origins):
        raise ValueError("`null` is allowed by PULSE_ALLOW_NULL_ORIGIN=true, not by this list")
    if any(origin is None or origin.scheme in {"ws", "wss"} for origin in parsed):
        raise ValueError("each must be like https://app.example or capacitor://localhost, with no path and no *")
    return tuple(str(origin) for origin in parsed)


def _check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    if any(parse_authority(host) is None for host in hosts):
        raise ValueError("each must be a host with or without a port, like chat.example or [2001:db8::1]:8000")
    return tuple(host.lower() for host in hosts)


def _check_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(str(ipaddress.ip_network(network)) for network in networks)
    except ValueError:
        raise ValueError("each must be an address or a network, like 192.0.2.7 or 10.0.0.0/8") from None


def _check_bind(bind: str) -> str:
    found = parse_authority(bind)
    if found is None or found.port is None:
        raise ValueError("it must be an address and a port, like 127.0.0.1:9464 or [::1]:9464")
    return bind


def _check_bus_url(url: SecretStr) -> SecretStr:
    parse_bus_url(url.get_secret_value())
    return url


def bind_address(bind: str) -> Authority:
    """Returns the host, without brackets, and the port of a checked address to listen on."""
    found = parse_authority(bind)
    assert found is not None
    return Authority(found.host.strip("[]"), found.port)


def _count_cores(value: object) -> object:
    """Returns the number of cores that this process may use for `auto`, and other values unchanged."""
    if not isinstance(value, str) or value.lower() != "auto":
        return value
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


BusUrlText = Annotated[SecretStr, AfterValidator(_check_bus_url)]
MetricsToken = Annotated[SecretStr, AfterValidator(_check_metrics_token)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_origins)]
Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_hosts)]
ProxyNetworks = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_networks)]
Bind = Annotated[str, AfterValidator(_check_bind)]
Workers = Annotated[int, BeforeValidator(_count_cores)]
