"""The senders of a message, or of a change of one, and how each gets the outcome."""

from collections.abc import Callable

import trio

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.protocol import encode
from pulse_trio.rooms.connection import Transport
from pulse_trio.rooms.message_frames import change_frame
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.rooms.writer import not_a_member, not_stored
from pulse_trio.store.base import Message, NotAMember


class SubscriptionSender:
    """A connection: the outcome is sent to it as a frame, if it is still open.

    Args:
        subscription: the sender's. A session may send where it is not subscribed yet, or not any more.
        client_id: of the message; an error frame repeats it.
        subscription_of: the room's; gives the subscription that the connection has when the outcome comes.
    """

    __slots__ = ("_client_id", "_subscription_of", "subscription")

    def __init__(
        self,
        subscription: Subscription,
        client_id: str | None,
        subscription_of: Callable[[Transport], Subscription | None],
    ) -> None:
        self.subscription = subscription
        self._client_id = client_id
        self._subscription_of = subscription_of

    def stored(self, message: Message, *, is_news: bool) -> None:
        if is_news:
            return  # the feed has delivered it to all, so to the sender, too
        subscription = self._subscription_of(self.subscription.connection.transport)
        if subscription is None:  # a resend of a removed user: nothing of the conversation may reach them
            self.subscription.refuse(not_a_member(), self._client_id)
        else:
            subscription.deliver_again(message.rev, encode(change_frame(message)))

    def settled(self) -> None:
        self.subscription.connection.capacity.release()

    def refuse(self, error: PulseError, client_id: str | None) -> None:
        self.subscription.refuse(error, client_id)


class WaitingSender:
    """A task that waits for the outcome, as that of a REST request does."""

    def __init__(self) -> None:
        self._settled = trio.Event()
        self._outcome: Message | PulseError | None = None

    def stored(self, message: Message, *, is_news: bool) -> None:
        self._outcome = message

    def settled(self) -> None:
        self._settled.set()

    def refuse(self, error: PulseError, client_id: str | None) -> None:
        self._outcome = error

    async def wait(self) -> Message:
        """Returns the stored message.

        Raises:
            NotAMember: the sender is not in the conversation.
            PulseError: it was rejected, or could not be stored in time.
        Cancelled: it may be stored or not.
        """
        await self._settled.wait()
        if isinstance(self._outcome, Message):
            return self._outcome
        if self._outcome is not None and self._outcome.code is ErrorCode.NOT_A_MEMBER:
            raise NotAMember
        raise self._outcome or not_stored()
