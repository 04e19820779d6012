"""Faults planted where processes hear of each other's changes: the checker must name each broken promise."""

from collections.abc import Callable, Sequence
from uuid import UUID

import pytest

from pulse_trio.model import Change, Member
from pulse_trio.rooms import cluster
from pulse_trio.rooms.cluster import Cluster
from pulse_trio.rooms.conversation_index import ConversationIndex
from pulse_trio.rooms.feed import Feed
from pulse_trio.rooms.member_updates import MemberUpdates
from pulse_trio.rooms.sentences import Act
from pulse_trio.rooms.session import Session
from pulse_trio.store.base import Head
from tests.simulation.plan import Plan
from tests.simulation.run import simulate

SEEDS = 60  # seeds in which each must be found
SEVERAL = Plan(processes=3)
Patch = pytest.MonkeyPatch


def gap_not_waited_for(patch: Patch) -> None:
    hear = Feed.hear

    def wrong(self: Feed, changes: Sequence[Change], act: Act | None) -> None:
        if self._nursery is not None:
            self.last_rev = max(self.last_rev, changes[0].rev - 1)
        hear(self, changes, act)

    patch.setattr(Feed, "hear", wrong)


def resync_forgotten(patch: Patch) -> None:
    patch.setattr(Cluster, "on_resync", lambda *_: None)


def resync_without_the_sequences_of_users(patch: Patch) -> None:
    async def wrong(self: Cluster) -> None:
        pass

    patch.setattr(Cluster, "_compare_users", wrong)


def no_comparison_after_a_death(patch: Patch) -> None:
    on_resync = Cluster.on_resync

    def wrong(self: Cluster, reason: str) -> None:
        if reason not in {"new publisher", "a process has ended"}:
            on_resync(self, reason)

    patch.setattr(Cluster, "on_resync", wrong)


def added_member_not_indexed(patch: Patch) -> None:
    patch.setattr(Cluster, "member_added", lambda *_: None)


def head_of_the_index_from_a_later_look_up(patch: Patch) -> None:
    add = ConversationIndex.add

    def wrong(self: ConversationIndex, conversation_id: UUID, user_id: UUID, head: Head) -> None:
        add(self, conversation_id, user_id, head)
        self.set_head(conversation_id, head)

    patch.setattr(ConversationIndex, "add", wrong)


def head_not_read_after_an_addition(patch: Patch) -> None:
    patch.setattr(Cluster, "_compare_soon", lambda *_: None)


def removal_heard_during_a_look_up_forgotten(patch: Patch) -> None:
    patch.setattr(Cluster, "members_rev_of", lambda *_: 0)


def large_item_dropped(patch: Patch) -> None:
    patch.setattr(cluster, "_smaller", lambda _: [])


def room_begins_at_the_head_in_the_store(patch: Patch) -> None:
    patch.setattr(Cluster, "begin", lambda *_: None)


def removal_not_passed_on(patch: Patch) -> None:
    publish = Cluster.publish_changes

    def wrong(self: Cluster, changes: Sequence[Change], before: Head, act: Act | None) -> None:
        rest = [change for change in changes if not isinstance(change, Member) or change.is_member]
        if rest:
            publish(self, rest, before, act)

    patch.setattr(Cluster, "publish_changes", wrong)


def later_change_of_a_user_hides_a_lost_one(patch: Patch) -> None:
    patch.setattr(ConversationIndex, "note_rev", ConversationIndex.set_rev)


def notified_of_a_membership_that_is_not_indexed(patch: Patch) -> None:
    async def wrong(self: Cluster, user_id: UUID, conversation_ids: Sequence[UUID]) -> None:
        pass

    patch.setattr(Cluster, "index_missing", wrong)


def session_ahead_of_the_index_sent_what_it_has(patch: Patch) -> None:
    patch.setattr(Session, "begin_at", lambda *_: None)


def session_found_early_begins_at_once(patch: Patch) -> None:
    async def wrong(self: MemberUpdates, session: Session, conversation_id: UUID, member_rev: int) -> None:
        async with self._rooms.opened(conversation_id, session.user.id) as room:
            if session.connection.is_open:
                room.attach(session, member_rev)

    patch.setattr(MemberUpdates, "_attach_early", wrong)


# Each with the promises that are broken, of which one must be named; the first seed is one that finds it soon.
BUGS: list[tuple[Callable[[Patch], None], int, set[str]]] = [
    (gap_not_waited_for, 1, {"no gap"}),
    (resync_forgotten, 1, {"everything ends well"}),
    (resync_without_the_sequences_of_users, 1, {"everything ends well"}),
    (no_comparison_after_a_death, 1, {"everything ends well"}),
    (added_member_not_indexed, 1, {"everything ends well"}),
    (head_of_the_index_from_a_later_look_up, 1, {"no gap"}),
    (head_not_read_after_an_addition, 1, {"everything ends well"}),
    (removal_heard_during_a_look_up_forgotten, 1, {"everything ends well"}),
    (large_item_dropped, 1, {"everything ends well"}),
    (room_begins_at_the_head_in_the_store, 1, {"no gap"}),
    (removal_not_passed_on, 1, {"everything ends well"}),
    (later_change_of_a_user_hides_a_lost_one, 1, {"everything ends well"}),
    (notified_of_a_membership_that_is_not_indexed, 1, {"no gap"}),
]


@pytest.mark.parametrize(("plant", "first", "promises"), BUGS, ids=[plant.__name__ for plant, _, _ in BUGS])
def test_planted_bug_is_named(
    plant: Callable[[Patch], None], first: int, promises: set[str], monkeypatch: Patch
) -> None:
    plant(monkeypatch)
    named: set[str] = set()
    for seed in (first, *range(1, SEEDS + 1)):
        named |= {violation.partition(":")[0] for violation in simulate(seed, SEVERAL).violations}
        if promises & named:
            return
    pytest.fail(f"in {SEEDS} seeds only {sorted(named)}")
