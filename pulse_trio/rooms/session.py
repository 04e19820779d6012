"""Sessions: connections that carry all of a user's conversations.

A session costs nothing in a conversation where nothing happens. When a room opens it looks up who is in
the conversation and takes in the sessions of those who are connected; a session that comes looks up which
of the open rooms are its user's. Being added to a conversation, or removed, reaches both at once.
"""

from typing import Final
from uuid import UUID

import trio

from pulse_trio.protocol import ConversationAddedFrame, ConversationRemovedFrame, encode
from pulse_trio.rooms.connection import Connection
from pulse_trio.rooms.membership import later
from pulse_trio.rooms.subscription import SendPage, Subscription
from pulse_trio.store.base import User

REFUSAL_LASTS: Final = 1.0  # seconds in which a further frame about a foreign conversation costs no look-up
NOTIFIED: Final = 1_024  # memberships of which the client's last news is kept, so that it comes once
REFUSALS: Final = 64  # foreign conversations that are remembered for each session; beyond it the oldest is forgotten


class Session:
    """One connection for all of a user's conversations.

    Until `start` nothing of them is sent but the greeting: the client may first say where it wants to go on.

    Args:
        connection: the connection.
        send_page: sends the next page of missed changes; see `CatchUp.send_page`.

    Attributes:
        subscriptions: its place in each conversation in which something has happened, or will be replayed.
        changed: while the user's memberships are being looked up, the last change of each since then: its version, and
            whether the user was added.
        ended: nothing more is sent.
        is_greeted: what happens from now on is sent; the client learns of what happened before by loading its list.
        waiting: the scope of who starts the session when its client has said nothing.
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
        self._notified: dict[UUID, bool] = {}  # what the client last heard of a membership: True is added
        self._refused: dict[UUID, float] = {}  # foreign conversation → until when it is refused without a look-up
        self.ended = trio.Event()
        self.waiting = trio.CancelScope()
        self.is_greeted = False
        self.is_started = False

    @property
    def user(self) -> User:
        """Whose session it is."""
        return self.connection.user

    def subscription(self, conversation_id: UUID) -> Subscription:
        """Who sends in a conversation: the store knows whether the user is in it."""
        found = self.subscriptions.get(conversation_id)
        return Subscription(self.connection, conversation_id, 0, self._send_page) if found is None else found

    def place(self, conversation_id: UUID, last_rev: int) -> Subscription:
        """The subscription for a room that is open at `last_rev`; what it has missed will be sent."""
        subscription = self.subscriptions.get(conversation_id)
        if subscription is None:
            self.notify_added(conversation_id, only_if_left=True)
            subscription = Subscription(self.connection, conversation_id, last_rev, self._send_page)
            self.subscriptions[conversation_id] = subscription
            subscription.is_live = self.is_started
        else:
            self._due(subscription, last_rev)
        return subscription

    def resume(self, conversation_id: UUID, rev: int, last_rev: int) -> None:
        """Goes back to where the client was; before `start` only."""
        subscription = self.subscriptions.get(conversation_id)
        if subscription is not None:
            subscription.cursor = rev  # also when it is beyond what the room knew when it took the session in
            subscription.target = max(subscription.target, last_rev)
        elif rev < last_rev:
            self.notify_added(conversation_id, only_if_left=True)
            subscription = Subscription(self.connection, conversation_id, rev, self._send_page)
            subscription.target = last_rev
            self.subscriptions[conversation_id] = subscription

    def start(self) -> None:
        """Lets frames flow."""
        if not self.is_started:
            self.is_started = True
            self.waiting.cancel()
            self.connection.release()
            for subscription in self.subscriptions.values():
                subscription.start()

    def refuse_for_a_while(self, conversation_id: UUID) -> None:
        """Remembers that the user is no member of a conversation."""
        self._refused.pop(conversation_id, None)
        self._refused[conversation_id] = trio.current_time() + REFUSAL_LASTS
        if len(self._refused) > REFUSALS:
            del self._refused[next(iter(self._refused))]

    def is_refused(self, conversation_id: UUID) -> bool:
        """Says if a look-up a moment ago found that the user is no member of a conversation."""
        return trio.current_time() < self._refused.get(conversation_id, 0.0)

    def added(self, conversation_id: UUID, version: int, *, is_news: bool) -> None:
        """Notifies the client that its user has been added to a conversation; once, unless it is news."""
        self._note(conversation_id, version, is_member=True)
        self._refused.pop(conversation_id, None)
        self.notify_added(conversation_id, is_news=is_news)

    def notify_added(self, conversation_id: UUID, *, only_if_left: bool = False, is_news: bool = False) -> None:
        """Notifies the client once; also where a look-up shows that its user is a member again, before an answer does.

        Args:
            conversation_id: which conversation.
            only_if_left: only if the client last heard that its user was removed.
            is_news: again, although the client heard it last: its user may have been out in between, and have missed
                something.
        """
        heard = self._notified.get(conversation_id)
        if self.is_greeted and (is_news or heard is False or (heard is None and not only_if_left)):
            self._remember(conversation_id, is_member=True)
            self.connection.deliver(encode(ConversationAddedFrame(conversation_id=conversation_id)))

    def removed(self, conversation_id: UUID, version: int = 0) -> Subscription | None:
        """Notifies the client that its user has been removed; returns its place in the conversation, if it has one.

        What of the conversation waits in the outbox is not sent.
        """
        self._note(conversation_id, version, is_member=False)
        subscription = self.subscriptions.pop(conversation_id, None)
        if subscription is not None:
            subscription.remove()
        if self.is_greeted:
            self._remember(conversation_id, is_member=False)
            self.connection.deliver(encode(ConversationRemovedFrame(conversation_id=conversation_id)))
        return subscription

    def _remember(self, conversation_id: UUID, *, is_member: bool) -> None:
        self._notified.pop(conversation_id, None)
        self._notified[conversation_id] = is_member
        if len(self._notified) > NOTIFIED:
            del self._notified[next(iter(self._notified))]

    def _note(self, conversation_id: UUID, version: int, *, is_member: bool) -> None:
        if self.changed is not None:
            self.changed[conversation_id] = later(self.changed.get(conversation_id), (version, is_member))

    def _due(self, subscription: Subscription, last_rev: int) -> None:
        subscription.target = max(subscription.target, last_rev)
        if subscription.is_live and subscription.cursor < last_rev:
            subscription.start()


class Sessions:
    """The sessions of this process, by user."""

    def __init__(self) -> None:
        self._by_user: dict[UUID, dict[Session, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_user)

    def all(self) -> list[Session]:
        """Every session there is."""
        return [session for sessions in self._by_user.values() for session in sessions]

    def add(self, session: Session) -> None:
        """From now on rooms that open take it in."""
        self._by_user.setdefault(session.user.id, {})[session] = None

    def discard(self, session: Session) -> None:
        """The session has gone."""
        sessions = self._by_user.get(session.user.id, {})
        sessions.pop(session, None)
        if not sessions:
            self._by_user.pop(session.user.id, None)

    def of(self, user_id: UUID) -> list[Session]:
        """The sessions of a user, in the order they came."""
        return list(self._by_user.get(user_id, ()))
