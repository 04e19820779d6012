"""Devices with all conversations of their user on one session connection.

To the checker each conversation of a session is a connection of its own: it begins with `resume` or
`conversation_added`, and ends with `conversation_removed` or with the session.
"""

import contextlib
import json
from typing import Any
from uuid import UUID

import trio
import trio_websocket
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection

from pulse_trio.store.base import User
from tests.simulation.clients import HANDSHAKE_TIMEOUT, RESEND_AFTER, Device, lease
from tests.simulation.streams import End
from tests.simulation.world import World, quietly_closed

LOOK_AGAIN = 4.0  # virtual seconds after which a device lists its conversations over REST
PROBE_AGAIN = 1.0  # virtual seconds after which it checks that the session has notified it of all of them
RESUME_WAIT = 5.0  # PULSE_RESUME_WAIT: seconds after which a silent session starts


class Place(Device):
    """A session's device in one conversation."""

    def __init__(self, world: World, name: str, user: User, conversation_id: UUID, device: "SessionDevice") -> None:
        super().__init__(world, name, user, conversation_id)
        self.is_open = False
        self.is_afresh = False  # it has loaded the history, and named no rev in a `resume`
        self.told_removed = 0  # the number of the session that last notified it of a removal
        self._device = device

    def open(self, after: int | None, session: int, expires: float) -> None:
        """Records its frames in the history from here on; `session` is the number of the session's connection."""
        self.number = self._world.next_number()
        self.is_open = self.connected = True
        self.is_afresh = after is None
        if after is None:  # it loads the history
            self.cursor = self._world.last_rev(self.conversation_id)
        self._note("open", self.number, after=after, session=session, expires=expires)

    def renew(self, expires: float) -> None:
        if self.is_open:
            self._note("renewed", self.number, expires=expires)

    def close(self) -> None:
        if self.is_open:
            self.is_open = self.connected = False
            self._note("gone", self.number)

    def take(self, frame: dict[str, Any]) -> None:
        self._note("frame", self.number, frame=frame)
        self._take(frame)

    def note_missed(self, session: int) -> None:
        """True if the user was a member before the probe, and the session was not notified."""
        about = {"user": str(self.user.id), "conversation": str(self.conversation_id)}
        self._history.add("missed", device=self.name, session=session, **about)

    async def act(self, ws: WebSocketConnection, number: int) -> None:
        """Does one action; `number` is the session's connection."""
        await self._something(ws, number)

    async def resend(self, ws: WebSocketConnection) -> None:
        for client_id, content in list(self.pending.items()):
            await self._send(ws, 0, client_id, content)

    async def _renew(self, ws: WebSocketConnection) -> None:
        await self._device.renew(ws)

    async def _put(self, ws: WebSocketConnection, number: int, frame: dict[str, Any]) -> None:
        if self.is_open:
            self._note("sent", self.number, frame=frame)
            await ws.send_message(json.dumps({**frame, "conversation_id": str(self.conversation_id)}))


class SessionDevice:
    """One device of a user, in all conversations."""

    def __init__(self, world: World, name: str, user: User, conversations: list[UUID]) -> None:
        self.user = user
        self.must_end = False
        self.name = name
        self.places = {
            str(key): Place(world, f"{name}.{place}", user, key, self) for place, key in enumerate(conversations)
        }
        self._world = world
        self.connected = False
        self.watched: dict[str, bool] = {}  # user → True if online, as received
        self.has_asked_anew = False  # it has sent its list again since the recovery
        self.is_told = False  # it has received the answer to its latest list
        self._is_watching = False  # it has sent that list
        self._expires = 0.0
        self._random = world.rand(f"session {name}")
        self._epoch = ""
        self._probed: list[Place] = []  # conversations of which it must be notified before the answer it waits for
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Connects, and reconnects, until `end`."""
        while not self.must_end:
            with contextlib.suppress(OSError):  # the service is down
                await self._session()
            if not self.must_end:
                await trio.sleep(self._random.uniform(0.05, 1.0 if self._world.calm else 2.5))

    def end(self) -> None:
        """Closes the connection for good."""
        self.must_end = True
        self._scope.cancel()

    async def _session(self) -> None:
        number, stream = self._world.connect()
        for place in self.places.values():
            place.stalled = False
        token, self._expires = lease(self._world, self.user, self._random)
        path = f"/api/chat/ws?token={token}"
        self._scope = trio.CancelScope()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    await self._talk(nursery, stream, path, number)
                    nursery.cancel_scope.cancel()
        except* trio_websocket.ConnectionRejected:
            pass
        finally:
            self.connected = False
            for place in self.places.values():
                place.close()
            await quietly_closed(stream)

    async def _talk(self, nursery: trio.Nursery, stream: End, path: str, number: int) -> None:
        history = self._world.history
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                ws = await trio_websocket.wrap_client_stream(
                    nursery, stream, "chat.example", path, message_queue_size=1
                )
                frame = json.loads(await ws.get_message())
            history.add("session", connection=number)
            self.connected = True
            self.has_asked_anew = self.is_told = self._is_watching = False
            self._probed = []
            if frame["type"] != "session":
                history.add("wrong", what=f"the first frame of a session is {frame}")
            if self._world.plan.has("afresh"):
                await self._begin(ws, frame["epoch"], number)
            else:
                if self._random.random() < 0.3:
                    await trio.sleep(self._random.uniform(0.1, 3))  # less than PULSE_RESUME_WAIT
                await self._resume(ws, frame["epoch"], number)
            nursery.start_soon(self._act, ws, number)
            await self._read(ws, number)
        except ConnectionClosed as closed:
            code = None if closed.reason is None else closed.reason.code
            if code == 4408:
                history.count("a slow session cut")
            if code == 4401:
                history.count("the token of a session expired")
        except (HandshakeError, trio.TooSlowError, trio.BrokenResourceError):
            pass

    def _missing(self) -> list[Place]:
        """Returns conversations that REST would list and the session does not know."""
        return [
            place
            for place in self.places.values()
            if not place.is_open and self.user.id in self._world.members(place.conversation_id)
        ]

    async def _begin(self, ws: WebSocketConnection, epoch: str, number: int) -> None:
        """Resumes all of its conversations, some or none, at once or later; or stays silent at first.

        Those that it does not name it loads: whatever is committed from now on is to come.
        """
        rand, history = self._random, self._world.history
        how = rand.choice(("all", "some", "some", "none", "none", "silent"))
        for place in self._missing():
            if how in {"none", "silent"} or (how == "some" and rand.random() < 0.5):
                history.count("a conversation loaded afresh by a session")
                place.open(None, number, self._expires)
        pause = rand.uniform(0.1, 3) if rand.random() < 0.4 else 0.0  # less than RESUME_WAIT
        began = trio.current_time()
        with trio.move_on_after(rand.uniform(0, 2 * RESUME_WAIT) if how == "silent" else pause):
            while True:
                frame = json.loads(await ws.get_message())
                if trio.current_time() - began < RESUME_WAIT - 0.01:
                    history.add("early", device=self.name, frame=frame)
                await self._take(ws, frame, number)
        if how != "silent":
            await self._resume(ws, epoch, number)

    async def _resume(self, ws: WebSocketConnection, epoch: str, number: int) -> None:
        revs = {}
        for place in self._missing():
            revs[str(place.conversation_id)] = place.cursor
            place.open(place.cursor, number, self._expires)
        if any(revs.values()):
            self._world.history.count("a session resumed")
        await ws.send_message(json.dumps({"type": "resume", "revs": revs, "epoch": self._epoch or epoch}))
        self._epoch = epoch

    async def _read(self, ws: WebSocketConnection, number: int) -> None:
        while True:
            while any(place.stalled for place in self.places.values()):  # noqa: ASYNC110  # the virtual clock jumps
                await trio.sleep(0.5)
            if not await self._take(ws, json.loads(await ws.get_message()), number):
                return  # and it reconnects

    async def _take(self, ws: WebSocketConnection, frame: dict[str, Any], number: int) -> bool:
        """Handles a frame; returns False if the session must end."""
        history = self._world.history
        if frame["type"] == "auth":
            history.count("the token of a session renewed")
        if frame["type"] == "users":
            await self._take_users(ws, {user["user_id"]: user["is_online"] for user in frame["users"]})
        place = self.places.get(frame.get("conversation_id", ""))
        if place is None:  # an answer about none of its conversations
            if frame["type"] == "error" and frame["code"] == "invalid_frame":
                for missed in self._probed:
                    if missed in self._missing():
                        missed.note_missed(number)
                self._probed = []
            return True
        about = {"user": str(self.user.id), "conversation": frame["conversation_id"]}
        if frame["type"] == "conversation_added":
            history.count("added while connected")
            if place.is_open and place.is_afresh:  # it was added after it had loaded: it reloads
                place.close()
            if not place.is_open:
                place.open(None, number, self._expires)
        elif frame["type"] == "conversation_removed":
            history.count("removed while connected")
            history.add("put_out", device=self.name, session=number, **about)
            place.close()
            place.told_removed = number
        elif frame["type"] == "error" and frame["code"] == "cannot_resume":
            history.count("a session told to load afresh")
            return False
        else:
            if not place.is_open and frame["type"] != "error":
                history.add("unheard", frame=frame, removed_from=place.told_removed, session=number, **about)
                place.open(None, number, self._expires)
            place.take(frame)
        return True

    async def _probe(self, ws: WebSocketConnection, number: int) -> None:
        """Sends a frame that is refused, if a conversation is unknown: the answer comes after all earlier frames."""
        missing = self._missing()
        if missing and not self._probed:
            self._world.history.add("probed", session=number)
            self._probed = missing
            await ws.send_message(json.dumps({"type": "read", "seq": 1}))

    async def _watch(self, ws: WebSocketConnection) -> None:
        """Watches all users again; first none, because frames before that answer belong to the earlier list."""
        self.is_told = self._is_watching = False
        await ws.send_message(json.dumps({"type": "watch", "user_ids": []}))

    async def _take_users(self, ws: WebSocketConnection, told: dict[str, bool]) -> None:
        if told:
            self.watched.update(told)
            self.is_told = self._is_watching
        elif not self._is_watching:  # the answer to an empty list; any other would have at least its own user
            self.watched.clear()
            self._is_watching = True
            user_ids = [str(user.id) for user in self._world.users]
            await ws.send_message(json.dumps({"type": "watch", "user_ids": user_ids}))

    async def renew(self, ws: WebSocketConnection) -> None:
        """Sends a new token."""
        token, expires = lease(self._world, self.user, self._random)
        self._expires = max(self._expires, expires)  # it may be refused; then the earlier one stays valid
        for place in self.places.values():
            place.renew(self._expires)
        await ws.send_message(json.dumps({"type": "auth", "token": token}))

    async def _act(self, ws: WebSocketConnection, number: int) -> None:
        rand = self._random
        last = looked = trio.current_time()
        try:
            await self._watch(ws)
            for place in self.places.values():
                await place.resend(ws)
            while True:
                await trio.sleep(min(rand.expovariate(3.0), 2.0))
                now = trio.current_time()
                if now - last > RESEND_AFTER:
                    last = now
                    for place in self.places.values():
                        await place.resend(ws)
                if self._world.plan.has("rivals"):
                    if now - looked > PROBE_AGAIN:
                        looked = now
                        await self._probe(ws, number)
                elif now - looked > LOOK_AGAIN:
                    looked = now
                    if self._missing():
                        await trio.sleep(2)
                        if self._missing():  # it was not notified: it reconnects
                            self._scope.cancel()
                here = [place for place in self.places.values() if place.is_open]
                if here and not self._world.calm:
                    await rand.choice(here).act(ws, number)
                elif self._world.calm:
                    for place in here:
                        await place.read_all(ws, number)
                if self._world.well and not self.has_asked_anew:
                    # It may have missed frames while it was slow, so it watches again; from now on it may miss none.
                    self.has_asked_anew = True
                    await self._watch(ws)
        except (ConnectionClosed, trio.BrokenResourceError):
            return
