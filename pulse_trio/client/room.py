"""A conversation, live: what happens there, and what is said. `Client.join` opens one."""

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

MAX_EVENTS: Final = 256  # unread: a moment's burst fits; with the longest content it is 4 MB
SENDS_AT_ONCE: Final = 32  # half of what a connection may have waiting for the database
GREETING_TIMEOUT: Final = 30.0  # seconds from the handshake to the first frame
BEHIND_AFTER: Final = 1.0  # seconds that an answer may wait behind events that nobody reads
HURRIES: Final = 3  # times that it connects again at once before that counts as failing, too
MAX_VAIN_GAPS: Final = 3  # in a row; after that the room waits longer and longer before it looks for the next one
STEADY: Final = 10.0  # seconds: a connection that lasted as long ends a row of failures

_CHANGES: Final = (MessageFrame, MessageUpdatedFrame, MessageDeletedFrame)


class Room:
    """A live conversation.

    Connects again by itself and goes on where it was: every new message, edit and deletion comes once, in the
    order of `rev`; after a reconnection each message as it now is. Only `Reset` says that this was not possible.
    A live change whose rev is not the next one shows that one before it was lost on the way: the room connects again
    for it.

    Nothing here grows without bound. Of events that nobody reads `max_events` are kept; then the connection is
    not read either, and the server's own bounds slow it, or end it, until there is room again. The one who waits
    for the answer to a `send` does not wait behind that: after a second a connection that follows from the present
    takes the place of the other, brings the answer, and what was passed over is fetched when events are read again.

    Attributes:
        conversation: as it was when this was opened.
        gaps: how often a live connection left a change out. More than 0 is a fault of the server.
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
        self._places = trio.Semaphore(SENDS_AT_ONCE)
        self._running = trio.CancelScope()
        self._failure: ClientError | trio.ClosedResourceError | None = None
        self._cursor = after  # the highest rev that was put into `_events`
        self._epoch = epoch  # what `_cursor` belongs to
        self._read_rev = after or 0
        self._read_epoch = epoch
        self._head_seq = conversation.last_seq
        self._head_rev = conversation.last_rev
        self._head_epoch = conversation.epoch
        self._target_rev = 0  # caught up there, a new connection has told what was missed
        self._gap: int | None = None  # the rev before which a change is missing that has not been looked for yet
        self._vain_gaps = 0  # in a row: looked for, and no such change came. A later edit may have taken its place
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

    # --- what a program uses ---

    @property
    def rev(self) -> int:
        """The rev of the last change that `receive` returned: keep it, with `epoch`, to go on later."""
        return self._read_rev

    @property
    def epoch(self) -> str:
        """Which history `rev` belongs to; another one after a `Reset`. Empty as long as that is not known."""
        return self._read_epoch or ""

    @property
    def head_rev(self) -> int:
        """The highest rev of the conversation when the present connection began, or that came since."""
        return self._head_rev

    @property
    def head_epoch(self) -> str:
        """Which history `head_rev` belongs to: not the one of `rev` if a `Reset` is to come."""
        return self._head_epoch

    @property
    def last_seq(self) -> int:
        """The seq of the newest message that this room has heard of."""
        return self._head_seq

    @property
    def is_online(self) -> bool:
        """Whether there is a connection right now."""
        return self._is_online

    @property
    def active_users(self) -> frozenset[UUID]:
        """Who has the conversation open, as far as this room has heard."""
        return self._active

    def name_of(self, user_id: UUID) -> str:
        """The username of somebody, or their id if this room has not heard it."""
        return self._names.get(user_id) or str(user_id)

    async def send(self, content: str, *, client_id: str | None = None) -> Message:
        """Sends a message; returns it when it is stored. Messages of one task are stored in the order it sent them.

        It is sent again until it is answered, over new connections too, and stored once however often that is.
        `client_id` (1 to 64 characters; by default a new UUID): a program that repeats a message after it was
        started anew gives the same one again.

        There is no timeout: put `trio.fail_after` around it.
        Cancelled: the message may be stored or not. Send it again with its `client_id` to be sure, or look for it
        among the events and in the history.

        Raises:
            Refused: the server will not take it; `code` and `field` say why.
            NotStored: the server could not store it, three times.
            NotAMember, AuthenticationFailed, ConnectionLost: the room has failed; it may be stored or not.
            ValueError: this client_id is too long, or a message with it is under way.
        """
        check_text(content)
        if client_id is None:
            client_id = new_client_id()
        check_client_id(client_id)
        async with self._places:
            self._check()
            pending = self._outgoing.add(client_id, content)
            self._tell()
            try:
                await pending.settled.wait()
            finally:
                self._outgoing.forget(pending)
                self._tell()
        if isinstance(pending.outcome, Message):
            return pending.outcome
        assert pending.outcome is not None
        raise pending.outcome

    def typing(self) -> None:
        """Tells the others that this user is typing; at most every two seconds, and not while offline."""
        if self._is_online:
            self._outgoing.type()
            self._tell()

    def mark_read(self, seq: int) -> None:
        """Everything up to this seq has been read. Told as soon as there is a connection.

        It never goes backwards, but after a `Reset`.
        """
        self._outgoing.read(seq)
        self._tell()

    async def receive(self) -> Event:
        """The next event. With several tasks that receive, each event goes to one of them.

        Cancelled: no event is lost.

        Raises:
            NotAMember: you were removed from the conversation.
            AuthenticationFailed: the token has ended, and there is no getting another; or somebody else signed in.
            ConnectionLost: as many attempts to connect failed as `Backoff` allows.
            ProtocolError: this client and the server do not understand each other.
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
        self._tell()
        return event

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return await self.receive()

    # --- what `Client.join` uses ---

    async def wait_joined(self) -> None:
        """Returns when the first connection has been greeted. Raises: ClientError: there will be none."""
        await self._wakeup.wait_until(lambda: self._was_joined or self._failure is not None)
        if not self._was_joined:
            self._check()

    def close(self) -> None:
        """Nothing can be done with it any more."""
        if self._failure is None:
            self._failure = trio.ClosedResourceError("the room was left")
            self._outgoing.fail(ConnectionLost("the room was left"))
            self._tell()

    def end(self, error: ClientError) -> None:
        """There is no use in it any more: `receive` and `send` raise this."""
        if self._failure is None:
            self._fail(error)
            self._running.cancel()

    def _fail(self, error: ClientError) -> None:
        self._is_online = False
        self._failure = error
        self._outgoing.fail(error)
        self._tell()

    async def run(self) -> None:
        """Connects, again and again, until cancelled, or until there is no use in it: `receive` and `send` tell."""
        self._account.listeners.add(self._tell)
        try:
            with self._running:
                await self._run()
        except ClientError as error:
            self._fail(error)
        finally:
            self._account.listeners.discard(self._tell)

    # --- connections ---

    async def _run(self) -> None:
        failures = waits = hurries = 0
        while True:
            # Whoever neither reads nor waits for an answer needs no connection.
            await self._wakeup.wait_until(lambda: not self._is_full() or self._outgoing.has_unanswered)
            self._number += 1
            self._token = await self._account.current(self._identity)
            began = trio.current_time()
            ending = await converse(self._network, self._address, self._path(), self._token, self._talk)
            ending = replace(ending, reason=self._hide(ending.reason))
            was_online, self._is_online = self._is_online, False
            failures = 0 if was_online else failures + 1
            if was_online and trio.current_time() >= began + STEADY:
                waits = hurries = 0
            if ending.is_wanted:
                continue
            verdict = verdict_of(ending)
            if verdict.error is not None:
                raise verdict.error
            self._take_in(verdict)
            at_once = verdict.at_once and (not verdict.renews or await self._renew(ending))
            is_vain = ending.is_gap and self._vain_gaps >= MAX_VAIN_GAPS
            if is_vain:
                waits = max(waits, self._vain_gaps)
            if at_once and hurries < HURRIES and not is_vain:
                hurries += 1
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
                self._put_if_room(Offline(ending.reason, delay))
            await trio.sleep(delay)

    def _path(self) -> str:
        path = f"/api/chat/ws/{self.conversation.id}"
        if self._cursor is None or self._is_behind:
            return path
        return f"{path}?after={self._cursor}" + (f"&epoch={quote(self._epoch, safe='')}" if self._epoch else "")

    def _take_in(self, verdict: Verdict) -> None:
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
        """Whether there is another token than the one that was refused."""
        if self._has_fresh_token:  # one of just now is not good either
            raise AuthenticationFailed(ending.reason)
        try:
            await self._account.refresh(self._token, self._identity)
        except (ConnectionLost, Refused):
            return False  # not now
        self._has_fresh_token = True
        return True

    async def _talk(self, wire: Wire) -> Ending | None:
        """From the handshake to the end of a connection; returns when another one is needed."""
        if not await self._greet(wire):
            return Ending("the server did not greet")
        ending: Ending | None = None
        failure: ClientError | ConnectionClosed | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, wire)
            if self._is_behind:
                nursery.start_soon(self._wait_until_read, nursery.cancel_scope)
            try:
                ending = await self._read(wire)
            except (ClientError, ConnectionClosed) as error:
                failure = error  # raised outside of the nursery, which would put it into a group
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if self._is_behind and not self._events:
            self._is_behind = False
            return Ending("there is room for events again", is_wanted=True)
        return ending

    async def _greet(self, wire: Wire) -> bool:
        """Whether the first frame has come, and has been taken in."""
        with trio.move_on_after(GREETING_TIMEOUT):
            while True:
                frame = frame_codec.decode(await wire.receive())
                if isinstance(frame, SystemFrame):
                    break
                # Not greeted but refused: the close code that follows says why.
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
            self._put_if_room(Online())
        self._is_waiting = False
        self._tell()

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
            return  # the reader has it, too

    def _next_frame(self) -> str | None:
        if self._failure is not None:
            return None  # the token may be somebody else's now
        token = self._account.token
        if token is not None and token != self._token:
            self._token = token
            return frame_codec.encode("auth", token=token)
        # Before it has caught up, what was stored on an earlier connection may still come by itself.
        return self._outgoing.next_frame(with_messages=self._is_caught_up or self._is_behind)

    # --- reading ---

    async def _read(self, wire: Wire) -> Ending | None:
        while True:
            frame = frame_codec.decode(await wire.receive())
            if isinstance(frame, SystemFrame) and frame.epoch != self._epoch and not self._is_behind:
                return Ending("the history has another epoch", is_wanted=True)
            event = self._event_of(frame)
            if event is None or self._is_behind:
                continue
            if isinstance(frame, _CHANGES) and self._is_gap(frame.rev):
                return Ending("a change is missing", is_gap=True)
            if not await self._wait_for_room(wire):
                self._is_behind = True
                return Ending("nobody reads events", is_wanted=True)
            self._put(event)
            if isinstance(frame, _CHANGES):
                self._cursor = frame.rev
                self._is_caught_up = self._is_caught_up or frame.rev >= self._target_rev
                self._take_change(frame.rev, frame.seq)
                self._tell()

    def _is_gap(self, rev: int) -> bool:
        """Says if a change before this one is missing, and was not looked for on a new connection already."""
        assert self._cursor is not None
        if self._gap is not None:
            self._vain_gaps = 0 if rev < self._gap else self._vain_gaps + 1
            self._gap = None
        elif self._is_caught_up and rev > self._cursor + 1:
            self._gap = rev
            self.gaps += 1
            return True
        return False

    async def _wait_for_room(self, wire: Wire) -> bool:
        """Whether there is room for an event; False: not soon, and somebody waits for an answer."""
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
        """Takes a frame in; what it tells the program, if anything."""
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
            return None  # the answer to a message that was sent again
        if message.is_deleted:
            return MessageDeleted(message)
        return MessageEdited(message) if isinstance(frame, MessageUpdatedFrame) else message

    def _presence_event(self, frame: PresenceFrame) -> Event | None:
        events: list[Event] = [Joined(u.user_id, u.username) for u in frame.joined if u.user_id != self._user.id]
        events += [Left(user.user_id, user.username) for user in frame.left]
        for event in events[:-1]:
            self._put_if_room(event)
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
        was_told = self._outgoing.refuse(code, content, field, client_id)
        self._tell()
        return None if was_told or client_id is not None else Warned(code, content)

    def _hide(self, text: str) -> str:
        """A text of the server without the secrets of this client."""
        return self._account.hide(redacted(text, self._token))

    # --- events ---

    def _is_full(self) -> bool:
        return len(self._events) >= self._max_events

    def _put(self, event: Event) -> None:
        self._events.append(event)
        self._tell()

    def _put_if_room(self, event: Event) -> None:
        """For what may be missed."""
        if not self._is_full():
            self._put(event)

    def _tell(self) -> None:
        self._wakeup.notify()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
