"""Checks of the addresses that the service listens on: whether it can, or already does."""

import errno
import os
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypercorn.config import Config

from pulse_trio.hypercorn_file import DEFAULT_PORT

PROBE_TIMEOUT: Final = 2.0  # seconds
_UNIX: Final = "unix:"
_INHERITED: Final = "fd://"
_ALL: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # where a probe finds them


@dataclass(frozen=True, slots=True)
class Listened:
    """An address that is listened on.

    Attributes:
        host: a name or an address; None for a Unix socket.
        port: its port.
        path: of a Unix socket.
        is_tls: it speaks TLS.
    """

    host: str | None
    port: int = 0
    path: Path = Path()
    is_tls: bool = False

    def __str__(self) -> str:
        if self.host is None:
            return f"{_UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def listened(config: Config) -> list[Listened]:
    """Returns the addresses of a configuration; without those of sockets that the process inherits, which are open."""
    plain = config.insecure_bind if config.ssl_enabled else []
    found = [_parse(bind, is_tls=config.ssl_enabled) for bind in config.bind]
    found += [_parse(bind, is_tls=False) for bind in plain]
    return [address for address in found if address is not None]


def _parse(bind: str, *, is_tls: bool) -> Listened | None:
    """Reads an address as Hypercorn does."""
    if bind.startswith(_INHERITED):
        return None
    if bind.startswith(_UNIX):
        return Listened(None, path=Path(bind.removeprefix(_UNIX)), is_tls=is_tls)
    text = bind.replace("[", "").replace("]", "")
    host, colon, port = text.rpartition(":")
    if not (colon and port.isdecimal()):
        host, port = text, str(DEFAULT_PORT)
    return Listened(host, int(port), is_tls=is_tls)


def check(address: Listened) -> None:
    """Listens on an address for a moment.

    Raises:
        OSError: it is in use, not allowed, or not this machine's.
    """
    if address.host is None:
        _check_path(address.path)
        return
    found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, place = found[0]
    with socket.socket(family, kind, protocol) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
        sock.listen()


def _check_path(path: Path) -> None:
    """Raises OSError if no socket can be made at a path, or a program listens there; an old socket is replaced."""
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if path.exists() and not path.is_socket():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    try:
        _connect(Listened(None, path=path)).close()
    except OSError:
        return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def answers(address: Listened) -> bool:
    """Asks for /healthz, over TLS if the service speaks it there; True if it answers with 200."""
    try:
        with _connect(address) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return sock.recv(64).startswith(b"HTTP/1.1 200 ")
    except OSError:  # ssl.SSLError is one
        return False


def _connect(address: Listened) -> socket.socket:
    if address.host is None:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(PROBE_TIMEOUT)
            sock.connect(str(address.path))
        except BaseException:
            sock.close()
            raise
    else:
        host = _ALL.get(address.host, address.host)
        sock = socket.create_connection((host, address.port), timeout=PROBE_TIMEOUT)
    if not address.is_tls:
        return sock
    # It is this machine's own service, under a name that its certificate need not have.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        return context.wrap_socket(sock)
    except BaseException:
        sock.close()
        raise
