"""The number of files that the system lets this process open; a connection takes one."""


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
