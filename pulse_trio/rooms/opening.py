"""The opening of a room: looks up a conversation, and follows changes of its members meanwhile."""

import random
from uuid import UUID

import trio

from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.membership import later
from pulse_trio.rooms.session import Sessions
from pulse_trio.rooms.writer import Writer
from pulse_trio.store.base import Head, Members, Store, StoreUnavailable


class Opening:
    """The head and the members of a conversation, looked up for its room.

    Args:
        conversation_id: the conversation.
        store: the store.
        sessions: the sessions of this process; without any the members are not needed.
        writer: the room's; the look-up is retried while it has commands that wait.
        timeout: seconds after which the look-up fails.
        rand: gives the jitter of retries.
    """

    __slots__ = (
        "_changes",
        "_conversation_id",
        "_members",
        "_must_recheck",
        "_random",
        "_sessions",
        "_store",
        "_timeout",
        "_writer",
    )

    def __init__(
        self,
        conversation_id: UUID,
        store: Store,
        sessions: Sessions,
        writer: Writer,
        *,
        timeout: float,
        rand: random.Random,
    ) -> None:
        self._conversation_id = conversation_id
        self._store = store
        self._sessions = sessions
        self._writer = writer
        self._timeout = timeout
        self._random = rand
        self._members = Members((), 0)
        self._changes: dict[UUID, tuple[int, bool]] = {}  # the last of each user: its version, True for an addition
        self._must_recheck = False

    async def look_up(self) -> Head:
        """Looks up the head, and the members for `take_members`.

        Raises:
            NotAMember: there is no such conversation.
            StoreUnavailable: it could not be looked up.
        Cancelled: nothing has happened.
        """
        backoff = Backoff(self._random)
        with trio.move_on_after(self._timeout):
            while True:
                self._must_recheck = False
                try:
                    head = await self._store.head(self._conversation_id)
                    if self._sessions:
                        self._members = await self._store.members(self._conversation_id)
                    else:
                        self._members = Members((), 0)
                except StoreUnavailable:
                    if not self._writer.unsettled:
                        raise
                    await backoff.wait()
                else:
                    if not self._must_recheck:
                        return head
        raise StoreUnavailable("the conversation could not be looked up in time")

    def record_change(self, user_id: UUID, version: int, *, is_member: bool) -> None:
        """Records that a user was added, or removed."""
        self._changes[user_id] = later(self._changes.get(user_id), (version, is_member))

    def recheck(self) -> None:
        """Makes `look_up` look again: a member may have been removed."""
        self._must_recheck = True

    def take_members(self) -> list[UUID]:
        """Returns the members that were looked up, with the changes since then."""
        members = self._members
        known = dict.fromkeys(members.ids, (members.version, True))
        for user_id, change in self._changes.items():
            known[user_id] = later(known.get(user_id, (members.version, False)), change)
        self._changes.clear()
        self._members = Members((), 0)
        return [user_id for user_id, (_, is_member) in known.items() if is_member]
