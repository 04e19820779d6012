"""Devices with all conversations of their user on one session connection.

To the checker each conversation of a session is a connection of its own: it begins with `resume` or
`conversation_added`, and ends with `conversation_removed` or with the session. With the feature `me` it is `membership`
that begins and ends it.
"""

import contextlib
import json
from typing import Any
from uuid import UUID

import trio
import trio_websocket
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection

from pulse_trio.model import User
from tests.simulation.clients import HANDSHAKE_TIMEOUT, RESEND_AFTER, Device, lease
from tests.simulation.streams import End
from tests.simulation.world import RESUME_WAIT, World, quietly_closed

SESSION_FEATURES = (
    None, None, "", "me", "members,me", "conversation,me", "conversation,me,members", "conversation,me,members",
    "members,conversation,later",
)  # fmt: skip
PROBE_AGAIN = 1.0  # virtual seconds after which it checks that the session has notified it of all of them


class Place(Device):
    """A session's device in one conversation."""

    def __init__(self, world: World, name: str, user: User, conversation_id: UUID, device: "SessionDevice") -> None:
        super().__init__(world, name, user, conversation_id, features=device.features)
        self.is_open = False
        self.is_afresh = False  # it has loaded the history, and named no rev in a `resume`
        self.told_removed = 0  # the number of the session that last notified it of a removal
        self._device = device

    def open(self, after: int | None, session: int, expires: float) -> None:
        """Records its frames in the history from here on; `session` is the number of the session's connection."""
        self.number = self._world.next_number(session)
        self.is_open = self.connected = True
        self.is_afresh = after is None
        if after is None:  # it loads the history
            self.cursor = self._world.last_rev(self.conversation_id, self.kinds)
        about = {"expires": expires, "features": self.features, "process": self._world.process_of(session).generation}
        self._note("open", self.number, after=after, session=session, **about)

    def renew(self, expires: float) -> None:
        if self.is_open:
            self._note("renewed", self.number, expires=expires)

    def close(self) -> None:
        if self.is_open:
            self.is_open = self.connected = False
            self._note("gone", self.number)

    def take(self, frame: dict[str, Any], session: int, expires: float) -> None:
        if self._has_missed(frame):  # its user was removed and added, and both came as one `membership`
            self._history.count("a gap that a session saw")
            self._note("gap", self.number, frame=frame)
            self.close()
            self.open(None, session, expires)
            return
        self._note("frame", self.number, frame=frame, features=self._device.present_features)
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
    """One device of a user, in all conversations.

    Args:
        world: the world.
        name: its name.
        user: its user.
        conversations: those that it looks at.
        features: the features that it asks for, in the handshake or in `resume`; None to ask for none.

    Attributes:
        me: the last `me_rev` that it has; None if it must load its list.
    """

    def __init__(
        self, world: World, name: str, user: User, conversations: list[UUID], features: str | None = None
    ) -> None:
        self.user = user
        self.features = features
        self.has_me = features is not None and "me" in features.split(",")
        self.present_features: str | None = None  # those of the handshake, until others are answered
        self.me: int | None = None
        self._mine: dict[str, bool] = {}  # conversation → True if its user is a member, as `membership` said
        self.must_end = False
        self.name = name
        self.places = {
            str(key): Place(world, f"{name}.{place}", user, key, self) for place, key in enumerate(conversations)
        }
        self._world = world
        self.connected = False
        self.number = 0  # of its latest connection
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
        self.number = number
        for place in self.places.values():
            place.stalled = False
        token, self._expires = lease(self._world, self.user, self._random)
        path = f"/api/chat/ws?token={token}"
        self._how = self._random.choice(("all", "all", "all", "some", "some", "none", "none", "silent"))
        self._asks_late = self.features is not None and self._how != "silent" and self._random.random() < 0.5
        if self._asks_late:  # in `resume`, which replaces these
            self.present_features = self._random.choice((None, "", "me", "members,conversation"))
        else:
            self.present_features = self.features
        if self.present_features is not None:
            path += f"&features={self.present_features}"
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
            history.add("session", connection=number, device=self.name, frame=frame, features=self.present_features)
            self.connected = True
            self.has_asked_anew = self.is_told = self._is_watching = False
            self._probed = []
            if frame["type"] != "session":
                history.add("wrong", what=f"the first frame of a session is {frame}")
            await self._begin(ws, frame, number)
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

    async def _begin(self, ws: WebSocketConnection, greeting: dict[str, Any], number: int) -> None:
        """Resumes all of its conversations, some or none, at once or later; or stays silent at first.

        Those that it does not name it loads: whatever is committed from now on is to come.
        """
        rand, history, how = self._random, self._world.history, self._how
        resumes_me = self.has_me and self.me is not None and how in {"all", "some"}
        if self.has_me and not resumes_me and not self._asks_late:
            self._load_list(greeting["me_rev"], number)
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
            await self._resume(ws, greeting["epoch"], number, resumes_me=resumes_me)

    def _load_list(self, me: int, number: int) -> None:
        """Loads the list of conversations over REST: what changes in it after `me` is to come."""
        self.me = me
        self._mine = {key: self.user.id in self._world.members(UUID(key)) for key in self.places}
        self._note_me(number, is_loaded=True)
        for key, place in self.places.items():
            if not self._mine[key]:
                place.close()

    def _note_me(self, number: int, *, is_loaded: bool) -> None:
        about = {"device": self.name, "user": str(self.user.id), "session": number}
        self._world.history.add("me", **about, me=self.me, is_loaded=is_loaded)

    def _known(self) -> list[Place]:
        """Returns the conversations that it resumes: with `me` those that it knows, else those that REST lists."""
        if not self.has_me or self.me is None:
            return self._missing()
        return [place for key, place in self.places.items() if self._mine.get(key) and not place.is_open]

    async def _resume(self, ws: WebSocketConnection, epoch: str, number: int, *, resumes_me: bool) -> None:
        revs = {}
        resume: dict[str, Any] = {"type": "resume", "revs": revs, "epoch": self._epoch or epoch}
        if self._asks_late:
            assert self.features is not None
            resume["features"] = self.features.split(",")
            if self.has_me and not resumes_me:
                self.me = None  # until `features` says where it begins
        if resumes_me:
            resume["me"] = self.me
            self._note_me(number, is_loaded=False)
            self._world.history.count("a session resumed with me")
        for place in self._known():
            revs[str(place.conversation_id)] = place.cursor
            place.open(place.cursor, number, self._expires)
        if any(revs.values()):
            self._world.history.count("a session resumed")
        await ws.send_message(json.dumps(resume))
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
        if frame["type"] == "features":
            self.present_features = self.features
            history.add("features", connection=number, device=self.name, frame=frame, features=self.features)
            if self.has_me and self.me is None:
                self._load_list(frame["me_rev"], number)
                for place in self._missing():  # added since it opened: the list has them
                    place.open(None, number, self._expires)
        if frame["type"] == "membership":
            return self._take_membership(frame, number)
        if frame["type"] == "users":
            await self._take_users(ws, {user["user_id"]: user["is_online"] for user in frame["users"]})
        place = self.places.get(frame.get("conversation_id", ""))
        if place is None:  # an answer about none of its conversations
            if frame["type"] in {"conversation_added", "conversation_removed"}:
                history.add("told", device=self.name, features=self.present_features, frame=frame)
            if frame["type"] == "error" and frame["code"] == "cannot_resume":
                history.add("resume_refused", device=self.name, frame=frame)
                return False
            if frame["type"] == "error" and frame["code"] == "invalid_frame":
                for missed in self._probed:
                    if missed in self._missing():
                        missed.note_missed(number)
                self._probed = []
            return True
        about = {"user": str(self.user.id), "conversation": frame["conversation_id"]}
        if frame["type"] in {"conversation_added", "conversation_removed"}:
            history.add("told", device=self.name, features=self.present_features, frame=frame)
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
                # Its own sequence may be ahead of the conversation: it was told of a removal that the room has not
                # come to. It loads the conversation, and finds none.
                removed_from = 0 if self.has_me else place.told_removed
                history.add(
                    "unheard", device=self.name, frame=frame, removed_from=removed_from, session=number, **about
                )
                if self.has_me and place not in self._missing():
                    return True
                place.open(None, number, self._expires)
            place.take(frame, number, self._expires)
        return True

    def _take_membership(self, frame: dict[str, Any], number: int) -> bool:
        """Handles a change of its user's own memberships; returns False if it has missed one before."""
        history, key = self._world.history, frame["conversation_id"]
        about = {"user": str(self.user.id), "conversation": key}
        asked = self.present_features
        history.add("membership", device=self.name, session=number, frame=frame, user=about["user"], features=asked)
        if self.me is None or not self.has_me:
            return True  # the checker names it
        if frame["prev_me_rev"] > self.me:
            return False  # it resumes where it is
        self.me = max(self.me, frame["me_rev"])
        if key not in self.places:
            return True
        was_member, self._mine[key] = self._mine.get(key), frame["is_member"]
        place = self.places[key]
        if frame["is_member"] and not place.is_open:
            history.count("added while connected")
            place.open(None, number, self._expires)
        elif not frame["is_member"] and was_member:
            history.count("removed while connected")
            history.add("put_out", device=self.name, session=number, **about)
            place.close()
            place.told_removed = number
        elif not frame["is_member"]:
            place.close()
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
                await trio.sleep(min(rand.expovariate(3.0), 2.0) * (1 if self._world.calm else self._world.pace))
                now = trio.current_time()
                if now - last > RESEND_AFTER:
                    last = now
                    for place in self.places.values():
                        await place.resend(ws)
                if now - looked > PROBE_AGAIN:
                    looked = now
                    await self._probe(ws, number)
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
