"""The rights of this process: its account, and the core dumps that the system may write of it."""

import os
import pwd
from pathlib import Path

import structlog

from pulse_trio.errors import LaunchError


def disable_core_dumps() -> None:
    """Keeps the system from writing the memory of this process, and of those that it starts, to a file.

    It holds the signing key and messages. The hard limit stays, so that `prlimit --core` can allow a dump.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def is_root() -> bool:
    """Returns whether this process has the rights of root."""
    return os.geteuid() == 0


def become(name: str) -> None:
    """Gives up root's rights for those of an account, for good; changes nothing if this process already has them.

    `HOME` and the account's names in the environment become the account's, too.

    Raises:
        LaunchError: there is no such account, it is root, or this process may not change its own.
    """
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise LaunchError(f"there is no account {name}: add it (useradd --system {name}), or name another") from None
    if account.pw_uid == 0:
        raise LaunchError(f"the account {name} is root's: name one without its rights")
    if (os.getuid(), os.geteuid()) == (account.pw_uid, account.pw_uid):
        return
    try:
        os.initgroups(name, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    except PermissionError:
        raise LaunchError(f"only root can run the service as {name}: start it as root, or as {name}") from None
    # What is imported later must be readable, too: an installation in root's home is not.
    for path in (Path(__file__), Path(os.__file__), Path(structlog.__file__)):
        if not os.access(path, os.R_OK):
            raise LaunchError(
                f"the account {name} cannot read {path}: install Python and pulse-trio where it can, such as /opt"
            )
    os.environ.update(HOME=account.pw_dir, USER=name, LOGNAME=name)
    for variable in ("XDG_DATA_HOME", "XDG_RUNTIME_DIR"):
        os.environ.pop(variable, None)
