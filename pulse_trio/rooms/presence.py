"""Presence: who is connected to a conversation, and how much of it is told to whom.

With few users every frame about a coming or going has the whole list. The cost of that is the square of their
number, so in a crowded conversation only who joins gets the list; the others are told who came and who went, what
happened within a moment in one frame.
"""

from typing import Final
from uuid import UUID

from pulse_trio.protocol import PresenceFrame, PresentUser
from pulse_trio.store.base import User

GATHER: Final = 0.1  # seconds that comings and goings of a crowd are gathered
FRAME_USERS: Final = 100  # most users in one frame: about 10 KB


class Presence:
    """The users of a conversation's connections, each with how many they have, in the order they came.

    Args:
        list_max: with more active users than this it is crowded.
    """

    __slots__ = ("_connections", "_list_max", "_news")

    def __init__(self, list_max: int) -> None:
        self._list_max = list_max
        self._connections: dict[UUID, int] = {}
        self._news: dict[UUID, tuple[User, bool]] = {}  # who came (True) or went since the last frame

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def users(self) -> list[UUID]:
        """Who is active."""
        return list(self._connections)

    @property
    def is_crowded(self) -> bool:
        """Whether the list is too long to be told to everybody."""
        return len(self._connections) > self._list_max

    def enter(self, user: User) -> bool:
        """Adds a connection; returns whether it is the first of its user."""
        count = self._connections[user.id] = self._connections.get(user.id, 0) + 1
        return count == 1

    def leave(self, user: User) -> bool:
        """Takes a connection away; returns whether it was the last of its user."""
        self._connections[user.id] -= 1
        if self._connections[user.id]:
            return False
        del self._connections[user.id]
        return True

    def clear(self) -> None:
        """Nobody is connected, and nobody is told."""
        self._connections.clear()
        self._news.clear()

    def note(self, user: User, *, came: bool) -> None:
        """Keeps for `take_news` that a user came or went; who went and came back did neither."""
        if self._news.pop(user.id, None) is None:
            self._news[user.id] = user, came

    def has_news_of(self, user: User) -> bool:
        """Says if a frame about a user is still to be sent; then what follows must be in the same frame."""
        return user.id in self._news

    def take_news(self, conversation_id: UUID) -> list[PresenceFrame]:
        """What to tell of those who came and went since it was last asked."""
        news = list(self._news.values())
        self._news.clear()
        return [
            PresenceFrame(
                conversation_id=conversation_id,
                joined=[PresentUser(user.id, user.username) for user, came in part if came],
                left=[PresentUser(user.id, user.username) for user, came in part if not came],
                active_count=len(self),
            )
            for part in (news[at : at + FRAME_USERS] for at in range(0, len(news), FRAME_USERS))
        ]
