"""The users of one room over all processes.

A message opens the room of a quiet conversation in many processes at once. Each publishes its users once, after a
moment that is drawn, and names the processes that it has heard; only others answer. So that costs about one item for
each process with users in the room, and one in all where no other process has any.
"""

from collections.abc import Callable
from typing import Final, Protocol
from uuid import UUID

import trio

from pulse_trio.model import User
from pulse_trio.rooms.peer_items import AskItem, DeltaItem, Item, WholeItem
from pulse_trio.rooms.peer_sets import OwnSet, PeerSet, publish_whole

MAX_HIDDEN: Final = 1_000  # users who were removed from a room while it is open; of others `left` comes a bit late
TELL: Final = (0.01, 0.06)  # seconds after which a room says who is in it: those that open with it are heard by then
# Seconds that other processes have to say who is in a room. It takes 1 to 3 ms; a list that lacks somebody is worse
# than one that comes late because a process stands still.
SETTLE: Final = 0.5


class SharedPresence(Protocol):
    """The presence of all rooms, as one of them uses it; see `peer_presence`.

    Attributes:
        pinned_here: the conversations that have a connection of their own here.
        pinned: those that have one in another process.
    """

    pinned_here: OwnSet
    pinned: PeerSet

    @property
    def publish(self) -> Callable[[Item], None]:
        """Publishes an item."""

    @property
    def can_answer(self) -> bool:
        """True if another process can be asked."""

    @property
    def alive(self) -> set[UUID]:
        """The processes that were heard of lately."""

    def next_stamp(self) -> int:
        """Returns a higher number each time."""

    def doubt(self, copies: PeerSet, publisher: UUID) -> None:
        """Asks a process for a set."""

    def tell_later(self, room: "RoomPresence") -> None:
        """Lets a room say who is in it within `TELL` seconds."""


class RoomPresence:
    """The users of a room, here and in other processes.

    Args:
        conversation_id: the conversation.
        shared: the presence of all rooms.
        on_joined: called with a user who is in the room in another process; and True if the others must be notified.
        on_left: called with a user who is not any more; and True if the others must be notified.

    Attributes:
        elsewhere: the users in other processes.
        is_due: it will publish its users within `TELL` seconds.
    """

    __slots__ = (
        "_answered",
        "_conversation_id",
        "_counts",
        "_has_asked",
        "_has_begun",
        "_here",
        "_hidden",
        "_is_owed",
        "_is_quiet",
        "_on_joined",
        "_on_left",
        "_settle_until",
        "_settled",
        "_shared",
        "elsewhere",
        "is_due",
    )

    def __init__(
        self,
        conversation_id: UUID,
        shared: SharedPresence,
        on_joined: Callable[[User, bool], None],
        on_left: Callable[[User, bool], None],
    ) -> None:
        self._conversation_id = conversation_id
        self._shared = shared
        self._on_joined = on_joined
        self._on_left = on_left
        scope = str(conversation_id)
        self._here = OwnSet(scope, shared.publish, shared.next_stamp)
        self.elsewhere = PeerSet(scope, shared.doubt, self._added, self._removed)
        self._counts: dict[UUID, tuple[User, int]] = {}  # the users here, and how many connections each has
        self._has_begun = False
        self._has_asked = False  # others were asked for their users
        self._is_owed = False  # a process waits for the users here
        self.is_due = False
        self._hidden: set[UUID] = set()  # users who were removed, whatever other processes say of them
        self._is_quiet = False  # what is applied now is no news: a room of another process has opened or ended
        self._answered: set[UUID] = set()  # processes that have said who is in the room since it was asked for
        self._settled: trio.Event | None = None  # set when all have
        self._settle_until = 0.0  # on Trio's clock; what comes later is news

    def begin(self) -> None:
        """Publishes the users who are here, if there are any, and asks for those of other processes; soon.

        They are news where the room is in use: it opens here because a session has opened.
        """
        self._has_begun = True
        self._here.begin({user.id: user.username for user, _ in self._counts.values()})
        self.is_due = bool(self._counts)
        if self._is_owed or (self.is_due and self.is_pinned):
            self.tell()
        elif self.is_due:
            self._shared.tell_later(self)

    def tell(self) -> None:
        """Publishes the users who are here, and asks for those of processes that are not known."""
        self.is_due = False
        if not self._has_asked:
            self._settle_until = max(self._settle_until, trio.current_time() + SETTLE)
        self._has_asked = True
        self._here.publish_whole(is_quiet=not self.is_pinned, known=self.elsewhere.known())

    def enter(self, user: User) -> None:
        """Counts a connection here."""
        _, count = self._counts.get(user.id, (user, 0))
        self._counts[user.id] = user, count + 1
        if self._has_begun and not count:
            if self.is_due:
                self.tell()
            self._here.add(user.id, user.username)
            if not self._has_asked:
                self.tell()

    def leave(self, user: User) -> None:
        """Counts a connection here that has ended."""
        _, count = self._counts[user.id]
        if count > 1:
            self._counts[user.id] = user, count - 1
        else:
            del self._counts[user.id]
            if self.is_due:
                self.tell()
            self._here.remove(user.id)

    def hide(self, user_id: UUID) -> None:
        """Lets a user leave who was removed, before the others are notified of that.

        Their connections may be in other processes, which say that they joined, and that they left, later.
        """
        if user_id in self._hidden or len(self._hidden) >= MAX_HIDDEN:
            return
        self._hidden.add(user_id)
        name = self.elsewhere.name_of(user_id)
        if name is not None:
            self._on_left(User(user_id, name), True)

    def show(self, user_id: UUID) -> None:
        """Shows a user again who was added."""
        if user_id in self._hidden:
            self._hidden.discard(user_id)
            name = self.elsewhere.name_of(user_id)
            if name is not None:
                self._on_joined(User(user_id, name), True)

    def pin(self) -> None:
        """Keeps the room open in other processes, too: it has, or will have, a connection of its own."""
        self._shared.pinned_here.add(self._conversation_id)

    def unpin(self) -> None:
        """Lets the room go in other processes."""
        self._shared.pinned_here.remove(self._conversation_id)

    @property
    def is_pinned(self) -> bool:
        """True while another process needs the room to be open here."""
        return self._conversation_id in self._shared.pinned

    @property
    def _is_pinned_here(self) -> bool:
        """True while the room has, or will have, a connection of its own here."""
        return self._conversation_id in self._shared.pinned_here

    async def settle(self) -> None:
        """Returns when all processes have said who is in the room, or after `SETTLE` seconds."""
        if self._settled is None or trio.current_time() >= self._settle_until:
            self._ask()
        settled = self._settled
        if settled is not None:
            with trio.move_on_at(self._settle_until):
                await settled.wait()
            settled.set()
            if self._settled is settled:
                self._settled = None

    def close(self, *, have_left: bool) -> None:
        """Publishes that nobody is in the room here any more.

        `have_left`: the users have left, which is news where the room is in use; else only the room ends.
        """
        is_quiet = not (have_left and (self.is_pinned or self._is_pinned_here))
        self.unpin()
        self.is_due = False
        self.elsewhere.clear()
        self._hidden.clear()
        self._counts.clear()
        if self._has_begun and len(self._here):
            publish_whole(self._here.scope, {}, self._shared.publish, self._shared.next_stamp(), is_quiet=is_quiet)
        if self._settled is not None:
            self._settled.set()

    def answer(self, *, must: bool) -> None:
        """Publishes who is here.

        `must`: the other process waits for it; else not if nobody is here, or it is published soon all the same.
        """
        if not self._has_begun:
            self._is_owed |= must
        elif self.is_due and must:
            self.tell()
        elif must or (len(self._here) and not self.is_due):
            self._here.publish_whole()

    def apply(self, publisher: UUID, item: DeltaItem | WholeItem) -> None:
        """Applies what another process has said of its users in the room; no list is news while this room begins.

        Where a connection shows who is in the room every change is news: a process that stood still does not know.
        """
        is_whole = isinstance(item, WholeItem)
        is_settling = trio.current_time() < self._settle_until
        self._is_quiet = isinstance(item, WholeItem) and (is_settling or (item.is_quiet and not self._is_pinned_here))
        is_complete = self.elsewhere.apply(publisher, item)
        self._is_quiet = False
        if is_whole and is_complete:
            self._answered.add(publisher)
            self.check_settled()

    def check_settled(self) -> None:
        """Ends `settle` if all processes that are alive have answered."""
        if self._settled is not None and self._answered >= self._shared.alive:
            self._settled.set()
            self._settled = None
            self._settle_until = 0.0

    def _ask(self) -> None:
        self._answered = set()
        self._has_asked = True
        if self._shared.can_answer:
            self._settled = trio.Event()
            self._settle_until = trio.current_time() + SETTLE
            self._shared.publish(AskItem([self._here.scope]))

    def _added(self, user_id: UUID, name: str) -> None:
        if user_id in self._hidden:
            return
        self._on_joined(User(user_id, name), not self._is_quiet)

    def _removed(self, user_id: UUID, name: str) -> None:
        if user_id in self._hidden:
            return
        self._on_left(User(user_id, name), not self._is_quiet)
