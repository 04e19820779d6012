"""Presence over all processes: who is online, who is in a room, and which rooms others keep open.

Each process has three kinds of sets that the others copy (`peer_sets`): its users who are online, the conversations
that have a connection of their own here, and the users of each of its rooms (`room_presence`). A room is open wherever
its conversation has members, for as long as it has a connection of its own anywhere: so its list of users is the same
everywhere.

A process that is not heard of for `GONE` seconds has ended, or stands still: what it had goes.
"""

import math
import random
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Final
from uuid import UUID

import trio

from pulse_trio.model import User
from pulse_trio.rooms.peer_items import AskItem, DeltaItem, DigestItem, Item, SetItem, WholeItem
from pulse_trio.rooms.peer_sets import OwnSet, PeerSet, publish_whole
from pulse_trio.rooms.room_presence import TELL, RoomPresence

ONLINE: Final = "online"
PINNED: Final = "pinned"
GONE: Final = 5.0  # seconds after which a process that is not heard of has ended; it says something each second
STRANGE: Final = 1.2  # seconds on the bus after which a process has heard of all others, who say something each second
TICK: Final = 0.5  # seconds between two looks at what is missing
DIGEST: Final = 5.0  # seconds between two digests of the sets that have no other end
MAX_SCOPES: Final = 100  # sets that one item asks for
MAX_ANSWERED: Final = 50  # sets that are published in a row: about a millisecond, and one or two batches of the bus
ANSWER_PAUSE: Final = 0.005  # seconds after which others follow; what is asked for again meanwhile is answered once


class PeerPresence:
    """The sets of this process, and its copies of those of the others.

    Args:
        publisher: the id of this process on the bus.
        publish: publishes an item.
        last_heard: returns when a process was heard last, on Trio's clock; None: not lately.
        users_of: returns the users with sessions here who are in a conversation.
        name_of: returns the name of such a user.
        on_online: called with a user who came to, or left, the other processes.
        on_pinned: called with a conversation whose room must be open here, or needs not any more.
        on_gone: called when a process has ended, or stands still: it may have committed what it did not publish.
        rand: gives the moment at which a room says who is in it.

    Attributes:
        alive: the processes that were heard of lately.
        online_here: the users who are online here.
        online: the users who are online in other processes.
        pinned_here: the conversations that have a connection of their own here.
        pinned: those that have one in another process.
    """

    def __init__(
        self,
        publisher: UUID,
        publish: Callable[[Item], None],
        *,
        last_heard: Callable[[UUID], float | None],
        users_of: Callable[[UUID], Iterable[UUID]],
        name_of: Callable[[UUID], str | None],
        on_online: Callable[[UUID], None],
        on_pinned: Callable[[UUID], None],
        on_gone: Callable[[], None],
        rand: random.Random,
    ) -> None:
        self._publisher = publisher
        self.publish = publish
        self._is_connected = True
        self._connected_at = -math.inf  # on Trio's clock
        self._must_ask = False
        self._last_heard = last_heard
        self._users_of = users_of
        self._name_of = name_of
        self._on_pinned = on_pinned
        self._on_gone = on_gone
        self._random = rand
        self._nursery: trio.Nursery | None = None
        self._stamp = 0
        self.online_here = OwnSet(ONLINE, publish, self.next_stamp)
        self.online = PeerSet(ONLINE, self.doubt, lambda key, _: on_online(key), lambda key, _: on_online(key))
        self.pinned_here = OwnSet(PINNED, publish, self.next_stamp)
        self.pinned = PeerSet(PINNED, self.doubt, lambda key, _: on_pinned(key), lambda key, _: on_pinned(key))
        self._rooms: dict[str, RoomPresence] = {}
        self._heard_at: dict[UUID, float] = {}  # process → when, on Trio's clock
        self._asked: dict[tuple[PeerSet, UUID], float] = {}  # sets that were asked for, and when
        self._due: dict[tuple[PeerSet, UUID], None] = {}  # those that must be asked for again
        # Sets of this process that others have asked for; True if they wait for the answer.
        self._to_answer: dict[str, bool] = {}
        self._must_answer = trio.Event()

    def next_stamp(self) -> int:
        """Returns a higher number each time."""
        self._stamp += 1
        return self._stamp

    @property
    def can_answer(self) -> bool:
        """True if another process can be asked, or there may be one that was not heard of yet."""
        is_strange = trio.current_time() < self._connected_at + STRANGE
        return self._is_connected and (bool(self._heard_at) or is_strange)

    @property
    def alive(self) -> set[UUID]:
        """The processes that were heard of lately."""
        return set(self._heard_at)

    async def run(self) -> None:
        """Answers, asks again for what is missing, and lets go of processes that have ended; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._answer_all, name="answers about presence")
            self._nursery = nursery
            try:
                await self._look()
            finally:
                self._nursery = None

    def tell_later(self, room: RoomPresence) -> None:
        """Lets a room say who is in it within `TELL` seconds."""
        if self._nursery is None:
            room.tell()
        else:
            self._nursery.start_soon(self._tell, room, name=f"users of {room.elsewhere.scope}")

    async def _tell(self, room: RoomPresence) -> None:
        await trio.sleep(self._random.uniform(*TELL))
        if room.is_due:
            room.tell()

    async def _look(self) -> None:
        next_digest = trio.current_time() + DIGEST
        while True:
            await trio.sleep(TICK)
            now = trio.current_time()
            if self._is_connected:
                for publisher, at in list(self._heard_at.items()):
                    if now - max(at, self._last_heard(publisher) or at) > GONE:
                        self.forget(publisher)
            due, self._due = self._due, {}
            self._asked = {key: at for key, at in self._asked.items() if now - at < TICK}
            for peer_set, publisher in due:
                if publisher in self._heard_at:
                    self.doubt(peer_set, publisher)
            if now >= next_digest:
                next_digest = now + DIGEST
                if self._must_ask:
                    self._must_ask = False
                    self._ask_all(None)
                self._publish_digests()

    def open_room(
        self, conversation_id: UUID, on_joined: Callable[[User, bool], None], on_left: Callable[[User, bool], None]
    ) -> RoomPresence:
        """Returns the presence of a room that opens; `close_room` must follow."""
        room = self._rooms[str(conversation_id)] = RoomPresence(conversation_id, self, on_joined, on_left)
        return room

    def close_room(self, room: RoomPresence, *, have_left: bool) -> None:
        """Ends the presence of a room; see `RoomPresence.close`."""
        scope = room.elsewhere.scope
        if self._rooms.get(scope) is room:
            del self._rooms[scope]
            room.close(have_left=have_left)

    def hear(self, publisher: UUID) -> None:
        """Notes that a process is alive; asks one that was not heard of for its sets."""
        is_new = publisher not in self._heard_at
        self._heard_at[publisher] = trio.current_time()
        if is_new:
            self._ask_all(publisher)

    def apply(self, publisher: UUID, item: SetItem) -> None:
        """Handles what another process has said of its sets, or asks."""
        if isinstance(item, AskItem):
            if item.publisher is None or item.publisher == self._publisher:
                # Later, and once for all who ask: after an outage of the bus every process asks all others.
                self._to_answer |= dict.fromkeys(item.scopes[:MAX_SCOPES], True)
                self._must_answer.set()
        elif isinstance(item, DigestItem):
            for scope, digest in item.digests:
                copies = self._set(scope)
                if copies is not None:
                    copies.compare(publisher, digest)
        else:
            self._apply_set(publisher, item)

    def _apply_set(self, publisher: UUID, item: DeltaItem | WholeItem) -> None:
        if isinstance(item, WholeItem) and item.known is not None and self._publisher not in item.known:
            self._to_answer.setdefault(item.scope, False)
            self._must_answer.set()
        if (room := self._rooms.get(item.scope)) is not None:
            room.apply(publisher, item)
        elif (copies := self._set(item.scope)) is not None:
            copies.apply(publisher, item)

    def resync(self) -> None:
        """Asks all processes for their sets, soon: something may have been lost."""
        self._must_ask = True  # once in `DIGEST` seconds: the answers are long

    def set_connected(self, is_connected: bool) -> None:
        """Notes whether the bus is there: without it the silence of others says nothing; asks them when it is back."""
        self._is_connected = is_connected
        self._heard_at = dict.fromkeys(self._heard_at, trio.current_time())
        if is_connected:
            self._connected_at = trio.current_time()
            self._publish_digests()  # also a sign of life: others that do not know this process ask for its sets
            self._ask_all(None)

    def forget(self, publisher: UUID) -> None:
        """Lets go of a process that has ended, and of all that it had."""
        self._heard_at.pop(publisher, None)
        self.online.forget(publisher)
        self.pinned.forget(publisher)
        for room in list(self._rooms.values()):
            room.elsewhere.forget(publisher)
            room.check_settled()
        self._on_gone()

    def doubt(self, copies: PeerSet, publisher: UUID) -> None:
        """Asks a process for a set: now, or when an answer that is on its way is there."""
        key = copies, publisher
        if key in self._asked:
            self._due[key] = None
        else:
            self._asked[key] = trio.current_time()
            self.publish(AskItem([copies.scope], publisher))

    def _set(self, scope: str) -> PeerSet | None:
        return {ONLINE: self.online, PINNED: self.pinned}.get(scope)

    def _publish_digests(self) -> None:
        sets = (self.online_here, self.pinned_here)
        self.publish(DigestItem([(each.scope, each.digest) for each in sets]))

    def _ask_all(self, publisher: UUID | None) -> None:
        scopes = [ONLINE, PINNED, *self._rooms]
        for at in range(0, len(scopes), MAX_SCOPES):
            self.publish(AskItem(scopes[at : at + MAX_SCOPES], publisher))

    async def _answer_all(self) -> None:
        while True:
            await self._must_answer.wait()
            self._must_answer = trio.Event()
            while self._to_answer:
                for scope in list(islice(self._to_answer, MAX_ANSWERED)):
                    self._answer(scope, must=self._to_answer.pop(scope))
                await trio.sleep(ANSWER_PAUSE)

    def _answer(self, scope: str, *, must: bool) -> None:
        room = self._rooms.get(scope)
        if room is not None:
            room.answer(must=must)
        elif scope == ONLINE:
            self.online_here.publish_whole()
        elif scope == PINNED:
            self.pinned_here.publish_whole()
        else:
            self._answer_for_room(scope, must=must)

    def _answer_for_room(self, scope: str, *, must: bool) -> None:
        """Answers for a room that is not open here, if it must; it opens if there are members here, and tells more."""
        try:
            conversation_id = UUID(scope)
        except ValueError:
            return
        elements: Mapping[UUID, str] = {
            user_id: name for user_id in self._users_of(conversation_id) if (name := self._name_of(user_id)) is not None
        }
        if must:
            publish_whole(scope, elements, self.publish, self.next_stamp())
        if elements:
            self._on_pinned(conversation_id)
