"""Sets that each process has, and all others copy: users who are online, users in a room, rooms in use.

A process publishes what it adds and removes, each time with the size and the digest of its set. The bus may lose,
double and reorder: a copy whose size or digest is another one is asked for as a whole, and so is one of which something
older is heard than is known.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

from pulse_trio.rooms.peer_items import DeltaItem, Item, WholeItem

PART: Final = 36  # elements of one item at most: about 6.2 KB with the longest names, 32 characters of 4 bytes
MAX_KNOWN: Final = 32  # processes that an item names at most, 1.3 KB; others publish a set that is there already
MAX_PARTS: Final = 10_000  # of one whole set: a million elements


class Digest:
    """The size and the digest of a set of ids: the exclusive or of all of them, which no order changes."""

    __slots__ = ("_bits", "count")

    def __init__(self) -> None:
        self.count = 0
        self._bits = 0

    def add(self, key: UUID) -> None:
        """Adds an id that was not there."""
        self.count += 1
        self._bits ^= key.int

    def remove(self, key: UUID) -> None:
        """Removes an id that was there."""
        self.count -= 1
        self._bits ^= key.int

    @property
    def text(self) -> str:
        """The size and the digest as one short text."""
        return f"{self.count}.{(self._bits ^ self._bits >> 64) & 0xFFFF_FFFF_FFFF_FFFF:x}"


class OwnSet:
    """A set of this process; what it adds and removes is published.

    Args:
        scope: its name, the same in all processes.
        publish: publishes an item.
        stamp: returns a higher number each time.
    """

    __slots__ = ("_digest", "_elements", "_publish", "_stamp", "scope")

    def __init__(self, scope: str, publish: Callable[[Item], None], stamp: Callable[[], int]) -> None:
        self.scope = scope
        self._publish = publish
        self._stamp = stamp
        self._elements: dict[UUID, str] = {}
        self._digest = Digest()

    def __contains__(self, key: UUID) -> bool:
        return key in self._elements

    def __len__(self) -> int:
        return len(self._elements)

    def add(self, key: UUID, name: str = "") -> None:
        """Adds an element, if it is not there; `name`: what others need to know of it."""
        if self._put(key, name):
            self._publish(DeltaItem(self.scope, [(key, name)], [], self._digest.text, self._stamp()))

    def begin(self, elements: Mapping[UUID, str]) -> None:
        """Adds elements, and publishes nothing yet."""
        for key, name in elements.items():
            self._put(key, name)

    def _put(self, key: UUID, name: str) -> bool:
        if key in self._elements:
            return False
        self._elements[key] = name
        self._digest.add(key)
        return True

    def remove(self, key: UUID) -> None:
        """Removes an element, if it is there."""
        if self._elements.pop(key, None) is not None:
            self._digest.remove(key)
            self._publish(DeltaItem(self.scope, [], [key], self._digest.text, self._stamp()))

    @property
    def digest(self) -> str:
        """The size and the digest."""
        return self._digest.text

    def publish_whole(self, *, is_quiet: bool = False, known: Sequence[UUID] | None = None) -> None:
        """Publishes the set; see `WholeItem`."""
        publish_whole(self.scope, self._elements, self._publish, self._stamp(), is_quiet=is_quiet, known=known)


def publish_whole(
    scope: str,
    elements: Mapping[UUID, str],
    publish: Callable[[Item], None],
    stamp: int,
    *,
    is_quiet: bool = False,
    known: Sequence[UUID] | None = None,
) -> None:
    """Publishes a set of this process, whether it is kept or not; for the last three see `WholeItem`."""
    digest = Digest()
    for key in elements:
        digest.add(key)
    pairs = list(elements.items())
    parts = max(1, -(-len(pairs) // PART))
    for part in range(parts):
        elements_of_part = pairs[part * PART : (part + 1) * PART]
        named = None if known is None or part else list(known[:MAX_KNOWN])
        publish(WholeItem(scope, part, parts, elements_of_part, digest.text, stamp, is_quiet, named))


class _Copy:
    """A copy of another process's set.

    Attributes:
        is_known: it agrees with what the other process has said last.
    """

    __slots__ = ("digest", "elements", "is_known", "parts", "parts_of", "stamp")

    def __init__(self) -> None:
        self.elements: dict[UUID, str] = {}
        self.digest = Digest()
        self.is_known = False
        self.parts: dict[int, Sequence[tuple[UUID, str]]] = {}
        self.parts_of = 0  # the stamp of the whole set whose parts have come
        self.stamp = 0  # of what was applied last


class PeerSet:
    """The sets of one name in all other processes.

    Args:
        scope: their name.
        doubt: called with this and a process whose set is another one than its copy; asks for it.
        on_added: called with an element that no other process had, and its name.
        on_removed: called with an element that no other process has any more, and its name.
    """

    __slots__ = ("_copies", "_counts", "_doubt", "_on_added", "_on_removed", "scope")

    def __init__(
        self,
        scope: str,
        doubt: Callable[["PeerSet", UUID], None],
        on_added: Callable[[UUID, str], None],
        on_removed: Callable[[UUID, str], None],
    ) -> None:
        self.scope = scope
        self._doubt = doubt
        self._on_added = on_added
        self._on_removed = on_removed
        self._copies: dict[UUID, _Copy] = {}
        self._counts: dict[UUID, int] = {}  # element → how many other processes have it

    def __contains__(self, key: UUID) -> bool:
        return key in self._counts

    def apply(self, publisher: UUID, item: DeltaItem | WholeItem) -> bool:
        """Applies what another process has said of its set; asks for the whole if something is missing.

        Returns False if that is a part of a whole, and others have not come.
        """
        copy = self._copies.setdefault(publisher, _Copy())
        if item.stamp <= copy.stamp:
            if item.stamp < copy.stamp and isinstance(item, DeltaItem):
                self._doubt(self, publisher)
            return True
        if isinstance(item, DeltaItem):
            copy.stamp = item.stamp
            for key, name in item.added:
                self._add(copy, key, name)
            for key in item.removed:
                self._remove(copy, key)
        elif not self._is_complete(copy, item):
            return False
        else:
            whole = {key: name for part in copy.parts.values() for key, name in part}
            copy.parts = {}
            copy.stamp = item.stamp
            for key in [key for key in copy.elements if key not in whole]:
                self._remove(copy, key)
            for key, name in whole.items():
                self._add(copy, key, name)
        copy.is_known = copy.digest.text == item.digest
        if not copy.is_known:
            self._doubt(self, publisher)
        return True

    def compare(self, publisher: UUID, digest: str) -> None:
        """Asks for the set of a process whose digest is another one than that of the copy."""
        copy = self._copies.setdefault(publisher, _Copy())
        copy.is_known = copy.digest.text == digest
        if not copy.is_known:
            self._doubt(self, publisher)

    def forget(self, publisher: UUID) -> None:
        """Removes the set of a process that has ended."""
        copy = self._copies.pop(publisher, None)
        if copy is not None:
            for key in list(copy.elements):
                self._remove(copy, key)

    def clear(self) -> None:
        """Removes all sets, and calls nothing."""
        self._copies.clear()
        self._counts.clear()

    def name_of(self, key: UUID) -> str | None:
        """Returns the name of an element of any of the sets; None if it is in none."""
        if key not in self._counts:
            return None
        return next(copy.elements[key] for copy in self._copies.values() if key in copy.elements)

    def known(self) -> list[UUID]:
        """Returns the processes that have said what is in their set, which is not empty."""
        return [publisher for publisher, copy in self._copies.items() if copy.is_known and copy.elements]

    def elements(self) -> Iterable[tuple[UUID, str]]:
        """Returns the elements of all sets with their names, each once."""
        return {key: name for copy in self._copies.values() for key, name in copy.elements.items()}.items()

    def _is_complete(self, copy: _Copy, item: WholeItem) -> bool:
        """Keeps a part of a whole set; returns True if all of it has come."""
        if item.stamp > copy.parts_of:
            copy.parts_of, copy.parts = item.stamp, {}
        elif item.stamp < copy.parts_of:
            return False
        if item.parts <= MAX_PARTS and 0 <= item.part < item.parts:
            copy.parts[item.part] = item.elements
        return len(copy.parts) == item.parts

    def _add(self, copy: _Copy, key: UUID, name: str) -> None:
        if key in copy.elements:
            return
        copy.elements[key] = name
        copy.digest.add(key)
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count == 1:
            self._on_added(key, name)

    def _remove(self, copy: _Copy, key: UUID) -> None:
        name = copy.elements.pop(key, None)
        if name is None:
            return
        copy.digest.remove(key)
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]
            self._on_removed(key, name)
