"""Logging: one line per event, for people or as JSON, and never with a token, a password or a message's text."""

import logging
import sys

import structlog

from pulse_trio.settings import Settings


def configure(settings: Settings) -> bool:
    """Sends all log lines, ours and the libraries', to standard error in the configured format.

    Also warns about unknown `PULSE_` variables. Returns True if the format is the one for people.
    """
    is_terminal = sys.stderr is not None and sys.stderr.isatty()  # None if standard error was closed at the start
    is_console = settings.log_format == "console" or (settings.log_format == "auto" and is_terminal)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
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
    for name, closest in Settings.unknown_variables().items():
        structlog.get_logger(__name__).warning("unknown setting", name=name, did_you_mean=closest)
    return is_console
