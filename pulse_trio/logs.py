"""Logging: one line per event, for people or as JSON, and never with a token, a password or a message's text."""

import logging
import os
import sys
import threading
from types import TracebackType
from typing import Any

import structlog

from pulse_trio import console
from pulse_trio.settings import Settings

log = structlog.get_logger(__name__)


def configure_start() -> bool:
    """Configures logging before the settings are read, so that an error in them has the right format, too.

    Returns:
        True if the format is the one for people.
    """
    return _install(os.environ.get("PULSE_LOG_FORMAT", "").lower(), "info")


def configure(settings: Settings, *, warn: bool = True) -> bool:
    """Sends all log lines, ours and the libraries', to standard error in the configured format.

    As JSON, every line of the process is a log line: errors of the start, warnings and tracebacks as well. Also warns
    about unknown `PULSE_` variables, unless `warn` is false: the supervisor of a worker has done so.

    Returns:
        True if the format is the one for people.
    """
    is_console = _install(settings.log_format, settings.log_level)
    for name, closest in Settings.unknown_variables().items() if warn else ():
        log.warning("unknown setting", name=name, did_you_mean=closest)
    return is_console


def _install(log_format: str, log_level: str) -> bool:
    is_terminal = sys.stderr is not None and sys.stderr.isatty()  # None if standard error was closed at the start
    is_console = log_format == "console" or (log_format != "json" and is_terminal)
    level = logging.getLevelNamesMapping()[log_level.upper()]
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Plain tracebacks: where `rich` is installed, structlog would add local variables, which may hold a token.
    plain = structlog.dev.plain_traceback
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=plain)
        if is_console
        else structlog.processors.JSONRenderer()
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *([] if is_console else [structlog.processors.format_exc_info]),
            renderer,
        ],
    )
    handler = logging.NullHandler() if sys.stderr is None else logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Its warnings are about what follows an error that it raises, such as the rest of a pipeline.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    if is_console:
        console.send_reports_to(None)
    else:
        console.send_reports_to(log.critical)
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught
        if sys.unraisablehook is sys.__unraisablehook__:  # else it is that of `StopSignals`, which ends with ours
            sys.unraisablehook = _log_unraisable
        threading.excepthook = _log_of_thread
    return is_console


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    log.critical("program failed", exc_info=(kind, error, traceback))


def _log_unraisable(problem: Any) -> None:
    log.error("exception ignored", during=problem.err_msg, exc_info=problem.exc_value)


def _log_of_thread(problem: Any) -> None:
    log.error("thread failed", exc_info=problem.exc_value)
