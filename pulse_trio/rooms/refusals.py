"""Refusals that are remembered: a repeated frame about a conversation of others costs no look-up."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import trio

from pulse_trio.store.base import Refusal

REFUSAL_SECONDS: Final = 1.0  # in which a further frame about the same conversation costs no look-up
MAX_REFUSALS: Final = 4_096  # about 1 MB; beyond it those of the oldest conversation are dropped


class LookUp:
    """A look-up of one membership that is under way.

    Attributes:
        began: when it began, on Trio's clock.
        is_stale: somebody may have been added to the conversation since.
    """

    __slots__ = ("began", "is_stale")

    def __init__(self) -> None:
        self.began = trio.current_time()
        self.is_stale = False


class Refusals:
    """Pairs of a conversation and a user who was recently found to be no member of it.

    No refusal outlives an addition: those of a conversation are forgotten before a user can be added to it, and none is
    remembered from a look-up that began before the addition was answered.

    Args:
        commit_seconds: after which an addition without an answer has been committed, or never will be.
    """

    def __init__(self, commit_seconds: float) -> None:
        self._commit_seconds = commit_seconds
        self._until: dict[UUID, dict[UUID, float]] = {}  # conversation → user → when it is forgotten; oldest first
        self._size = 0
        self._looking: dict[UUID, list[LookUp]] = {}  # conversation → look-ups under way
        self._adding: Counter[UUID] = Counter()  # conversation → additions under way
        self._doubtful: dict[UUID, float] = {}  # conversation → until when an addition may be committed; oldest first

    def is_refused(self, conversation_id: UUID, user_id: UUID) -> bool:
        """True if a recent look-up found that the user is no member of the conversation."""
        users = self._until.get(conversation_id)
        return users is not None and trio.current_time() < users.get(user_id, 0.0)

    def forget(self, conversation_id: UUID) -> None:
        """Forgets the refusals of a conversation: users were added, or may be from now on."""
        self._size -= len(self._until.pop(conversation_id, ()))
        for look_up in self._looking.get(conversation_id, ()):
            look_up.is_stale = True

    @contextmanager
    def look_up(self, conversation_id: UUID) -> Iterator[LookUp]:
        """Wraps a look-up, and what is remembered of it."""
        look_up = LookUp()
        self._looking.setdefault(conversation_id, []).append(look_up)
        try:
            yield look_up
        finally:
            running = self._looking[conversation_id]
            running.remove(look_up)
            if not running:
                del self._looking[conversation_id]

    def remember(self, conversation_id: UUID, user_id: UUID, look_up: LookUp) -> None:
        """Remembers for `REFUSAL_SECONDS` that the user is no member, as a look-up found, if nobody is being added."""
        doubtful_until = self._doubtful.get(conversation_id, 0.0)
        if look_up.is_stale or self._adding[conversation_id] or look_up.began < doubtful_until:
            return
        users = self._until.pop(conversation_id, {})
        self._size += user_id not in users
        users[user_id] = trio.current_time() + REFUSAL_SECONDS
        self._until[conversation_id] = users
        while self._size > MAX_REFUSALS:
            self.forget(next(iter(self._until)))

    @contextmanager
    def adding(self, conversation_id: UUID) -> Iterator[None]:
        """Wraps an addition, from before it can be committed until its outcome has taken effect."""
        self.forget(conversation_id)
        self._adding[conversation_id] += 1
        try:
            yield
        except Refusal:
            raise
        except BaseException:  # also when cancelled: it may be committed all the same
            self._doubt(conversation_id)
            raise
        finally:
            self.forget(conversation_id)
            self._adding[conversation_id] -= 1
            if not self._adding[conversation_id]:
                del self._adding[conversation_id]

    def _doubt(self, conversation_id: UUID) -> None:
        now = trio.current_time()
        self._doubtful.pop(conversation_id, None)
        self._doubtful[conversation_id] = now + self._commit_seconds
        # Kept longer, for look-ups that began before their end. Few: each is a failed request of a member.
        while self._doubtful[next(iter(self._doubtful))] + self._commit_seconds < now:
            del self._doubtful[next(iter(self._doubtful))]
