"""Who sent a message, or a change of one, and how they are told what became of it."""

import trio

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.protocol import encode
from pulse_trio.rooms.frames import change_frame
from pulse_trio.rooms.member import Member
from pulse_trio.store.base import Message


class MemberSender:
    """Tells a member what became of its message; a member that has gone is told nothing."""

    __slots__ = ("member",)

    def __init__(self, member: Member) -> None:
        self.member = member

    def stored(self, message: Message, *, is_news: bool) -> None:
        if not is_news:
            self.member.deliver_again(message.rev, encode(change_frame(message)))

    def settled(self) -> None:
        self.member.connection.capacity.release()

    def refuse(self, error: PulseError, client_id: str | None) -> None:
        self.member.refuse(error, client_id)


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
        await self._settled.wait()
        if isinstance(self._outcome, Message):
            return self._outcome
        raise self._outcome or PulseError(ErrorCode.NOT_STORED, "The change could not be stored")
