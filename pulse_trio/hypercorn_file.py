"""Hypercorn's configuration for `pulse-trio serve`: the packaged hypercorn.toml, overridden by the operator's file."""

import logging
import tomllib
from pathlib import Path
from typing import Any, Final

import structlog
from hypercorn.config import Config

from pulse_trio.errors import LaunchError
from pulse_trio.settings_errors import closest_names

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8000
_HERE: Final = "hypercorn.toml"
_WITHOUT_EFFECT: Final = {"loglevel", "pid_path", "use_reloader"}  # of Hypercorn's own command

log = structlog.get_logger(__name__)


def read_config(file: Path | None, host: str | None, port: int | None) -> Config:
    """Reads the packaged hypercorn.toml and, over it, the settings of a file.

    Without a host and a port the service listens where the file says.

    Args:
        file: a file with some of Hypercorn's settings; None for none.
        host: address to listen on; None: see above.
        port: port to listen on; None: see above.

    Raises:
        LaunchError: a file cannot be read, a setting in it is wrong, or its certificate cannot be read.
    """
    values = read_values(file)
    config = make_config(values)
    if host is not None or port is not None:
        host, port = DEFAULT_HOST if host is None else host, DEFAULT_PORT if port is None else port
        config.bind = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}"]
    _check_certificate(packaged_file() if file is None else file, config)
    return config


def read_values(file: Path | None) -> dict[str, Any]:
    """Reads the packaged hypercorn.toml and, over it, the settings of a file; returns them by name.

    Raises:
        LaunchError: a file cannot be read, or a setting in it is wrong.
    """
    values = _read(packaged_file())
    if file is not None:
        own = _read(file)
        _check(file, own)
        values |= own
    return values


def make_config(values: dict[str, Any]) -> Config:
    """Makes the configuration of `pulse-trio serve` of checked settings."""
    config = Config.from_mapping(values)
    config.loglevel = "WARNING"  # the service's own lines say more
    if config.accesslog == "-":
        config.accesslog = logging.getLogger("hypercorn.access")  # into our log, in its format
    return config


def warn_of_unused(file: Path | None) -> None:
    """Logs which settings of a file have no effect, and that a hypercorn.toml in the current folder is not read."""
    here = Path(_HERE)
    if file is None:
        if here.is_file() and not here.samefile(packaged_file()):
            log.warning("hypercorn.toml of this folder is not used", use=f"--config {_HERE}")
        return
    values = _read(file)
    unused = sorted(values.keys() & _WITHOUT_EFFECT)
    unused += ["worker_class"] * (values.get("worker_class", "trio") != "trio")
    unused += ["workers"] * (values.get("workers", 0) > 1)
    if unused:
        advice = "PULSE_WORKERS and serve --workers set the number of processes, which run on Trio"
        log.warning("settings without effect", file=str(file), settings=unused, advice=advice)


def packaged_file() -> Path:
    """Returns the path of the hypercorn.toml that is part of this installation.

    Raises:
        LaunchError: it is missing.
    """
    package = Path(__file__).resolve().parent
    paths = (package.parent / _HERE, package / f"_{_HERE}")  # a checkout, an installed wheel
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise LaunchError("hypercorn.toml is missing from this installation; install pulse-trio again")
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise LaunchError(f"the configuration file {file} cannot be read: {error.strerror}") from None
    except ValueError as error:  # TOML or its encoding
        raise LaunchError(f"the configuration file {file} is not valid TOML: {error}") from None


def _check(file: Path, values: dict[str, Any]) -> None:
    """Checks names and types, which Hypercorn does not: a misspelled `certfile` would mean no TLS.

    Raises:
        LaunchError: names the setting.
    """
    known = _known_settings()
    for name, closest in closest_names(values, known).items():
        meant = f"; did you mean {closest}?" if closest else ""
        raise LaunchError(f"{file}: Hypercorn has no setting {name}{meant}")
    for name, value in values.items():
        types = known[name]
        if types and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
            kinds = " or ".join(_TOML_NAMES[kind] for kind in types)
            raise LaunchError(f"{file}: {name} must be {kinds}")


_TOML_NAMES: Final[dict[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "a table",
}


def _known_settings() -> dict[str, tuple[type, ...]]:
    """Returns the settings that a file may have, each with its types; none where any type may be right."""
    known: dict[str, tuple[type, ...]] = {}
    for name in dir(Config):
        found = getattr(Config, name)
        if name.startswith("_") or callable(found) or (isinstance(found, property) and found.fset is None):
            continue
        if isinstance(found, property):
            known[name] = (str, list) if name.endswith("bind") else ()
        elif found is None:
            written = str(Config.__annotations__.get(name, ""))
            known[name] = next((types for kind, types in _WRITTEN_TYPES.items() if written.startswith(kind)), ())
        else:
            is_seconds = "float" in str(Config.__annotations__.get(name, "")) or isinstance(found, float)
            known[name] = (float, int) if is_seconds else (type(found),)
    return known


_WRITTEN_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "str": (str,),
    "float": (float, int),
    "int": (int,),
    "dict": (dict,),
    "logging": (str,),
}


def _check_certificate(file: Path, config: Config) -> None:
    if (config.certfile is None) != (config.keyfile is None):
        raise LaunchError(f"{file}: TLS needs both certfile and keyfile")
    for name in (config.certfile, config.keyfile, config.ca_certs):
        if name is not None:
            path = Path(name).absolute()
            try:
                path.read_bytes()
            except OSError as error:
                raise LaunchError(f"{file}: {path} cannot be read: {error.strerror}") from None
