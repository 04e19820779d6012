"""The rooms of this process: opened when somebody needs one, forgotten when it is vacant."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import structlog
import trio

from pulse_trio.metrics import Metrics
from pulse_trio.protocol import CloseCode
from pulse_trio.rooms.catch_up import CatchUp
from pulse_trio.rooms.membership import MembershipChanges
from pulse_trio.rooms.room import Room
from pulse_trio.rooms.session import Sessions
from pulse_trio.settings import Settings
from pulse_trio.store.base import NotAMember, Store, StoreUnavailable

log = structlog.get_logger(__name__)


class Rooms:
    """Conversation id → room, and the nursery in which rooms and sessions live.

    Args:
        store: where messages are.
        sessions: who comes in when a room opens.
        members: the changes of members that are under way.
        catch_up: reads committed changes.
        settings: the bounds of rooms.
        rand: where the jitter of retries comes from.
        metrics: where it is counted what they do.
    """

    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        members: MembershipChanges,
        catch_up: CatchUp,
        settings: Settings,
        rand: random.Random,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._members = members
        self._catch_up = catch_up
        self._settings = settings
        self._random = rand
        self._metrics = metrics
        self._rooms: dict[UUID, Room] = {}
        self._ending: dict[Room, None] = {}  # nobody joins them any more, but their tasks have not ended
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The nursery, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    @property
    def nursery(self) -> trio.Nursery:
        """Where their tasks run."""
        assert self._nursery is not None, "the hub is not running"
        return self._nursery

    def get(self, conversation_id: UUID) -> Room | None:
        """The room, if there is one; it may still be opening."""
        return self._rooms.get(conversation_id)

    def all(self) -> list[Room]:
        """Every room that may be joined."""
        return list(self._rooms.values())

    def going(self) -> list[Room]:
        """Every room that has not ended, those that nobody joins any more included."""
        return [*self._rooms.values(), *self._ending]

    def __len__(self) -> int:
        return len(self._rooms)

    def room(self, conversation_id: UUID) -> Room:
        """Returns the room; begins to open it if there is none. To keep it, enter `Room.held` before any await."""
        room = self._rooms.get(conversation_id)
        if room is None:
            room = Room(
                conversation_id,
                store=self._store,
                sessions=self._sessions,
                members=self._members,
                catch_up=self._catch_up,
                settings=self._settings,
                rand=self._random,
                metrics=self._metrics,
                on_vacant=self._forget,
            )
            self._rooms[conversation_id] = room
            self.nursery.start_soon(self._run_room, room, name=f"room {conversation_id}")
        return room

    @asynccontextmanager
    async def opened(self, conversation_id: UUID) -> AsyncIterator[Room]:
        """Waits until a room is open, and keeps it open within an `async with` block.

        Raises:
            NotAMember: there is no such conversation.
            StoreUnavailable: the room could not be opened.
        Cancelled: while it opens, the room is not kept.
        """
        room = self.room(conversation_id)
        with room.held():
            await room.opened.wait()
            if room.failure is not None:
                raise room.failure
            yield room

    async def _run_room(self, room: Room) -> None:
        """Runs a room; its failure ends that room, not the others."""
        # Its lines in the log are not those of whoever happened to open it.
        structlog.contextvars.clear_contextvars()
        try:
            await room.run()
        except (StoreUnavailable, NotAMember) as error:
            room.failure = error
        except Exception:
            room.failure = StoreUnavailable("the room failed")
            log.exception("a room failed", conversation_id=str(room.conversation_id))
        finally:
            if room.failure is None:
                room.failure = StoreUnavailable("the room has ended")  # for who still waits for it to open
            self._forget(room)
            room.close_all(CloseCode.INTERNAL_ERROR, "the conversation failed; reconnect")  # sessions, if it did
            self._ending.pop(room, None)
            room.opened.set()
            room.ended.set()

    def _forget(self, room: Room) -> None:
        if self._rooms.get(room.conversation_id) is room:
            del self._rooms[room.conversation_id]
            self._ending[room] = None
