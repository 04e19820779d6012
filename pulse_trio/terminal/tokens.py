"""Stores tokens between runs, in one file that only its owner can read."""

import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pulse_trio.terminal.exits import Exit, Stop


@dataclass(frozen=True, slots=True)
class Kept:
    """A stored token and its user."""

    username: str
    token: str


def token_file() -> Path:
    """Returns the path of the file: in XDG_CONFIG_HOME if set, else in `~/.config`."""
    folder = os.environ.get("XDG_CONFIG_HOME") or ""
    base = Path(folder) if Path(folder).is_absolute() else Path.home() / ".config"
    return base / "pulse-trio" / "tokens.json"


def load(server: str) -> Kept | None:
    """Returns the stored token for this server, or None.

    Raises:
        Stop: others can read the file, or it is not a file of tokens.
    """
    entry = _read().get(server)
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        return None
    return Kept(str(entry.get("username", "")), entry["token"])


def keep(server: str, kept: Kept | None) -> None:
    """Stores a token for this server; None removes it.

    Raises:
        Stop: the file cannot be written.
    """
    with _locked():
        _replace(server, kept)


def keep_next(server: str, last: Kept, following: Kept) -> bool:
    """Replaces the stored token `last` by its renewal; returns False if another one is stored by now.

    In that case the user has signed out or in again, or another program has renewed it first.

    Raises:
        Stop: the file cannot be written.
    """
    with _locked():
        if load(server) != last:
            return False
        _replace(server, following)
    return True


@contextmanager
def _locked() -> Iterator[None]:
    """Locks the tokens for one program at a time. The lock is a file of its own, because the other one is replaced."""
    path = token_file().with_name("tokens.lock")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
    except OSError as error:
        raise Stop(Exit.FAILED, f"{path} cannot be locked: {error.strerror}") from None
    try:
        yield
    finally:
        os.close(fd)


def _replace(server: str, kept: Kept | None) -> None:
    """Replaces the file atomically."""
    entries = _read()
    entries.pop(server, None)
    if kept is not None:
        entries[server] = {"username": kept.username, "token": kept.token}
    path = token_file().resolve()  # of a link the file behind it is replaced, not the link
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(fd, "w") as file:
                json.dump(entries, file)
            os.replace(new, path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Stop(Exit.FAILED, f"{path} cannot be written: {error.strerror}") from None


def _read() -> dict[str, object]:
    path = token_file()
    try:
        with path.open() as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise Stop(Exit.FAILED, f"{path} holds tokens, and others can read it: chmod 600 {path}")
            entries = json.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Stop(Exit.FAILED, f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        entries = None
    if not isinstance(entries, dict):
        raise Stop(Exit.FAILED, f"{path} is not a file of tokens; remove it and sign in again")
    return entries
