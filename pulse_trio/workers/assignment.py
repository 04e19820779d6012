"""The assignment of a worker: what its supervisor gives it, as JSON on its standard input.

Not in arguments or the environment, which other accounts and later processes may read: it holds the private key of the
certificate, which the worker's account need not be able to read.
"""

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from hypercorn.config import Config

from pulse_trio.errors import LaunchError
from pulse_trio.hypercorn_file import make_config

_FILES: Final = (
    "certfile",
    "keyfile",
    "ca_certs",
)  # of Hypercorn's settings; often root alone can read them


@dataclass(frozen=True)
class Http:
    """Hypercorn's settings, with the contents of the certificate's files.

    Attributes:
        values: the settings by name, checked.
        files: the contents of the files that `certfile`, `keyfile` and `ca_certs` name, by setting.
    """

    values: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, values: dict[str, Any]) -> Self:
        """Reads the files that the settings name.

        Raises:
            LaunchError: one cannot be read.
        """
        files = {}
        for name in _FILES:
            if values.get(name) is not None:
                try:
                    files[name] = Path(values[name]).read_text("latin-1")
                except OSError as error:
                    raise LaunchError(f"{Path(values[name]).absolute()} cannot be read: {error.strerror}") from None
        return cls(values, files)

    def config(self) -> Config:
        """Makes the configuration; it reads the contents of the files from memory."""
        config = make_config({name: value for name, value in self.values.items() if name not in _BINDS})
        for name, text in self.files.items():
            setattr(config, name, f"/dev/fd/{hold(text.encode('latin-1'))}")
        return config


_BINDS: Final = ("bind", "insecure_bind", "quic_bind")  # the supervisor has bound them


@dataclass(frozen=True)
class Assignment:
    """All that a worker is given. Descriptors are numbers of open files that it inherits.

    Attributes:
        slot: the number of the worker, from 0; its successors have the same.
        workers: the number of slots.
        settings: settings that win over the environment, by field name.
        share: the connections to the database that it may open: for messages, and for everything else (main).
        http: Hypercorn's settings.
        secure: descriptors of sockets that listen for TLS, and `insecure` of the others.
        metrics: descriptor of the socket of `PULSE_METRICS_BIND`, if there is one.
        table: descriptor of the table of connections, which has `cells` cells; `cell` is the worker's own.
        ready: descriptor of the pipe to the supervisor; see `READY` and `BEAT`.
        owner: the beginning of the ids of its leases.
        ended: those of workers that have ended, whose leases it ends.
        siblings: folder of the private sockets for metrics; `asked` is the descriptor of the worker's own.
    """

    slot: int
    workers: int
    settings: dict[str, Any]
    share: dict[str, int]
    http: Http
    secure: list[int]
    insecure: list[int]
    metrics: int | None
    table: int
    cells: int
    cell: int
    ready: int
    siblings: str
    asked: int
    owner: str
    ended: list[str]

    @property
    def descriptors(self) -> list[int]:
        """All descriptors that the worker inherits."""
        optional = [] if self.metrics is None else [self.metrics]
        return [*self.secure, *self.insecure, *optional, self.table, self.ready, self.asked]

    def encode(self) -> bytes:
        """Returns it as JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Reads it from JSON."""
        found = json.loads(data)
        return cls(**{**found, "http": Http(**found["http"])})


READY: Final = b"r"  # the worker accepts connections
BEAT: Final = b"."  # its event loop runs


def hold(data: bytes) -> int:
    """Returns the descriptor, at its beginning, of a file with this content: in memory, or without a name."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pulse-trio")
    else:  # macOS
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
