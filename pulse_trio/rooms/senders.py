"""The senders of a command, and how each gets the outcome."""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import trio

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.model import FEATURED, Change, Message
from pulse_trio.protocol import encode
from pulse_trio.rooms.change_frames import message_frame
from pulse_trio.rooms.connection import Transport
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.rooms.writer import not_a_member, not_stored
from pulse_trio.store.base import NoSuchMessage, NotAMember, NotYourMessage, Refusal

_CODES: Final = {
    NotAMember: ErrorCode.NOT_A_MEMBER,
    NoSuchMessage: ErrorCode.NO_SUCH_MESSAGE,
    NotYourMessage: ErrorCode.NOT_YOUR_MESSAGE,
}
"""Refusals of the commands that a connection can send."""

OnStored: TypeAlias = Callable[[Sequence[Change]], object]
"""Takes the changes that a command has made; called in the room's task, so it must not fail or take long."""


class SubscriptionSender:
    """A connection: the outcome is sent to it as a frame, if it is still open.

    Args:
        subscription: the sender's. A session may send where it is not subscribed yet, or not any more.
        client_id: of the message; an error frame repeats it.
        subscription_of: the room's; gives the subscription that the connection has when the outcome comes.
        on_stored: called with the changes, if the command was carried out.
    """

    __slots__ = ("_client_id", "_on_stored", "_subscription_of", "subscription")

    def __init__(
        self,
        subscription: Subscription,
        client_id: str | None,
        subscription_of: Callable[[Transport], Subscription | None],
        on_stored: OnStored | None = None,
    ) -> None:
        self.subscription = subscription
        self._client_id = client_id
        self._subscription_of = subscription_of
        self._on_stored = on_stored

    @property
    def source(self) -> object:
        return self.subscription.connection

    def stored(self, changes: Sequence[Change], *, is_news: bool) -> None:
        if self._on_stored is not None:
            self._on_stored(changes)
        subscription = self._subscription_of(self.subscription.connection.transport)
        if subscription is None:  # a resend of a removed user: nothing of the conversation may reach them
            self.subscription.refuse(not_a_member(), self._client_id)
            return
        if is_news:
            return  # the feed delivers it to all, so to the sender, too
        for change in changes:
            assert isinstance(change, Message), "connections send commands about messages only"
            # The kind of the change before it is not known: a client that lacks it catches up once too often.
            prev_rev = change.rev - 1 if subscription.mask & FEATURED else None
            subscription.deliver_again(change.rev, encode(message_frame(change, prev_rev)))

    def settled(self) -> None:
        self.subscription.connection.capacity.release()

    def refuse(self, error: PulseError | Refusal, client_id: str | None) -> None:
        refused = PulseError(_CODES[type(error)]) if isinstance(error, Refusal) else error
        self.subscription.refuse(refused, client_id)


class WaitingSender:
    """A task that waits for the outcome, as that of a REST request does."""

    def __init__(self) -> None:
        self._settled = trio.Event()
        self._outcome: Sequence[Change] | PulseError | Refusal | None = None

    @property
    def source(self) -> object:
        return self

    def stored(self, changes: Sequence[Change], *, is_news: bool) -> None:
        self._outcome = changes

    def settled(self) -> None:
        self._settled.set()

    def refuse(self, error: PulseError | Refusal, client_id: str | None) -> None:
        self._outcome = error

    async def wait(self) -> Sequence[Change]:
        """Returns the changes.

        Raises:
            Refusal: the store refused the command.
            PulseError: it was rejected, or could not be stored in time.
        Cancelled: it may be carried out or not.
        """
        await self._settled.wait()
        if self._outcome is None:
            raise not_stored()
        if isinstance(self._outcome, PulseError | Refusal):
            raise self._outcome
        return self._outcome
