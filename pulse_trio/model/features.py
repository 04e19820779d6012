"""Features: the kinds of changes that a client asks for. Without any it is sent messages only, as in version 0.2."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from pulse_trio.model.changes import Kind

_KINDS: Final = {"members": Kind.MEMBER, "conversation": Kind.CONVERSATION}
_ME: Final = "me"
FEATURED: Final = 2**15  # a bit that no kind has


@dataclass(frozen=True, slots=True)
class Features:
    """The features of a connection.

    Attributes:
        kinds: bits of `Kind` that it is sent.
        has_me: it is sent the changes of its user's own sequence.
        are_asked: the client asked, if only for an empty list: its frames carry `prev_rev`.
    """

    kinds: int = Kind.MESSAGE
    has_me: bool = False
    are_asked: bool = False

    @classmethod
    def of(cls, names: Iterable[str] | None, *, is_session: bool) -> Self:
        """Returns the features with these names; unknown ones are ignored, and `me` where there is no session."""
        if names is None:
            return cls()
        asked = set(names)
        kinds = Kind.MESSAGE
        for name, kind in _KINDS.items():
            kinds |= kind if name in asked else 0
        return cls(kinds, is_session and _ME in asked, are_asked=True)

    @property
    def mask(self) -> int:
        """The bits of `kinds`, and `FEATURED` if the client asked: connections with the same are sent the same."""
        return self.kinds | FEATURED if self.are_asked else self.kinds

    @property
    def names(self) -> list[str]:
        """The names of those that are on, sorted."""
        names = [name for name, kind in _KINDS.items() if self.kinds & kind]
        return sorted([*names, _ME] if self.has_me else names)


NO_FEATURES: Final = Features()
