"""A live conversation: events in, messages out. Opened by `Client.join`."""

from collections import deque
from contextlib import nullcontext
from dataclasses import replace
from typing import Final, Self
from urllib.parse import quote
from uuid import UUID

import trio
from msgspec import UNSET, UnsetType
from trio_websocket import ConnectionClosed

from pulse_trio.client import frame_codec
from pulse_trio.client.account import Account
from pulse_trio.client.backoff import Backoff
from pulse_trio.client.errors import AuthenticationFailed, ClientError, ConnectionLost, Refused
from pulse_trio.client.network import Address, Network
from pulse_trio.client.outgoing import Outgoing, check_client_id, check_text, new_client_id
from pulse_trio.client.records import (
    Conversation,
    Event,
    Joined,
    Left,
    MembersChanged,
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
from pulse_trio.client.verdicts import Verdict, verdict_of
from pulse_trio.client.wakeup import Wakeup
from pulse_trio.client.wire import Ending, Wire, converse
from pulse_trio.protocol import (
    AuthFrame,
    ErrorFrame,
    MessageDeletedFrame,
    MessageFrame,
    MessageUpdatedFrame,
    PresenceFrame,
    ReadFrame,
    SystemFrame,
    TypingFrame,
)

MAX_EVENTS: Final = 256  # unread: fits a burst, and 4 MB with the longest content
SENDS_AT_ONCE: Final = 32  # half of what the server lets wait for the database on a connection
GREETING_TIMEOUT: Final = 30.0  # seconds from the handshake to the first `system` frame
BEHIND_AFTER: Final = 1.0  # seconds that an acknowledgement may wait behind unread events
MAX_IMMEDIATE_RETRIES: Final = 3  # reconnections without a wait in a row; later ones wait like failures
MAX_UNFILLED_GAPS: Final = 3  # in a row; after that the room backs off before it reconnects for another gap
STEADY_AFTER: Final = 10.0  # seconds; a connection that lasted this long resets the backoff

_CHANGES: Final = (MessageFrame, MessageUpdatedFrame, MessageDeletedFrame)


class Room:
    """A live conversation.

    Reconnects by itself and resumes: every new message, edit and deletion comes once, in the order of `rev`; after a
    reconnection each message comes once in its present state. If the server cannot resume, a `Reset` event comes. If
    a live rev is not the next one, a change was lost on the way, and the room reconnects to get it.

    Memory is bounded. At most `max_events` unread events are kept; then the room stops reading from the connection,
    and the server's bounds slow or close it until there is space again. A task that waits in `send` need not wait for
    that: after `BEHIND_AFTER` seconds the room reconnects at the present to get the acknowledgement, and fetches the
    skipped changes when events are read again.

    Attributes:
        conversation: its state when the room was opened.
        gaps: number of changes that a live connection left out; more than 0 is a fault of the server.
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
        self.conversation = conversation
        self.gaps = 0
        self._user = user
        self._account = account
        self._identity = account.identity
        self._network = network
        self._address = address
        self._backoff = backoff
        self._max_events = max_events
        self._wakeup = Wakeup()
        self._events: deque[Event] = deque()
        self._outgoing = Outgoing(backoff)
        self._slots = trio.Semaphore(SENDS_AT_ONCE)
        self._running = trio.CancelScope()
        self._failure: ClientError | trio.ClosedResourceError | None = None
        self._cursor = after  # the highest rev put into `_events`
        self._epoch = epoch  # the epoch of `_cursor`
        self._read_rev = after or 0
        self._read_epoch = epoch
        self._head_seq = conversation.last_seq
        self._head_rev = conversation.last_rev
        self._head_epoch = conversation.epoch
        self._target_rev = 0  # a new connection has caught up when it reaches this rev
        self._gap: int | None = None  # the rev before which a change is missing, until a reconnection
        self._unfilled_gaps = 0  # in a row, for which no change came; a later edit may have replaced it
        self._active: frozenset[UUID] = frozenset()
        self._names = {member.id: member.username for member in conversation.users}
        self._number = 0
        self._was_joined = False
        self._is_online = False
        self._is_waiting = False  # for the next attempt to connect
        self._is_caught_up = False
        self._is_behind = False
        self._was_reset = False
        self._token = ""
        self._has_fresh_token = False

    # --- for programs ---

    @property
    def rev(self) -> int:
        """The rev of the last change that `receive` returned; store it with `epoch` to resume later."""
        return self._read_rev

    @property
    def epoch(self) -> str:
        """The epoch of `rev`, which changes with a `Reset`; empty until known."""
        return self._read_epoch or ""

    @property
    def head_rev(self) -> int:
        """The highest rev of the conversation that this room knows."""
        return self._head_rev

    @property
    def head_epoch(self) -> str:
        """The epoch of `head_rev`; differs from `epoch` while a `Reset` is waiting to be read."""
        return self._head_epoch

    @property
    def last_seq(self) -> int:
        """The seq of the newest message that this room knows."""
        return self._head_seq

    @property
    def is_online(self) -> bool:
        """True while the room is connected."""
        return self._is_online

    @property
    def active_users(self) -> frozenset[UUID]:
        """The users who have the conversation open, as far as this room knows."""
        return self._active

    def name_of(self, user_id: UUID) -> str:
        """Returns the username of a user, or their id if this room does not know it."""
        return self._names.get(user_id) or str(user_id)

    async def send(self, content: str, *, client_id: str | None = None) -> Message:
        """Sends a message; returns it when it is stored. Messages of one task are stored in the order it sent them.

        Resends until there is an acknowledgement, also on new connections; the message is stored once. A program that
        repeats a message after a restart gives the same `client_id` again (1 to 64 characters; by default a new UUID).

        There is no timeout: put `trio.fail_after` around it.
        Cancelled: the message may or may not be stored. Resend it with its `client_id` to be sure, or look for it in
        the events and the history.

        Raises:
            Refused: the server rejects it; `code` and `field` say why.
            NotStored: the server failed to store it three times; it may be stored.
            NotAMember, AuthenticationFailed, ConnectionLost: the room has failed; the message may be stored.
            ValueError: the client_id is not valid, or a message with it is pending.
        """
        check_text(content)
        if client_id is None:
            client_id = new_client_id()
        check_client_id(client_id)
        async with self._slots:
            self._check()
            pending = self._outgoing.add(client_id, content)
            self._notify()
            try:
                await pending.resolved.wait()
            finally:
                self._outgoing.forget(pending)
                self._notify()
        if isinstance(pending.outcome, Message):
            return pending.outcome
        assert pending.outcome is not None
        raise pending.outcome

    def typing(self) -> None:
        """Notifies the others that this user is typing; at most every two seconds, and not while offline."""
        if self._is_online:
            self._outgoing.type()
            self._notify()

    def mark_read(self, seq: int) -> None:
        """Moves the user's read position up to this seq; sent as soon as there is a connection.

        A lower seq changes nothing, except after a `Reset`.
        """
        self._outgoing.read(seq)
        self._notify()

    async def receive(self) -> Event:
        """Waits for the next event. If several tasks receive, each event goes to one of them.

        Cancelled: no event is lost.

        Raises:
            NotAMember: the user was removed from the conversation.
            AuthenticationFailed: the token has expired and cannot be renewed, or another user has signed in.
            ConnectionLost: as many attempts to connect as `Backoff` allows have failed.
            ProtocolError: the client and the server speak different protocols.
            trio.ClosedResourceError: the block of `Client.join` has ended.
        """
        await self._wakeup.wait_until(lambda: bool(self._events) or self._failure is not None)
        if not self._events:
            self._check()
        event = self._events.popleft()
        match event:
            case Message(rev=rev) | MessageEdited(Message(rev=rev)) | MessageDeleted(Message(rev=rev)):
                self._read_rev = rev
            case Reset(last_rev=rev, epoch=epoch):
                self._read_rev, self._read_epoch = rev, epoch
                self._outgoing.forget_read()
        self._notify()
        return event

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return await self.receive()

    # --- for `Client.join` ---

    async def wait_joined(self) -> None:
        """Waits for the first `system` frame. Raises: ClientError: the room has failed."""
        await self._wakeup.wait_until(lambda: self._was_joined or self._failure is not None)
        if not self._was_joined:
            self._check()

    def close(self) -> None:
        """Ends the room after its block: later calls raise ClosedResourceError."""
        if self._failure is None:
            self._failure = trio.ClosedResourceError("the room was left")
            self._outgoing.fail(ConnectionLost("the room was left"))
            self._notify()

    def end(self, error: ClientError) -> None:
        """Fails the room: `receive` and `send` raise this error."""
        if self._failure is None:
            self._fail(error)
            self._running.cancel()

    def _fail(self, error: ClientError) -> None:
        self._is_online = False
        self._failure = error
        self._outgoing.fail(error)
        self._notify()

    async def run(self) -> None:
        """Stays connected until cancelled, or until the room fails: `receive` and `send` then raise the error."""
        self._account.listeners.add(self._notify)
        try:
            with self._running:
                await self._run()
        except ClientError as error:
            self._fail(error)
        finally:
            self._account.listeners.discard(self._notify)

    # --- connections ---

    async def _run(self) -> None:
        failures = waits = immediate_retries = 0
        while True:
            # While events are not read and no sender waits, a connection is of no use.
            await self._wakeup.wait_until(lambda: not self._is_full() or self._outgoing.has_unanswered)
            self._number += 1
            self._token = await self._account.current(self._identity)
            began = trio.current_time()
            ending = await converse(self._network, self._address, self._path(), self._token, self._run_connection)
            ending = replace(ending, reason=self._hide(ending.reason))
            was_online, self._is_online = self._is_online, False
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
            is_unfilled = ending.is_gap and self._unfilled_gaps >= MAX_UNFILLED_GAPS
            if is_unfilled:
                waits = max(waits, self._unfilled_gaps)
            if at_once and immediate_retries < MAX_IMMEDIATE_RETRIES and not is_unfilled:
                immediate_retries += 1
                continue
            if self._backoff.attempts is not None and failures >= self._backoff.attempts:
                raise ConnectionLost(f"{failures} attempts failed, the last one: {ending.reason}")
            spread = verdict.spread * self._backoff.rand.random()
            delay = self._backoff.delay(waits, least=verdict.least) + spread
            waits += 1
            if was_online:
                self._active = frozenset()
            if self._was_joined:
                self._is_waiting = True
                self._put_if_space(Offline(ending.reason, delay))
            await trio.sleep(delay)

    def _path(self) -> str:
        path = f"/api/chat/ws/{self.conversation.id}"
        if self._cursor is None or self._is_behind:
            return path
        return f"{path}?after={self._cursor}" + (f"&epoch={quote(self._epoch, safe='')}" if self._epoch else "")

    def _apply(self, verdict: Verdict) -> None:
        if verdict.resets:
            self._cursor = None
            self._epoch = None
            self._gap = None
            self._was_reset = True
            self._outgoing.forget_read()
        if verdict.too_big:
            self._outgoing.drop_largest()
        if verdict.slows:
            self._outgoing.slow_down()

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
        if self._is_behind and not self._events:
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
        is_first = not self._was_joined
        was_known = self._cursor is not None
        self._head_rev, self._head_seq, self._head_epoch = frame.last_rev, frame.last_seq, frame.epoch
        self._target_rev = frame.last_rev
        self._take_head(frame)
        if not was_known:
            self._cursor = frame.last_rev
            self._epoch = frame.epoch
            if is_first and not self._was_reset:
                self._read_rev, self._read_epoch = frame.last_rev, frame.epoch
        elif self._epoch is None:
            self._epoch = self._read_epoch = frame.epoch
        self._is_caught_up = self._cursor is not None and self._cursor >= frame.last_rev
        self._was_joined = self._is_online = True
        self._has_fresh_token = False
        self._outgoing.connected(self._number)
        if self._was_reset:
            self._was_reset = False
            self._put(Reset(frame.last_seq, frame.last_rev, frame.epoch))
        elif self._is_waiting:
            self._put_if_space(Online())
        self._is_waiting = False
        self._notify()

    # --- writing ---

    async def _write(self, wire: Wire) -> None:
        try:
            while True:
                text = self._next_frame()
                if text is None:
                    with trio.move_on_at(self._outgoing.next_time()):
                        await self._wakeup.wait()
                else:
                    await wire.send(text)
        except ConnectionClosed:
            return  # the reading task reports it

    def _next_frame(self) -> str | None:
        if self._failure is not None:
            return None  # the token may be another user's now
        token = self._account.token
        if token is not None and token != self._token:
            self._token = token
            return frame_codec.encode("auth", token=token)
        # Until the room has caught up, a message sent on an earlier connection may still come back by itself.
        return self._outgoing.next_frame(with_messages=self._is_caught_up or self._is_behind)

    # --- reading ---

    async def _read(self, wire: Wire) -> Ending | None:
        while True:
            frame = frame_codec.decode(await wire.receive())
            if isinstance(frame, SystemFrame) and frame.epoch != self._epoch and not self._is_behind:
                return Ending("the history has a new epoch", is_wanted=True)
            event = self._event_of(frame)
            if event is None or self._is_behind:
                continue
            if isinstance(frame, _CHANGES) and self._is_gap(frame.rev):
                return Ending("a change is missing", is_gap=True)
            if not await self._wait_space(wire):
                self._is_behind = True
                return Ending("events are not read", is_wanted=True)
            self._put(event)
            if isinstance(frame, _CHANGES):
                self._cursor = frame.rev
                self._is_caught_up = self._is_caught_up or frame.rev >= self._target_rev
                self._take_change(frame.rev, frame.seq)
                self._notify()

    def _is_gap(self, rev: int) -> bool:
        """Returns True if a change before this one is missing and no new connection has looked for it yet."""
        assert self._cursor is not None
        if self._gap is not None:
            self._unfilled_gaps = 0 if rev < self._gap else self._unfilled_gaps + 1
            self._gap = None
        elif self._is_caught_up and rev > self._cursor + 1:
            self._gap = rev
            self.gaps += 1
            return True
        return False

    async def _wait_space(self, wire: Wire) -> bool:
        """Waits for space for an event; returns False when a sender would wait too long for that."""
        with wire.held() if self._is_full() else nullcontext():
            while self._is_full():
                await self._wakeup.wait_until(lambda: not self._is_full() or self._outgoing.has_unanswered)
                with trio.move_on_after(BEHIND_AFTER) as waiting:
                    await self._wakeup.wait_until(lambda: not self._is_full() or not self._outgoing.has_unanswered)
                if waiting.cancelled_caught and self._is_full():
                    return False
        return True

    async def _wait_until_read(self, scope: trio.CancelScope) -> None:
        await self._wakeup.wait_until(lambda: not self._events)
        scope.cancel()

    def _event_of(self, frame: frame_codec.IncomingFrame | None) -> Event | None:
        """Applies a frame to the state of the room; returns the event for the program, if any."""
        if isinstance(frame, _CHANGES):
            return self._change_of(frame)
        match frame:
            case TypingFrame():
                self._names[frame.sender_id] = frame.sender_username
                return Typing(frame.sender_id, frame.sender_username)
            case SystemFrame():
                self._take_head(frame)
                return self._system_event(frame)
            case PresenceFrame():
                self._names.update({user.user_id: user.username for user in (*frame.joined, *frame.left)})
                came = {user.user_id for user in frame.joined}
                went = {user.user_id for user in frame.left}
                self._active = (self._active | came) - went
                return None if self._is_behind else self._presence_event(frame)
            case ReadFrame():
                return read_positions({p.user_id: p.seq for p in frame.positions})
            case ErrorFrame():
                return self._refused(frame)
            case AuthFrame() | None:
                return None

    def _change_of(self, frame: frame_codec.ChangeFrame) -> Event | None:
        message = frame_codec.message_of(frame)
        self._names[message.sender_id] = message.sender_username
        if message.sender_id == self._user.id:
            self._outgoing.acknowledge(message)
        if self._cursor is not None and message.rev <= self._cursor:
            return None  # the acknowledgement of a resent message
        if message.is_deleted:
            return MessageDeleted(message)
        return MessageEdited(message) if isinstance(frame, MessageUpdatedFrame) else message

    def _presence_event(self, frame: PresenceFrame) -> Event | None:
        events: list[Event] = [Joined(u.user_id, u.username) for u in frame.joined if u.user_id != self._user.id]
        events += [Left(user.user_id, user.username) for user in frame.left]
        for event in events[:-1]:
            self._put_if_space(event)
        return events[-1] if events else None

    def _system_event(self, frame: SystemFrame) -> Event | None:
        who = frame.sender_id
        match frame.event:
            case "joined":
                self._active |= {who}
                return None if who == self._user.id else Joined(who, self.name_of(who))
            case "left":
                self._active -= {who}
                return Left(who, self.name_of(who))
            case "added" | "removed":
                user_ids = (who,) if isinstance(frame.user_ids, UnsetType) else tuple(frame.user_ids)
                count = len(user_ids) if isinstance(frame.user_count, UnsetType) else frame.user_count
                return MembersChanged(frame.event, who, frame.content, user_ids, count)
            case "renamed":
                return MembersChanged(frame.event, who, frame.content)
        return None

    def _take_head(self, frame: SystemFrame) -> None:
        self._take_change(frame.last_rev, frame.last_seq)
        if not isinstance(frame.active_users, UnsetType):
            self._active = frozenset(frame.active_users)

    def _take_change(self, rev: int, seq: int) -> None:
        self._head_rev = max(self._head_rev, rev)
        self._head_seq = max(self._head_seq, seq)

    def _refused(self, frame: ErrorFrame) -> Event | None:
        client_id = None if frame.client_id is UNSET else frame.client_id
        field = None if frame.field is UNSET else identifier(frame.field, self._token)
        code, content = identifier(frame.code, self._token) or "unknown", self._hide(frame.content)
        is_handled = self._outgoing.refuse(code, content, field, client_id)
        self._notify()
        return None if is_handled or client_id is not None else Warned(code, content)

    def _hide(self, text: str) -> str:
        """Removes the secrets of this client from a text of the server."""
        return self._account.hide(redacted(text, self._token))

    # --- events ---

    def _is_full(self) -> bool:
        return len(self._events) >= self._max_events

    def _put(self, event: Event) -> None:
        self._events.append(event)
        self._notify()

    def _put_if_space(self, event: Event) -> None:
        """Puts an event that may be missed."""
        if not self._is_full():
            self._put(event)

    def _notify(self) -> None:
        self._wakeup.notify()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
