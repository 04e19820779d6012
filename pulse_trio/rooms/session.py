"""Sessions: connections that carry all of a user's conversations.

A session costs nothing in a conversation where nothing happens. When a room opens, it looks up the members and
subscribes their sessions; when a session opens, it looks up which of the open rooms are its user's. An addition or a
removal that comes later reaches it through the feed of the room.
"""

from collections.abc import Callable
from typing import Protocol
from uuid import UUID

import trio

from pulse_trio.model import Features, User
from pulse_trio.protocol import ConversationAddedFrame, ConversationRemovedFrame, encode
from pulse_trio.rooms.connection import Connection
from pulse_trio.rooms.subscription import SendPage, Subscription


class Position(Protocol):
    """A position among the changes of a conversation: that of an open room, or a head."""

    @property
    def last_revs(self) -> dict[int, int]:
        """The highest rev delivered of each kind."""

    def last_rev_of(self, mask: int) -> int:
        """Returns the highest rev delivered of the kinds of a mask."""


class Notices:
    """The frames `conversation_added` and `conversation_removed` of a session, as an owner of frames in its outbox.

    Attributes:
        is_removed: True while the client asks for `me`, which replaces them.
    """

    __slots__ = ("is_removed",)

    def __init__(self) -> None:
        self.is_removed = False

    def note_dropped(self, prev_rev: int) -> None:
        """Does nothing: a notice has no rev."""


class MyPlace:
    """The place of a session in its user's own sequence; only for sessions that ask for `me`.

    Attributes:
        cursor: the `user_rev` of the last change that the client has.
        target: the `user_rev` up to which it must get changes from the store, before it is live.
        is_live: changes are delivered as they are committed.
        catch_up_later: queues the sending of the next page of missed changes.
    """

    __slots__ = ("catch_up_later", "cursor", "is_live", "target")

    def __init__(self) -> None:
        self.cursor = 0
        self.target = 0
        self.is_live = False
        self.catch_up_later: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Starts delivery: the changes up to `target` from the store, then live."""
        self.is_live = self.cursor >= self.target
        if not self.is_live:
            self.catch_up_later()


class Session:
    """One connection for all of a user's conversations.

    Until `start` only the greeting is sent: the client may first say where to resume.

    Args:
        connection: the connection.
        send_page: sends the next page of missed changes; see `CatchUp.send_page`.

    Attributes:
        subscriptions: one for each conversation in which something has happened, or will be replayed.
        me: the place of the session in its user's own sequence.
        removals: while memberships are looked up, the rev of each removal of the user since then.
        ended_subscriptions: those of conversations that the user has left, while the client does not know that. With
            the feature `me` it may never learn: if its user is added again first, it goes on where they ended.
        ended: set when nothing more will be sent.
        is_greeted: changes from now on reach the client; it learns of earlier ones by loading its list.
        waiting: cancels the task that starts the session after `PULSE_RESUME_WAIT`.
    """

    __slots__ = (
        "_foreign",
        "_notices",
        "_send_page",
        "connection",
        "ended",
        "ended_subscriptions",
        "is_greeted",
        "is_started",
        "me",
        "removals",
        "subscriptions",
        "waiting",
    )

    def __init__(self, connection: Connection, send_page: SendPage) -> None:
        self.connection = connection
        self._send_page = send_page
        self.subscriptions: dict[UUID, Subscription] = {}
        self.me = MyPlace()
        # Conversations of which the client was told at `resume` that its user is no member; made when there is one.
        self._foreign: set[UUID] | None = None
        self._notices = Notices()
        self._notices.is_removed = connection.features.has_me
        self.removals: dict[UUID, int] | None = None
        self.ended_subscriptions: dict[UUID, Subscription] = {}
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

    def subscribe(self, conversation_id: UUID, position: Position, member_rev: int) -> Subscription:
        """Returns the subscription for a room that is open; missed changes will be sent on it.

        Args:
            conversation_id: the conversation.
            position: where the room stands.
            member_rev: the rev of the members as of which the user is one of them.
        """
        last_rev = position.last_rev_of(self.connection.features.mask)
        subscription = self.subscriptions.get(conversation_id)
        if subscription is None:
            if self._foreign is not None and conversation_id in self._foreign:
                self.notify_added(conversation_id)  # what is known here was behind the look-up at `resume`
            subscription = Subscription(self.connection, conversation_id, last_rev, self._send_page)
            self.subscriptions[conversation_id] = subscription
            subscription.member_rev = member_rev
            if self.is_started:
                self._go_on(subscription)
                subscription.start()
            else:
                subscription.origin = dict(position.last_revs)
        else:
            subscription.raise_target(last_rev)
            if subscription.is_live and subscription.cursor < last_rev:
                subscription.start()
        subscription.member_rev = max(subscription.member_rev, member_rev)
        return subscription

    def resume(
        self, conversation_id: UUID, rev: int, last_rev: int, member_rev: int, *, may_repeat: bool = False
    ) -> None:
        """Sets a conversation back to the last rev that the client has; only before `start`.

        Args:
            conversation_id: the conversation.
            rev: the last one that the client has.
            last_rev: the highest rev of the kinds that it asked for.
            member_rev: the rev of the members as of which the user is one of them.
            may_repeat: its room, when it opens, may deliver changes that the client has.
        """
        self.ended_subscriptions.pop(conversation_id, None)
        subscription = self.subscriptions.get(conversation_id)
        if subscription is not None:
            subscription.cursor = rev  # also if it is beyond the rev at which the room subscribed the session
            subscription.target = max(subscription.target, last_rev)
        elif rev < last_rev or may_repeat:
            subscription = Subscription(self.connection, conversation_id, rev, self._send_page)
            subscription.target = last_rev
            subscription.member_rev = member_rev
            self.subscriptions[conversation_id] = subscription

    def start(self) -> None:
        """Starts delivery."""
        if not self.is_started:
            self.is_started = True
            self.waiting.cancel()
            self.connection.release()
            if not self.connection.features.has_me:  # the notices of removals and additions are sent
                self.ended_subscriptions.clear()
            for subscription in self.subscriptions.values():
                self._go_on(subscription)
                subscription.start()
            self.me.start()

    def _go_on(self, subscription: Subscription) -> None:
        """Lets a subscription go on where the one before it ended, if its client does not know of the end.

        That may be beyond what the room has delivered, if other processes have gone on; it is before the addition.
        """
        ended = self.ended_subscriptions.pop(subscription.conversation_id, None)
        if ended is not None:
            subscription.cursor = max(subscription.cursor, subscription.member_rev)
            subscription.go_on(ended)

    def notify_added(self, conversation_id: UUID) -> None:
        """Notifies the client that its user has been added to a conversation, unless it asked for `me`."""
        if self._foreign is not None:
            self._foreign.discard(conversation_id)
        self._notify(ConversationAddedFrame(conversation_id=conversation_id))

    def begin_at(self, conversation_id: UUID, position: Position, member_rev: int) -> None:
        """Lets a conversation begin after a position that its next room may be behind.

        `member_rev`: the rev of the members as of which the user is one of them.
        """
        if conversation_id not in self.subscriptions:
            self.subscribe(conversation_id, position, member_rev)

    def removed(self, conversation_id: UUID, rev: int) -> None:
        """Ends the subscription to a conversation, and notifies the client, unless it asked for `me`.

        Frames of the conversation that wait in the outbox are not sent. `rev`: that of the removal.
        """
        if self.removals is not None:
            self.removals[conversation_id] = rev
        subscription = self.subscriptions.get(conversation_id)
        if subscription is not None and subscription.member_rev < rev:
            del self.subscriptions[conversation_id]
            subscription.remove()
            self._notify_removed(subscription)

    def resume_foreign(self, conversation_id: UUID, rev: int) -> None:
        """Notifies the client that its user is not in a conversation that it wants to resume after a rev."""
        if self._foreign is None:
            self._foreign = set()
        self._foreign.add(conversation_id)
        self.ended_subscriptions.pop(conversation_id, None)  # its client says where it stands
        self._notify_removed(Subscription(self.connection, conversation_id, rev, self._send_page))

    def _notify_removed(self, subscription: Subscription) -> None:
        """Notifies the client that its user is not in a conversation; if it asked for `me`, its own sequence does."""
        conversation_id = subscription.conversation_id
        if self.connection.features.has_me or not self.is_started:  # until then the client may ask for `me`
            self.ended_subscriptions.setdefault(conversation_id, subscription)
        self._notify(ConversationRemovedFrame(conversation_id=conversation_id))

    def change_features(self, features: Features) -> None:
        """Changes what the client is sent; only before `start`. What waits in the outbox and is replaced is dropped."""
        self.connection.features = features
        self._notices.is_removed = features.has_me

    def _notify(self, frame: ConversationAddedFrame | ConversationRemovedFrame) -> None:
        # Before `start` it waits in the outbox, also with `me`: the client may still give that up.
        if self.is_greeted and not (self.is_started and self.connection.features.has_me):
            encoded = encode(frame)
            self.connection.metrics.frames_out[encoded.kind] += 1
            self.connection.deliver(encoded, self._notices)


class Sessions:
    """The sessions of this process, by user."""

    def __init__(self) -> None:
        self._by_user: dict[UUID, dict[Session, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_user)

    def __contains__(self, session: Session) -> bool:
        return session in self._by_user.get(session.user.id, ())

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
