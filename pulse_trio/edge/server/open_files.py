"""The number of files that the system lets this process open; a connection takes one."""

import logging

from pulse_trio.edge.log_samples import LogSampler


class AcceptErrors(logging.Filter):
    """Samples Trio's lines about failed accepts, which come ten times a second, each with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self._samples = LogSampler()

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = None
        return self._samples.take() is not None


def raise_open_files(wanted: int) -> int | None:
    """Raises the limit of open files to `wanted`, or to the highest that the system allows.

    Returns:
        The limit now; None if there is none.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    best = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if best > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (best, hard))
        except (OSError, ValueError):
            return soft
        return best
    return soft
