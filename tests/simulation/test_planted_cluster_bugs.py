"""Faults planted where processes hear of each other's changes: the checker must name each broken promise."""

from collections.abc import Callable, Sequence
from uuid import UUID

import pytest

from pulse_trio.model import Change, Member
from pulse_trio.rooms.cluster import Cluster
from pulse_trio.rooms.comparison import Comparison
from pulse_trio.rooms.conversation_index import ConversationIndex
from pulse_trio.rooms.feed import Feed
from pulse_trio.rooms.peer_items import ConfirmedItem
from pulse_trio.rooms.sentences import Act
from pulse_trio.store.base import Head
from tests.simulation import run, world
from tests.simulation.plan import Plan
from tests.simulation.run import simulate

SEEDS = 60  # seeds in which each must be found
SEVERAL = Plan(processes=3)
# Nothing is lost, so no comparison hides that something is not sent, or not kept.
PEACE = Plan(processes=3, without=frozenset({"bus", "partitions", "stops", "restarts", "faults", "late"}))
Patch = pytest.MonkeyPatch


def rooms_end_soon(patch: Patch) -> None:
    """Lets all depend on the index: no connection keeps a room, and clients are slow."""
    patch.setattr(run, "ALONE_OF_SEVERAL", 1.0)
    patch.setattr(run, "CONVERSATIONS", (4,))
    patch.setattr(world, "PACES", (5.0,))
    patch.setattr(world, "LINGERS", (0.3,))


def gap_not_waited_for(patch: Patch) -> None:
    hear = Feed.hear

    def wrong(self: Feed, changes: Sequence[Change], act: Act | None) -> None:
        if self._nursery is not None:
            self.last_rev = max(self.last_rev, changes[0].rev - 1)
        hear(self, changes, act)

    patch.setattr(Feed, "hear", wrong)


def resync_forgotten(patch: Patch) -> None:
    patch.setattr(Cluster, "on_resync", lambda *_: None)


def added_member_not_indexed(patch: Patch) -> None:
    rooms_end_soon(patch)
    patch.setattr(Cluster, "member_added", lambda *_: None)


def head_of_the_index_from_a_later_look_up(patch: Patch) -> None:
    rooms_end_soon(patch)
    add = ConversationIndex.add

    def wrong(self: ConversationIndex, conversation_id: UUID, user_id: UUID, head: Head) -> None:
        add(self, conversation_id, user_id, head)
        self.set_head(conversation_id, head)

    patch.setattr(ConversationIndex, "add", wrong)


def room_begins_at_the_head_in_the_store(patch: Patch) -> None:
    rooms_end_soon(patch)
    patch.setattr(Cluster, "begin", lambda *_: None)


def removal_not_passed_on(patch: Patch) -> None:
    publish = Cluster.publish_changes

    def wrong(self: Cluster, changes: Sequence[Change], before: Head, act: Act | None) -> None:
        rest = [change for change in changes if not isinstance(change, Member) or change.is_member]
        if rest:
            publish(self, rest, before, act)

    patch.setattr(Cluster, "publish_changes", wrong)
    # What confirms a removal delivers it, too.
    patch.setattr(Cluster, "_confirm", lambda self, item: self._published.publish(ConfirmedItem(item.request)))


def notified_of_a_membership_that_is_not_indexed(patch: Patch) -> None:
    rooms_end_soon(patch)

    async def wrong(self: Comparison, user_id: UUID, conversation_ids: Sequence[UUID]) -> None:
        pass

    patch.setattr(Comparison, "index_missing", wrong)


# Each with the runs in which it is likely, a seed that finds it, and promises of which one must be named.
BUGS: list[tuple[Callable[[Patch], None], Plan, int, set[str]]] = [
    (gap_not_waited_for, SEVERAL, 1, {"no gap", "no gap at resume"}),
    (resync_forgotten, SEVERAL, 2, {"everything ends well"}),
    (added_member_not_indexed, PEACE, 2, {"everything ends well"}),
    (head_of_the_index_from_a_later_look_up, SEVERAL, 2, {"no gap"}),
    (room_begins_at_the_head_in_the_store, PEACE, 1, {"no gap"}),
    (removal_not_passed_on, PEACE, 2, {"everything ends well"}),
    (notified_of_a_membership_that_is_not_indexed, PEACE, 121, {"no gap", "every rev is heard of"}),
]


@pytest.mark.parametrize(("plant", "plan", "first", "promises"), BUGS, ids=[plant.__name__ for plant, *_ in BUGS])
def test_planted_bug_is_named(
    plant: Callable[[Patch], None], plan: Plan, first: int, promises: set[str], monkeypatch: Patch
) -> None:
    plant(monkeypatch)
    named: set[str] = set()
    for seed in (first, *range(1, SEEDS + 1)):
        named |= {violation.partition(":")[0] for violation in simulate(seed, plan).violations}
        if promises & named:
            return
    pytest.fail(f"in {SEEDS} seeds only {sorted(named)}")
