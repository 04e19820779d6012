"""Figures of a process about the changes of the others, for metrics."""


class ClusterCounters:
    """Figures of a cluster since the service opened.

    Attributes:
        changes_in: items about changes that were heard.
        rooms_opened: rooms that were opened for changes of other processes.
        comparisons: comparisons of heads that something asked for.
        found_behind: conversations that a comparison found behind.
        removals: removals that other processes had to confirm.
    """

    __slots__ = ("changes_in", "comparisons", "found_behind", "removals", "rooms_opened")

    def __init__(self) -> None:
        self.changes_in = 0
        self.rooms_opened = 0
        self.comparisons = 0
        self.found_behind = 0
        self.removals = 0
