"""Who sent a message, or a change of one, and how they are told what became of it."""

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
    """Tells a subscription what became of its message; a subscription that has gone is told nothing.

    Args:
        subscription: who sent it. A session may send where it has no place yet, or none any more.
        client_id: what the answer is told back with, if it is a refusal.
        subscription_of: the room's: whose place a connection has there when the answer comes.
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
            return  # it has it, as everybody
        subscription = self._subscription_of(self.subscription.connection.transport)
        if subscription is None:  # a resend by who has been removed: nothing of the conversation reaches them
            self.subscription.refuse(not_a_member(), self._client_id)
        else:
            subscription.deliver_again(message.rev, encode(change_frame(message)))

    def settled(self) -> None:
        self.subscription.connection.capacity.release()

    def refuse(self, error: PulseError, client_id: str | None) -> None:
        self.subscription.refuse(error, client_id)


class WaitingSender:
    """Somebody who waits for the outcome."""

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
        """What was stored.

        Raises:
            NotAMember: who sent it is not in the conversation.
            PulseError: it was refused, or could not be stored in time.
        """
        await self._settled.wait()
        if isinstance(self._outcome, Message):
            return self._outcome
        if self._outcome is not None and self._outcome.code is ErrorCode.NOT_A_MEMBER:
            raise NotAMember
        raise self._outcome or not_stored()
