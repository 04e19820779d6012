"""A user of the Python client on a bad network: reads, sends, edits, deletes, leaves and comes back."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from pulse_trio.client import (
    Backoff,
    Client,
    ClientError,
    Conflict,
    ConnectionLost,
    Conversation,
    MembersChanged,
    Message,
    MessageDeleted,
    MessageEdited,
    NotAMember,
    NotStored,
    Offline,
    Online,
    ReadPositions,
    Refused,
    Reset,
    Room,
    Typing,
    Warned,
    open_client,
)
from pulse_trio.client.records import Joined, Left
from pulse_trio.client.wakeup import Wakeup
from tests.python_fuzz.oracle import Records, Revised, Sent, View
from tests.support.client import PASSWORD

PAUSE: Final = 1.5  # seconds of Trio's clock between two acts, on average
TRANSIENT: Final = {"rate_limited", "not_stored", "unavailable", "unknown", "busy", "too_many_requests"}
"""Codes after which a request may succeed later."""


class Bot:
    """One user and their program.

    Args:
        url: of their network.
        username: with PASSWORD.
        groups: conversations as they were created.
        records: of all bots.
        rand: decides what they do.
        wakeup: notified of all that happens.

    Attributes:
        views: by group, from all events.
        rooms: the open ones, by group.
        client: the present one, None between two.
        is_ending: no new acts; a client that has ended is still replaced.
        counters: what happened.
    """

    def __init__(
        self,
        url: str,
        username: str,
        groups: list[Conversation],
        records: Records,
        rand: random.Random,
        wakeup: Wakeup,
    ) -> None:
        self.username = username
        self.views = {group.id: View(username, group.id, epoch=group.epoch) for group in groups}
        self.rooms: dict[object, Room] = {}
        self.client: Client | None = None
        self.is_ending = False
        self.counters: Counter[str] = Counter()
        self._wakeup = wakeup
        self._url = url
        self._records = records
        self._rand = rand
        self._number = 0
        self._under_way = 0
        records.views += self.views.values()

    @property
    def is_idle(self) -> bool:
        """True when all acts have ended."""
        return self._under_way == 0

    async def run(self) -> None:
        """Opens one client after the other until cancelled."""
        while True:
            attempts = self._rand.choice([None, None, 3])
            backoff = Backoff(attempts=attempts, rand=self._rand)
            with trio.CancelScope() as scope:
                try:
                    async with open_client(
                        self._url,
                        username=self.username,
                        password=PASSWORD,
                        backoff=backoff,
                        on_token=lambda _token: self.counters.update(["token"]),
                    ) as client:
                        self.client = client
                        await self._use(client, scope)
                except ClientError as error:
                    self._note("open", error)
                    if not isinstance(error, ConnectionLost) and getattr(error, "code", "") not in TRANSIENT:
                        self._records.violations.append(f"a client fails for a reason: {self.username}: {error!r}")
                finally:
                    self.client = None
            await trio.sleep(self._rand.random())

    async def _use(self, client: Client, scope: trio.CancelScope) -> None:
        lifetime = self._rand.choice([60, float("inf")])
        async with trio.open_nursery() as nursery:
            for view in self.views.values():
                nursery.start_soon(self._follow, client, view)
                nursery.start_soon(self._act, client, view)
            if not self.is_ending:
                await trio.sleep(lifetime * self._rand.random() if lifetime < 100 else lifetime)
                if not self.is_ending:
                    self.counters["client left"] += 1
                    scope.cancel()
            await trio.sleep_forever()

    # --- reading ---

    async def _follow(self, client: Client, view: View) -> None:
        """Keeps a room open, each from where the one before ended."""
        while True:
            lifetime = float("inf") if self.is_ending else self._rand.choice([20, float("inf"), float("inf")])
            try:
                with trio.move_on_after(lifetime):
                    bound = self._rand.choice([1, 2, 10, 256])
                    async with client.join(view.group, after=view.rev, epoch=view.epoch, max_events=bound) as room:
                        self.rooms[view.group] = room
                        try:
                            await self._read(room, view)
                        finally:
                            if room.gaps:
                                view.fail("a connection leaves out nothing", room.gaps)
                            del self.rooms[view.group]
            except ClientError as error:
                self._note("room", error)
                if not isinstance(error, NotAMember | ConnectionLost):
                    view.fail("a room ends for a reason", repr(error))
            await trio.sleep(2 * self._rand.random())

    async def _read(self, room: Room, view: View) -> None:
        async for event in room:
            match event:
                case Message():
                    self._records.saw(event)
                    view.show(event, is_new=True)
                case MessageEdited(message) | MessageDeleted(message):
                    self._records.saw(message)
                    view.show(message, is_new=False)
                case MembersChanged(details=None):
                    for member in event.members:
                        view.learn(member)
                case MembersChanged(details=details):
                    view.name(details)
                case Warned(code=code) if code not in TRANSIENT:
                    view.fail("nothing is warned of", event)
                case Reset():
                    view.fail("nothing was restored from a backup", event)
                case Offline() | Online() | ReadPositions() | Typing() | Joined() | Left() | Warned():
                    pass
            self.counters[type(event).__name__] += 1
            if room.rev < view.rev:
                view.fail("a room never goes back", f"{room.rev} after {view.rev}")
            view.rev, view.epoch = room.rev, room.epoch
            self._wakeup.notify()
            if not self.is_ending and self._rand.random() < 0.02:
                await trio.sleep(5 * self._rand.random())  # a slow reader

    # --- acting ---

    async def _act(self, client: Client, view: View) -> None:
        acts: dict[Callable[[Client, View], Awaitable[None]], int] = {
            self._say: 10,
            self._say_many: 1,
            self._post: 4,
            self._edit: 4,
            self._delete: 1,
            self._browse: 3,
            self._twitch: 3,
        }
        async with trio.open_nursery() as nursery:
            while not self.is_ending:
                await trio.sleep(2 * PAUSE * self._rand.random())
                if not self.is_ending:
                    (act,) = self._rand.choices(list(acts), list(acts.values()))
                    nursery.start_soon(self._counted, act, client, view)
        await trio.sleep_forever()

    async def _counted(self, act: Callable[[Client, View], Awaitable[None]], client: Client, view: View) -> None:
        self._under_way += 1
        try:
            await act(client, view)
        finally:
            self._under_way -= 1
            self._wakeup.notify()

    async def _say(self, _client: Client, view: View) -> None:
        room = self.rooms.get(view.group)
        if room is not None:
            await self._send(view, room.send)

    async def _say_many(self, _client: Client, view: View) -> None:
        room = self.rooms.get(view.group)
        if room is not None:
            async with trio.open_nursery() as nursery:
                for _ in range(self._rand.randint(5, 60)):
                    nursery.start_soon(self._send, view, room.send)

    async def _post(self, client: Client, view: View) -> None:
        async def post(content: str, *, client_id: str | None = None) -> Message:
            return await client.send(view.group, content, client_id=client_id)

        await self._send(view, post)

    async def _send(self, view: View, send: Callable[..., Awaitable[Message]]) -> None:
        """Sends a message; if that is cancelled or fails, perhaps once more with its `client_id`."""
        self._number += 1
        client_id = f"{self.username}-{self._number}"
        content = f"{client_id} " + "x" * self._rand.choice([0, 10, 200, 3_000])
        assert self.client is not None
        sent = Sent(view.group, self.client.user.id, client_id, content)
        self._records.sent[client_id] = sent
        for _ in range(self._rand.choice([1, 1, 3])):
            patience = self._rand.choice([float("inf"), float("inf"), 5 * self._rand.random()])
            sent.is_uncertain = True  # until there is an answer
            with trio.move_on_after(patience):
                try:
                    message = await send(content, client_id=client_id)
                except Refused as error:
                    self._note("send", error)
                    sent.is_refused = True
                    if error.code != "content_too_long":
                        view.fail("a send is rejected for a reason", repr(error))
                    return
                except (NotStored, NotAMember, ConnectionLost, trio.ClosedResourceError) as error:
                    self._note("send", error)
                else:
                    sent.acknowledged.append(message)
                    self._records.saw(message)
                    self.counters["acknowledged"] += 1
                    if message.client_id != client_id or message.sender_id != sent.sender:
                        view.fail("an acknowledgement is of the message", f"{sent}: {message}")
                    return
            self.counters["unanswered"] += 1
            await trio.sleep(self._rand.random())

    async def _edit(self, client: Client, view: View) -> None:
        message = self._own(view)
        if message is None:
            return
        self._number += 1
        revised = Revised(message.id, f"{message.client_id} edit {self._number}")
        self._records.revised.append(revised)
        if_rev = message.rev if self._rand.random() < 0.5 else None
        try:
            edited = await client.edit(message, revised.content or "", if_rev=if_rev)
        except Conflict as error:
            self._note("edit", error)
            revised.is_refused = True
            if error.current is None or error.current.rev <= message.rev:
                view.fail("a conflict has the newer message", repr(error.current))
        except ClientError as error:
            self._revision_failed(view, revised, error)
        else:
            self._records.saw(edited)
            revised.is_done, revised.rev = True, edited.rev

    async def _delete(self, client: Client, view: View) -> None:
        message = self._own(view)
        if message is None:
            return
        revised = Revised(message.id, None)
        self._records.revised.append(revised)
        try:
            await client.delete(message)
        except ClientError as error:
            self._revision_failed(view, revised, error)
        else:
            revised.is_done = True

    def _revision_failed(self, view: View, revised: Revised, error: ClientError) -> None:
        self._note("revise", error)
        match error:
            case Refused(code="not_stored" | "unknown"):
                pass
            case Refused(code=code) if code in TRANSIENT | {"no_such_message"}:
                revised.is_refused = True
            case ConnectionLost() | NotAMember():
                revised.is_refused = isinstance(error, NotAMember)
            case _:
                view.fail("a request fails for a reason", repr(error))

    def _own(self, view: View) -> Message | None:
        assert self.client is not None
        own = [m for m in view.messages.values() if m.sender_id == self.client.user.id and not m.is_deleted]
        return self._rand.choice(own[-20:]) if own else None

    async def _browse(self, client: Client, view: View) -> None:
        """Reads a part of the history; while events come, an answer may be older or newer than they are."""
        count = self._rand.choice([5, 150])
        try:
            last = None
            async for message in client.history(view.group):
                self._records.saw(message)
                if last is not None and message.seq != last - 1:
                    view.fail("a history has no gap", f"{message} after seq {last}")
                last = message.seq
                count -= 1
                if count == 0:
                    break
            async for _member in client.members(view.group):
                pass
        except ClientError as error:
            self._note("request", error)
            if not (isinstance(error, ConnectionLost | NotAMember) or getattr(error, "code", "") in TRANSIENT):
                view.fail("a request fails for a reason", repr(error))

    async def _twitch(self, _client: Client, view: View) -> None:
        await trio.lowlevel.checkpoint()
        room = self.rooms.get(view.group)
        if room is not None:
            room.typing()
            if room.last_seq:
                room.mark_read(self._rand.randint(1, room.last_seq))

    def _note(self, where: str, error: Exception) -> None:
        self.counters[f"{where}: {getattr(error, 'code', type(error).__name__)}"] += 1
        self._wakeup.notify()
