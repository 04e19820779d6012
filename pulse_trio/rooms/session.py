"""Sessions: connections that carry all of a user's conversations.

A session costs nothing in a conversation where nothing happens. When a room opens, it looks up the members and
subscribes their sessions; when a session opens, it looks up which of the open rooms are its user's. An addition to a
conversation, or a removal, reaches both at once.
"""

from typing import Final
from uuid import UUID

import trio

from pulse_trio.protocol import ConversationAddedFrame, ConversationRemovedFrame, encode
from pulse_trio.rooms.connection import Connection
from pulse_trio.rooms.membership import later
from pulse_trio.rooms.subscription import SendPage, Subscription
from pulse_trio.store.base import User

REFUSAL_SECONDS: Final = 1.0  # in which a further frame about a foreign conversation costs no look-up
MAX_NOTIFIED: Final = 1_024  # memberships whose last notification is kept, so that it is sent once
MAX_REFUSALS: Final = 64  # foreign conversations kept for each session; beyond it the oldest is dropped


class Session:
    """One connection for all of a user's conversations.

    Until `start` only the greeting is sent: the client may first say where to resume.

    Args:
        connection: the connection.
        send_page: sends the next page of missed changes; see `CatchUp.send_page`.

    Attributes:
        subscriptions: one for each conversation in which something has happened, or will be replayed.
        changed: while the user's memberships are looked up, the last change of each since then: its version, and True
            for an addition.
        ended: set when nothing more will be sent.
        is_greeted: changes from now on reach the client; it learns of earlier ones by loading its list.
        waiting: cancels the task that starts the session after `PULSE_RESUME_WAIT`.
    """

    __slots__ = (
        "_notified",
        "_refused",
        "_send_page",
        "changed",
        "connection",
        "ended",
        "is_greeted",
        "is_started",
        "subscriptions",
        "waiting",
    )

    def __init__(self, connection: Connection, send_page: SendPage) -> None:
        self.connection = connection
        self._send_page = send_page
        self.subscriptions: dict[UUID, Subscription] = {}
        self.changed: dict[UUID, tuple[int, bool]] | None = None
        self._notified: dict[UUID, bool] = {}  # the last notification of each membership: True for an addition
        self._refused: dict[UUID, float] = {}  # foreign conversation → until when it is refused without a look-up
        self.ended = trio.Event()
        self.waiting = trio.CancelScope()
        self.is_greeted = False
        self.is_started = False

    @property
    def user(self) -> User:
        """The user of the session."""
        return self.connection.user

    def subscription(self, conversation_id: UUID) -> Subscription:
        """Returns the subscription to a conversation, or a new one that no room knows: the writer checks membership."""
        found = self.subscriptions.get(conversation_id)
        return Subscription(self.connection, conversation_id, 0, self._send_page) if found is None else found

    def subscribe(self, conversation_id: UUID, last_rev: int) -> Subscription:
        """Returns the subscription for a room that is open at `last_rev`; missed changes will be sent on it."""
        subscription = self.subscriptions.get(conversation_id)
        if subscription is None:
            self.notify_added(conversation_id, only_if_left=True)
            subscription = Subscription(self.connection, conversation_id, last_rev, self._send_page)
            self.subscriptions[conversation_id] = subscription
            subscription.is_live = self.is_started
        else:
            subscription.target = max(subscription.target, last_rev)
            if subscription.is_live and subscription.cursor < last_rev:
                subscription.start()
        return subscription

    def resume(self, conversation_id: UUID, rev: int, last_rev: int) -> None:
        """Sets a conversation back to the last rev that the client has; only before `start`."""
        subscription = self.subscriptions.get(conversation_id)
        if subscription is not None:
            subscription.cursor = rev  # also if it is beyond the rev at which the room subscribed the session
            subscription.target = max(subscription.target, last_rev)
        elif rev < last_rev:
            self.notify_added(conversation_id, only_if_left=True)
            subscription = Subscription(self.connection, conversation_id, rev, self._send_page)
            subscription.target = last_rev
            self.subscriptions[conversation_id] = subscription

    def start(self) -> None:
        """Starts delivery."""
        if not self.is_started:
            self.is_started = True
            self.waiting.cancel()
            self.connection.release()
            for subscription in self.subscriptions.values():
                subscription.start()

    def remember_refusal(self, conversation_id: UUID) -> None:
        """Remembers for `REFUSAL_SECONDS` that the user is no member of a conversation."""
        self._refused.pop(conversation_id, None)
        self._refused[conversation_id] = trio.current_time() + REFUSAL_SECONDS
        if len(self._refused) > MAX_REFUSALS:
            del self._refused[next(iter(self._refused))]

    def is_refused(self, conversation_id: UUID) -> bool:
        """True if a recent look-up found that the user is no member of a conversation."""
        return trio.current_time() < self._refused.get(conversation_id, 0.0)

    def added(self, conversation_id: UUID, version: int, *, is_news: bool) -> None:
        """Notifies the client that its user has been added to a conversation; once, unless it is news."""
        self._record_change(conversation_id, version, is_member=True)
        self._refused.pop(conversation_id, None)
        self.notify_added(conversation_id, is_news=is_news)

    def notify_added(self, conversation_id: UUID, *, only_if_left: bool = False, is_news: bool = False) -> None:
        """Notifies the client of an addition, once; also if a look-up shows it before its answer comes.

        Args:
            conversation_id: the conversation.
            only_if_left: only if the client's last notification was that its user was removed.
            is_news: notify again, although it was the last notification: the user may have been out in between, and
                have missed something.
        """
        last = self._notified.get(conversation_id)
        if self.is_greeted and (is_news or last is False or (last is None and not only_if_left)):
            self._remember_notification(conversation_id, is_member=True)
            self.connection.deliver(encode(ConversationAddedFrame(conversation_id=conversation_id)))

    def removed(self, conversation_id: UUID, version: int = 0) -> Subscription | None:
        """Notifies the client that its user has been removed; returns its subscription, if it had one.

        Frames of the conversation that wait in the outbox are not sent.
        """
        self._record_change(conversation_id, version, is_member=False)
        subscription = self.subscriptions.pop(conversation_id, None)
        if subscription is not None:
            subscription.remove()
        if self.is_greeted:
            self._remember_notification(conversation_id, is_member=False)
            self.connection.deliver(encode(ConversationRemovedFrame(conversation_id=conversation_id)))
        return subscription

    def _remember_notification(self, conversation_id: UUID, *, is_member: bool) -> None:
        self._notified.pop(conversation_id, None)
        self._notified[conversation_id] = is_member
        if len(self._notified) > MAX_NOTIFIED:
            del self._notified[next(iter(self._notified))]

    def _record_change(self, conversation_id: UUID, version: int, *, is_member: bool) -> None:
        if self.changed is not None:
            self.changed[conversation_id] = later(self.changed.get(conversation_id), (version, is_member))


class Sessions:
    """The sessions of this process, by user."""

    def __init__(self) -> None:
        self._by_user: dict[UUID, dict[Session, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_user)

    def all(self) -> list[Session]:
        """Returns all sessions."""
        return [session for sessions in self._by_user.values() for session in sessions]

    def add(self, session: Session) -> None:
        """Adds a session: rooms that open from now on subscribe it."""
        self._by_user.setdefault(session.user.id, {})[session] = None

    def discard(self, session: Session) -> None:
        """Removes a session, if it is there."""
        sessions = self._by_user.get(session.user.id, {})
        sessions.pop(session, None)
        if not sessions:
            self._by_user.pop(session.user.id, None)

    def of(self, user_id: UUID) -> list[Session]:
        """Returns the sessions of a user, in the order they came."""
        return list(self._by_user.get(user_id, ()))
