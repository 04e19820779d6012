"""Presence: which users are connected to a conversation, and the frames that say so.

With few users every frame about one that joins or leaves has the whole list. The cost of that is the square of their
number, so a conversation with more than `PULSE_PRESENCE_LIST_MAX` active users is crowded: only a connection that
joins gets the list, and the others get one frame with all users that joined and left within `DELAY` seconds.
"""

from collections.abc import Callable
from functools import partial
from typing import Final, Protocol
from uuid import UUID

import trio

from pulse_trio.model import User
from pulse_trio.protocol import Encoded, PresenceFrame, PresentUser, encode
from pulse_trio.rooms.subscription import Subscription

DELAY: Final = 0.1  # seconds that users who join and leave a crowd are batched
MAX_FRAME_USERS: Final = 100  # about 10 KB
MAX_MISSED: Final = 8  # frames that are kept for a slow client; one with the whole list costs less than more of them


class Presence:
    """The active users of a conversation in the order they came, and how many connections each has.

    Args:
        list_max: with more active users than this it is crowded.
    """

    __slots__ = ("_connections", "_list_max", "_news")

    def __init__(self, list_max: int) -> None:
        self._list_max = list_max
        self._connections: dict[UUID, int] = {}
        self._news: dict[UUID, tuple[User, bool]] = {}  # users that joined (True) or left since the last frame

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def users(self) -> list[UUID]:
        """The active users."""
        return list(self._connections)

    @property
    def is_crowded(self) -> bool:
        """True if the list is too long to be sent to every connection."""
        return len(self._connections) > self._list_max

    def enter(self, user: User) -> bool:
        """Adds a connection; returns True if it is the first of its user."""
        count = self._connections[user.id] = self._connections.get(user.id, 0) + 1
        return count == 1

    def leave(self, user: User) -> bool:
        """Removes a connection; returns True if it was the last of its user."""
        self._connections[user.id] -= 1
        if self._connections[user.id]:
            return False
        del self._connections[user.id]
        return True

    def clear(self) -> None:
        """Removes all connections, and drops what would have been sent about them."""
        self._connections.clear()
        self._news.clear()

    def record(self, user: User, *, joined: bool) -> None:
        """Keeps for `take_frames` that a user joined or left; one that left and came back did neither."""
        if self._news.pop(user.id, None) is None:
            self._news[user.id] = user, joined

    def has_news_of(self, user: User) -> bool:
        """True if a frame about a user is still to be sent; then what follows must be in the same frame."""
        return user.id in self._news

    def take_frames(self, conversation_id: UUID) -> list[PresenceFrame]:
        """Makes the frames about the users that joined and left since the last call."""
        news = list(self._news.values())
        self._news.clear()
        return [
            PresenceFrame(
                conversation_id=conversation_id,
                joined=[PresentUser(user.id, user.username) for user, joined in part if joined],
                left=[PresentUser(user.id, user.username) for user, joined in part if not joined],
                active_count=len(self),
            )
            for part in (news[at : at + MAX_FRAME_USERS] for at in range(0, len(news), MAX_FRAME_USERS))
        ]


class FrameSender(Protocol):
    """The part of a room that sends frames."""

    conversation_id: UUID

    def announce_presence(
        self, event: str, content: str, user_id: UUID, *, exclude: Subscription | None = None
    ) -> None:
        """Sends a `system` frame to every subscription but one."""

    def broadcast_presence(self, frame: Encoded) -> None:
        """Delivers a frame to every subscription."""


class PresenceNotifier:
    """Notifies the subscriptions of a room of users that join and leave.

    Args:
        room: the room.
        presence: its active users.
    """

    __slots__ = ("_nursery", "_presence", "_room", "_scope")

    def __init__(self, room: FrameSender, presence: Presence) -> None:
        self._room = room
        self._presence = presence
        self._nursery: trio.Nursery | None = None
        self._scope: trio.CancelScope | None = None  # of the task that sends the next batch

    def open(self, nursery: trio.Nursery) -> None:
        """Begins; `nursery` is the room's."""
        self._nursery = nursery

    def close(self) -> None:
        """Drops what was not sent yet."""
        self._presence.clear()
        if self._scope is not None:
            self._scope.cancel()

    def notify_joined(self, user: User, subscription: Subscription | None, *, many: bool = False) -> None:
        """Notifies the others of a user that has joined.

        Args:
            user: the user.
            subscription: the first of theirs; None if they are in another process.
            many: many users join at once; then few frames are sent, as in a crowd.
        """
        if many or self._presence.is_crowded:
            self._notify_later(user, joined=True)
        else:
            self._room.announce_presence("joined", joined_sentence(user), user.id, exclude=subscription)

    def notify_left(self, user: User, *, was_crowded: bool) -> None:
        """Notifies the others of a user whose last connection has left; `was_crowded` is as of before that."""
        if was_crowded or self._presence.has_news_of(user):
            self._notify_later(user, joined=False)
        else:
            content = f"User {user.username} left the conversation"
            self._room.announce_presence("left", content, user.id)

    def _notify_later(self, user: User, *, joined: bool) -> None:
        assert self._nursery is not None
        self._presence.record(user, joined=joined)
        if self._scope is None:
            self._scope = trio.CancelScope()
            name = f"presence {self._room.conversation_id}"
            self._nursery.start_soon(self._send_batch, self._scope, name=name)

    async def _send_batch(self, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(DELAY)
            self._scope = None
            for frame in self._presence.take_frames(self._room.conversation_id):
                self._room.broadcast_presence(encode(frame))


class LatePresence:
    """Delivers presence frames to subscriptions; a client that reads slowly gets those that it missed when it reads.

    Without them it would show a wrong list for as long as nobody comes or goes.

    Args:
        make_list: makes a frame with the list of all active users.
    """

    __slots__ = ("_make_list", "_missed")

    def __init__(self, make_list: Callable[[Subscription], Encoded]) -> None:
        self._make_list = make_list
        self._missed: dict[Subscription, list[Encoded] | None] = {}  # None: more than `MAX_MISSED`

    def deliver(self, subscription: Subscription, frame: Encoded) -> None:
        """Delivers a frame, after those that were missed; never blocks."""
        if subscription in self._missed:
            frames = self._missed[subscription]
            if frames is not None:
                frames.append(frame)
                if len(frames) > MAX_MISSED:
                    self._missed[subscription] = None
            return
        connection = subscription.connection
        dropped = connection.dropped_frames
        subscription.deliver(frame, ephemeral=True)
        if connection.dropped_frames > dropped:
            self._missed[subscription] = [frame]
            connection.run_later(partial(self._send_missed, subscription))

    async def _send_missed(self, subscription: Subscription) -> None:
        """Sends what was missed, when everything before it is sent: from there on frames are delivered again."""
        if subscription in self._missed:
            frames = self._missed.pop(subscription)
            frames = [self._make_list(subscription)] if frames is None else frames
            await subscription.connection.send_now(frames, subscription)

    def discard(self, subscription: Subscription) -> None:
        """Forgets a subscription that has ended."""
        self._missed.pop(subscription, None)

    def clear(self) -> None:
        """Forgets all subscriptions."""
        self._missed.clear()


def joined_sentence(user: User) -> str:
    """Returns the sentence that says that a user has joined."""
    return f"User {user.username} joined the conversation"
