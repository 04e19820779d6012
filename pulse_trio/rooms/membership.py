"""Changes of a user's membership in progress: of two that overlap the one that was committed later wins.

The answers of two statements may reach this process in another order than that of their commits: one lost packet to
the database is enough. Each change carries the version of the conversation's members (`store.base.Head`), which rises
in the order of the commits. While any change of a conversation is in progress here, the highest version applied is
kept for each user, and what comes with a lower one is out of date.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self
from uuid import UUID

from pulse_trio.store.base import NotAMember, StoreUnavailable


class _InProgress:
    """The changes of one conversation in progress.

    Attributes:
        count: the number of changes.
        known: the latest known of each user: the version, and True for a member as of it; kept until the last of the
            changes has ended.
        adding: the users of the additions.
    """

    __slots__ = ("adding", "count", "known")

    def __init__(self) -> None:
        self.count = 0
        self.known: dict[UUID, tuple[int, bool]] = {}
        self.adding: Counter[UUID] = Counter()


class MembershipChanges:
    """The changes of memberships in progress in this process, by conversation; and the joins that they concern.

    Bounded by the requests that change members, of which there are as many as connections at most, each with as many
    users as one request may name.
    """

    def __init__(self) -> None:
        self._by_conversation: dict[UUID, _InProgress] = {}
        self._joins: dict[tuple[UUID, UUID], list[PendingJoin]] = {}

    def __len__(self) -> int:
        return len(self._by_conversation)

    @contextmanager
    def in_progress(self, conversation_id: UUID, adding: Sequence[UUID] = ()) -> Iterator[None]:
        """Wraps a change, from before the store is asked until its answer has been applied."""
        entry = self._by_conversation.setdefault(conversation_id, _InProgress())
        entry.count += 1
        entry.adding.update(adding)
        try:
            yield
        finally:
            entry.count -= 1
            entry.adding -= Counter(adding)
            if not entry.count:
                del self._by_conversation[conversation_id]

    def is_being_added(self, conversation_id: UUID, user_id: UUID) -> bool:
        """True if an addition of a user is in progress; it may be committed."""
        entry = self._by_conversation.get(conversation_id)
        return entry is not None and user_id in entry.adding

    def record_change(self, conversation_id: UUID, user_id: UUID, version: int, *, is_member: bool) -> bool:
        """Records a committed change as `record` does, for joins in progress, too."""
        for pending in self._joins.get((conversation_id, user_id), ()):
            pending.record_change(version, is_member=is_member)
        return self.record(conversation_id, user_id, version, is_member=is_member)

    def record(self, conversation_id: UUID, user_id: UUID, version: int, *, is_member: bool) -> bool:
        """Records that a user is a member, or not, as of a version; False if the opposite is known as of a later one.

        An earlier addition of a user who is a member as of a later look-up must still be applied: their other
        sessions have not heard of it.
        """
        entry = self._by_conversation.get(conversation_id)
        if entry is None:
            return True
        entry.known[user_id] = later(entry.known.get(user_id), (version, is_member))
        return entry.known[user_id][1] is is_member

    def mark_uncertain(self, conversation_id: UUID, user_id: UUID) -> None:
        """Fails the joins of a user whose removal was asked for, with an unknown outcome."""
        for pending in self._joins.get((conversation_id, user_id), ()):
            pending.is_uncertain = True

    def pending_join(self, conversation_id: UUID, user_id: UUID) -> "PendingJoin":
        """Collects changes of a user's membership while their connection is set up; a context manager."""
        return PendingJoin(self._joins, (conversation_id, user_id))


class PendingJoin:
    """A join in progress: the last change of the user's membership since before it was looked up.

    A context manager, at whose end changes are no longer recorded.

    Attributes:
        version: of the members, as of which the user is one of them; set by the caller that looks it up.
        is_uncertain: the user may have been removed.
    """

    __slots__ = ("_all", "_key", "_last", "is_uncertain", "version")

    def __init__(self, all_joins: dict[tuple[UUID, UUID], list["PendingJoin"]], key: tuple[UUID, UUID]) -> None:
        self.version = 0
        self.is_uncertain = False
        self._last: tuple[int, bool] | None = None
        self._all = all_joins
        self._key = key
        all_joins.setdefault(key, []).append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        joins = self._all[self._key]
        joins.remove(self)
        if not joins:
            del self._all[self._key]

    def record_change(self, version: int, *, is_member: bool) -> None:
        """Records a change of the user's membership."""
        self._last = later(self._last, (version, is_member))

    def check(self) -> None:
        """Checks that the user is still a member.

        Raises:
            NotAMember: they were removed.
            StoreUnavailable: they may have been removed.
        """
        if self.is_revoked:
            raise NotAMember
        if self.is_uncertain:
            raise StoreUnavailable("the membership is in doubt")

    @property
    def is_revoked(self) -> bool:
        """True if the user was removed after the version as of which they are a member."""
        return self._last is not None and self._last[0] > self.version and not self._last[1]

    @property
    def is_admitted(self) -> bool:
        """True if the last recorded change is an addition of the user."""
        return self._last is not None and self._last[1]


def later(known: tuple[int, bool] | None, change: tuple[int, bool]) -> tuple[int, bool]:
    """Returns the change that was committed later; each is a version and True for a member as of it."""
    return change if known is None or change[0] >= known[0] else known
