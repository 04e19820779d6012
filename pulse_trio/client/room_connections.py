"""The connections of a room, one after the other: each resumes where the one before ended."""

from contextlib import nullcontext
from copy import copy
from dataclasses import replace
from typing import Final

import trio
from msgspec import UNSET
from trio_websocket import ConnectionClosed

from pulse_trio.client import frame_codec
from pulse_trio.client.account import Account
from pulse_trio.client.backoff import Backoff
from pulse_trio.client.errors import AuthenticationFailed, ClientError, ConnectionLost, Refused
from pulse_trio.client.frame_codec import ChangeFrame, MessageChange, OtherFrame
from pulse_trio.client.network import Address, Network
from pulse_trio.client.outgoing import Outgoing
from pulse_trio.client.progress import Progress
from pulse_trio.client.records import (
    Conversation,
    Event,
    Message,
    MessageDeleted,
    MessageEdited,
    Offline,
    Online,
    Reset,
    Typing,
    User,
    Warned,
    read_positions,
)
from pulse_trio.client.redaction import identifier, redacted
from pulse_trio.client.roster import Roster
from pulse_trio.client.unread import Unread
from pulse_trio.client.verdicts import Verdict, verdict_of
from pulse_trio.client.wakeup import Wakeup
from pulse_trio.client.wire import Ending, Wire, converse
from pulse_trio.protocol import (
    AuthFrame,
    ConversationFrame,
    ErrorFrame,
    MemberFrame,
    MessageUpdatedFrame,
    PresenceFrame,
    ReadFrame,
    SystemFrame,
    TypingFrame,
)

GREETING_TIMEOUT: Final = 30.0  # seconds from the handshake to the first `system` frame
BEHIND_AFTER: Final = 1.0  # seconds that an acknowledgement may wait behind unread events
MAX_IMMEDIATE_RETRIES: Final = 3  # reconnections without a wait in a row; later ones wait like failures
MAX_UNFILLED_GAPS: Final = 3  # in a row; after that the room backs off before it reconnects for another gap
STEADY_AFTER: Final = 10.0  # seconds; a connection that lasted this long resets the backoff


class RoomConnections:
    """Keeps a room connected: sends what is due, and turns frames into events.

    Attributes:
        wakeup: notified when any of this changes.
        outgoing: the frames to send.
        unread: the events that were received.
        progress: the changes that were received.
        roster: the users.
        failure: the error with which the room has ended; None while it runs.
        is_online: True while there is a connection.
        was_joined: True once the first connection is open.
    """

    def __init__(
        self,
        conversation: Conversation,
        user: User,
        account: Account,
        network: Network,
        address: Address,
        *,
        backoff: Backoff,
        after: int | None,
        epoch: str | None,
        max_events: int,
    ) -> None:
        self.wakeup = Wakeup()
        self.outgoing = Outgoing(backoff)
        self.unread = Unread(max_events, after or 0, epoch, self.wakeup)
        self.progress = Progress(conversation, after, epoch)
        self.roster = Roster(conversation, user)
        self.failure: ClientError | trio.ClosedResourceError | None = None
        self.is_online = False
        self.was_joined = False
        self._path = f"/api/chat/ws/{conversation.id}"
        self._user = user
        self._account = account
        self._identity = account.identity
        self._network = network
        self._address = address
        self._backoff = backoff
        self._running = trio.CancelScope()
        self._number = 0
        self._is_waiting = False  # for the next attempt to connect
        self._is_behind = False
        self._was_reset = False
        self._token = ""
        self._has_fresh_token = False

    async def wait_joined(self) -> None:
        """Waits for the first `system` frame. Raises: ClientError: the room has failed."""
        await self.wakeup.wait_until(lambda: self.was_joined or self.failure is not None)
        if not self.was_joined:
            self.check()

    def check(self) -> None:
        """Raises the error with which the room has ended, if it has."""
        if self.failure is not None:
            raise copy(self.failure)  # each `raise` of one object would add to its traceback

    def close(self) -> None:
        """Ends the room after its block: later calls raise ClosedResourceError."""
        if self.failure is None:
            self.failure = trio.ClosedResourceError("the room was left")
            self.outgoing.fail(ConnectionLost("the room was left"))
            self.wakeup.notify()

    def end(self, error: ClientError) -> None:
        """Fails the room: `receive` and `send` raise this error."""
        if self.failure is None:
            self._fail(error)
            self._running.cancel()

    def _fail(self, error: ClientError) -> None:
        self.is_online = False
        self.failure = error
        self.outgoing.fail(error)
        self.wakeup.notify()

    async def run(self) -> None:
        """Stays connected until cancelled, or until the room fails: `receive` and `send` then raise the error."""
        self._account.listeners.add(self.wakeup.notify)
        try:
            with self._running:
                await self._run()
        except ClientError as error:
            self._fail(error)
        finally:
            self._account.listeners.discard(self.wakeup.notify)

    # --- connections ---

    async def _run(self) -> None:
        failures = waits = immediate_retries = 0
        while True:
            # While events are not read and no sender waits, a connection is of no use.
            await self.wakeup.wait_until(lambda: not self.unread.is_full or self.outgoing.has_unanswered)
            self._number += 1
            self._token = await self._account.current(self._identity)
            began = trio.current_time()
            path = f"{self._path}?{self.progress.query(resumes=not self._is_behind)}"
            ending = await converse(self._network, self._address, path, self._token, self._run_connection)
            ending = replace(ending, reason=self._hide(ending.reason))
            was_online, self.is_online = self.is_online, False
            failures = 0 if was_online else failures + 1
            if was_online and trio.current_time() >= began + STEADY_AFTER:
                waits = immediate_retries = 0
            if ending.is_wanted:
                continue
            verdict = verdict_of(ending)
            if verdict.error is not None:
                raise verdict.error
            self._apply(verdict)
            at_once = verdict.at_once and (not verdict.renews or await self._renew(ending))
            is_unfilled = ending.is_gap and self.progress.unfilled_gaps >= MAX_UNFILLED_GAPS
            if is_unfilled:
                waits = max(waits, self.progress.unfilled_gaps)
            if at_once and immediate_retries < MAX_IMMEDIATE_RETRIES and not is_unfilled:
                immediate_retries += 1
                continue
            if self._backoff.attempts is not None and failures >= self._backoff.attempts:
                raise ConnectionLost(f"{failures} attempts failed, the last one: {ending.reason}")
            spread = verdict.spread * self._backoff.rand.random()
            delay = self._backoff.delay(waits, least=verdict.least) + spread
            waits += 1
            if was_online:
                self.roster.active = frozenset()
            if self.was_joined:
                self._is_waiting = True
                self.unread.put_if_space(Offline(ending.reason, delay))
            await trio.sleep(delay)

    def _apply(self, verdict: Verdict) -> None:
        if verdict.resets:
            self.progress.reset()
            self._was_reset = True
            self.outgoing.forget_read()
        if verdict.too_big:
            self.outgoing.drop_largest()
        if verdict.slows:
            self.outgoing.slow_down()

    async def _renew(self, ending: Ending) -> bool:
        """Gets a token other than the rejected one; returns False if that is not possible now.

        Raises:
            AuthenticationFailed: a fresh token was rejected too, or there is no password to get one.
        """
        if self._has_fresh_token:  # a token issued just now was rejected too
            raise AuthenticationFailed(ending.reason)
        try:
            await self._account.refresh(self._token, self._identity)
        except (ConnectionLost, Refused):
            return False
        self._has_fresh_token = True
        return True

    async def _run_connection(self, wire: Wire) -> Ending | None:
        """Runs a connection after its handshake; returns the reason when another connection is needed."""
        if not await self._wait_greeting(wire):
            return Ending("the server sent no `system` frame")
        ending: Ending | None = None
        failure: ClientError | ConnectionClosed | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, wire)
            if self._is_behind:
                nursery.start_soon(self._wait_until_read, nursery.cancel_scope)
            try:
                ending = await self._read(wire)
            except (ClientError, ConnectionClosed) as error:
                failure = error  # raised after the nursery, which would wrap it in a group
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if self._is_behind and not self.unread:
            self._is_behind = False
            return Ending("events are read again", is_wanted=True)
        return ending

    async def _wait_greeting(self, wire: Wire) -> bool:
        """Waits for the first `system` frame; returns False if there is none within `GREETING_TIMEOUT` seconds."""
        with trio.move_on_after(GREETING_TIMEOUT):
            while True:
                frame = frame_codec.decode(await wire.receive())
                if isinstance(frame, SystemFrame):
                    break
                # An `error` frame: the close code that follows says why.
            self._joined(frame)
            return True
        return False

    def _joined(self, frame: SystemFrame) -> None:
        is_first = not self.was_joined
        was_known, had_epoch = self.progress.cursor is not None, self.progress.epoch is not None
        self.progress.begin(frame)
        self.roster.take_active(frame)
        if not was_known and is_first and not self._was_reset:
            self.unread.rev, self.unread.epoch = frame.last_rev, frame.epoch
        elif was_known and not had_epoch:
            self.unread.epoch = frame.epoch
        self.was_joined = self.is_online = True
        self._has_fresh_token = False
        self.outgoing.connected(self._number)
        if self._was_reset:
            self._was_reset = False
            self.unread.put(Reset(frame.last_seq, frame.last_rev, frame.epoch))
        elif self._is_waiting:
            self.unread.put_if_space(Online())
        self._is_waiting = False
        self.wakeup.notify()

    # --- writing ---

    async def _write(self, wire: Wire) -> None:
        try:
            while True:
                text = self._next_frame()
                if text is None:
                    with trio.move_on_at(self.outgoing.next_time()):
                        await self.wakeup.wait()
                else:
                    await wire.send(text)
        except ConnectionClosed:
            return  # the reading task reports it

    def _next_frame(self) -> str | None:
        if self.failure is not None:
            return None  # the token may be another user's now
        token = self._account.token
        if token is not None and token != self._token:
            self._token = token
            return frame_codec.encode("auth", token=token)
        # Until the room has caught up, a message sent on an earlier connection may still come back by itself.
        return self.outgoing.next_frame(with_messages=self.progress.is_caught_up or self._is_behind)

    # --- reading ---

    async def _read(self, wire: Wire) -> Ending | None:
        while True:
            frame = frame_codec.decode(await wire.receive())
            if isinstance(frame, SystemFrame) and frame.epoch != self.progress.epoch and not self._is_behind:
                return Ending("the history has a new epoch", is_wanted=True)
            if isinstance(frame, ChangeFrame):
                if ending := await self._take_change(wire, frame):
                    return ending
                continue
            events = self._events_of(frame)
            if not events or self._is_behind:
                continue
            for event in events[:-1]:
                self.unread.put_if_space(event)
            if not await self._wait_space(wire):
                return self._fall_behind()
            self.unread.put(events[-1])

    async def _take_change(self, wire: Wire, frame: ChangeFrame) -> Ending | None:
        message = frame_codec.message_of(frame) if isinstance(frame, MessageChange) else None
        if message is not None:
            self.roster.learn(message.sender_id, message.sender_username)
            if message.sender_id == self._user.id:
                self.outgoing.acknowledge(message)
        if self._is_behind or self.progress.has(frame.rev):  # the answer to a resent message comes again
            return None
        if self.progress.is_gap(frame):
            return Ending("a change is missing", is_gap=True)
        if not await self._wait_space(wire):
            return self._fall_behind()
        *others, last = self._change_events(frame, message)
        for event in others:
            self.unread.put(event)
        self.unread.put(last, frame.rev)
        self.progress.advance(frame.rev, 0 if message is None else message.seq)
        self.wakeup.notify()
        return None

    def _fall_behind(self) -> Ending:
        self._is_behind = True
        return Ending("events are not read", is_wanted=True)

    async def _wait_space(self, wire: Wire) -> bool:
        """Waits for space for an event; returns False when a sender would wait too long for that."""
        with wire.held() if self.unread.is_full else nullcontext():
            while self.unread.is_full:
                await self.wakeup.wait_until(lambda: not self.unread.is_full or self.outgoing.has_unanswered)
                with trio.move_on_after(BEHIND_AFTER) as waiting:
                    await self.wakeup.wait_until(lambda: not self.unread.is_full or not self.outgoing.has_unanswered)
                if waiting.cancelled_caught and self.unread.is_full:
                    return False
        return True

    async def _wait_until_read(self, scope: trio.CancelScope) -> None:
        await self.wakeup.wait_until(lambda: not self.unread)
        scope.cancel()

    def _change_events(self, frame: ChangeFrame, message: Message | None) -> list[Event]:
        """Returns the events of a change, at least one; applies those of users to the roster."""
        match frame:
            case MemberFrame():
                assert self.progress.cursor is not None
                return self.roster.members(frame, self.progress.cursor)
            case ConversationFrame():
                return self.roster.conversation(frame)
        assert message is not None
        if message.is_deleted:
            return [MessageDeleted(message)]
        return [MessageEdited(message) if isinstance(frame, MessageUpdatedFrame) else message]

    def _events_of(self, frame: OtherFrame | None) -> list[Event]:
        """Applies a frame that is no change to the state of the room; returns its events."""
        match frame:
            case TypingFrame():
                self.roster.learn(frame.sender_id, frame.sender_username)
                return [Typing(frame.sender_id, frame.sender_username)]
            case SystemFrame():
                self.progress.see(frame.last_rev, frame.last_seq)
                return self.roster.system(frame)
            case PresenceFrame():
                return self.roster.presence(frame)
            case ReadFrame():
                return [read_positions({position.user_id: position.seq for position in frame.positions})]
            case ErrorFrame():
                return self._refused(frame)
            case AuthFrame() | None:
                return []

    def _refused(self, frame: ErrorFrame) -> list[Event]:
        client_id = None if frame.client_id is UNSET else frame.client_id
        field = None if frame.field is UNSET else identifier(frame.field, self._token)
        code, content = identifier(frame.code, self._token) or "unknown", self._hide(frame.content)
        is_handled = self.outgoing.refuse(code, content, field, client_id)
        self.wakeup.notify()
        return [] if is_handled or client_id is not None else [Warned(code, content)]

    def _hide(self, text: str) -> str:
        """Removes the secrets of this client from a text of the server."""
        return self._account.hide(redacted(text, self._token))
