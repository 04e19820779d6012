"""Clients as small state machines: each keeps what it needs to reconnect, and nothing else."""

import json
import random
from typing import Any
from uuid import UUID

import trio
import trio_websocket
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection

from pulse_trio.model import Kind, User
from tests.simulation.process import Process
from tests.simulation.streams import End
from tests.simulation.world import LIFETIME, World, quietly_closed

HANDSHAKE_TIMEOUT = 15.0
RESEND_AFTER = 3.0
OFTEN = 0.1  # the chance of an action that is done more often than others
FEATURES = (None, None, "", "members", "conversation", "conversation,members", "members,conversation,me,later")
"""Features that a connection of one conversation asks for; none, or unknown ones and those of sessions, too."""
CHANGES = ("message", "message_updated", "message_deleted", "member", "conversation")

ACTIONS = (
    (0.50, "message"),
    (0.64, "edit"),
    (0.70, "delete"),
    (0.72, "theft"),
    (0.78, "typing"),
    (0.83, "cut"),
    (0.86, "stall"),
    (0.88, "close"),
    (0.91, "renew"),
    (0.93, "vanish"),
    (0.99, "read"),
)
"""Upper bounds of the chance for each action of a client; above the last it does nothing."""


def kinds_of(features: str | None) -> int:
    """Returns the kinds of changes that a client with these features is sent."""
    asked = (features or "").split(",")
    kinds = Kind.MESSAGE | (Kind.MEMBER if "members" in asked else 0)
    return kinds | (Kind.CONVERSATION if "conversation" in asked else 0)


def lease(world: World, user: User, rand: random.Random) -> tuple[str, float]:
    """Returns a token, sometimes a short-lived one, and its expiry."""
    lifetime = rand.uniform(3, 12) if rand.random() < 0.2 else LIFETIME
    return world.token(user, LIFETIME if world.calm or not world.plan.has("expire") else lifetime)


class Device:
    """One device of a user, in one conversation.

    Args:
        world: the world.
        name: its name.
        user: its user.
        conversation_id: the conversation.
        talks: False if it only listens.
        features: the `features` of its handshake; None to ask for none.
        process: the process that it connects to; None for any.
    """

    def __init__(
        self,
        world: World,
        name: str,
        user: User,
        conversation_id: UUID,
        *,
        talks: bool = True,
        features: str | None = None,
        process: Process | None = None,
    ) -> None:
        self.name = name
        self._process = process
        self.features = features
        self.kinds = kinds_of(features)
        self.user = user
        self.conversation_id = conversation_id
        self.cursor = 0
        self.epoch = ""
        self.pending: dict[str, str] = {}  # client_id → content, not acknowledged yet
        self.connected = False
        self.number = 0  # of its latest connection
        self.must_end = False
        self._talks = talks
        self._world = world
        self._history = world.history
        self._random: random.Random = world.rand(f"device {name}")
        self._mine: list[str] = []
        self._others: list[str] = []
        self._made = 0
        self.newest = 0  # the highest seq it has received
        self.read_up_to = 0  # the read position it has received
        self.stalled = False
        self._fresh = False
        self._client_ids: dict[str, str] = {}  # message_id → client_id, of this user's messages
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Connects, and reconnects, until `end`."""
        while not self.must_end:
            try:
                await self._session()
            except OSError:
                pass  # the service is down
            finally:
                self.connected = False
            if not self.must_end:
                await trio.sleep(self._random.uniform(0.05, 1.0 if self._world.calm else 2.5))

    def end(self) -> None:
        """Closes the connection for good."""
        self.must_end = True
        self._scope.cancel()

    async def _session(self) -> None:
        number, stream = self._world.connect(self._process)
        self.number = number
        self.stalled = False
        resumes = self._world.calm or self._random.random() < 0.9
        self._fresh = not resumes
        token, expires = lease(self._world, self.user, self._random)
        path = f"/api/chat/ws/{self.conversation_id}?token={token}"
        if resumes:
            path += f"&after={self.cursor}"
            if self.epoch:
                path += f"&epoch={self.epoch}"
        if self.features is not None:
            path += f"&features={self.features}"
        after = self.cursor if resumes else None
        process = self._world.process_of(number).generation
        self._note("open", number, after=after, expires=expires, features=self.features, process=process)
        self._scope = trio.CancelScope()
        status = 0
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    await self._talk(nursery, stream, path, number)
                    nursery.cancel_scope.cancel()
        except* trio_websocket.ConnectionRejected as group:  # raised by the task that reads
            (refused,) = group.exceptions
            assert isinstance(refused, trio_websocket.ConnectionRejected)
            status = refused.status_code
        finally:
            self._note("gone", number)
            await quietly_closed(stream)
        if status:
            self._note("refused", number, status=status)
            if status == 403:
                await trio.sleep(2)

    async def _talk(self, nursery: trio.Nursery, stream: End, path: str, number: int) -> None:
        """Runs one connection from the handshake to its end. Its failures end here, inside the nursery."""
        try:
            with trio.fail_after(HANDSHAKE_TIMEOUT):
                ws = await trio_websocket.wrap_client_stream(
                    nursery, stream, "chat.example", path, message_queue_size=1
                )
            nursery.start_soon(self._act, ws, number)
            await self._read(ws, number)
        except ConnectionClosed as closed:
            code = None if closed.reason is None else closed.reason.code
            self._note("closed", number, code=code)
            if code == 4408:
                self._history.count("a slow client cut")
            if code == 4401:
                self._history.count("a token expired")
            if code == 4409:  # reload
                self.cursor = 0
        except (HandshakeError, trio.TooSlowError, trio.BrokenResourceError):
            self._note("refused", number, status=0)

    def _note(self, kind: str, number: int, **data: Any) -> None:
        self._history.add(
            kind,
            device=self.name,
            user=str(self.user.id),
            conversation=str(self.conversation_id),
            connection=number,
            **data,
        )

    # --- reading ---

    async def _read(self, ws: WebSocketConnection, number: int) -> None:
        while True:
            while self.stalled:  # noqa: ASYNC110  # the virtual clock jumps
                await trio.sleep(0.5)
            frame = json.loads(await ws.get_message())
            self._note("frame", number, frame=frame)
            if self._has_missed(frame):
                self._scope.cancel()  # and it resumes where it is
                return
            self._take(frame)

    def _has_missed(self, frame: dict[str, Any]) -> bool:
        return self.connected and "prev_rev" in frame and self.cursor < frame["prev_rev"]

    def _take(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind == "system":
            self.epoch = frame["epoch"]
            if not self.connected:  # the first frame
                self.connected = True
                if self._fresh:
                    self.cursor = frame["last_rev"]
                elif self.cursor < frame["last_rev"]:
                    self._history.count("a resume over a gap")
        if kind in CHANGES:
            self.cursor = max(self.cursor, frame["rev"])
        if kind in {"message", "message_updated", "message_deleted"}:
            self.newest = max(self.newest, frame["seq"])
            is_mine = frame["sender_id"] == str(self.user.id)
            if kind == "message":
                (self._mine if is_mine else self._others).append(frame["message_id"])
            if is_mine:
                if "client_id" in frame:
                    self._client_ids[frame["message_id"]] = frame["client_id"]
                self.pending.pop(frame.get("client_id", ""), None)
                if kind == "message_deleted":
                    self.pending.pop(self._client_ids.get(frame["message_id"], ""), None)
        if kind == "read":
            mine = [each["seq"] for each in frame["positions"] if each["user_id"] == str(self.user.id)]
            self.read_up_to = max(self.read_up_to, *mine, 0)
        if kind == "auth":
            self._history.count("a token renewed")
        if kind == "error":
            self._history.count(f"refused: {frame['code']}")
            if frame["code"] == "not_stored":
                self._history.count("a refused read" if frame.get("field") == "seq" else "a refused message")
            elif frame["code"] == "not_a_member":
                self.pending.pop(frame.get("client_id", ""), None)

    # --- acting ---

    async def _act(self, ws: WebSocketConnection, number: int) -> None:
        rand = self._random
        try:
            while not self.connected:  # noqa: ASYNC110  # the virtual clock jumps
                await trio.sleep(0.05)
            for client_id, content in list(self.pending.items()):
                await self._send(ws, number, client_id, content)
            last = trio.current_time()
            while True:
                await trio.sleep(min(rand.expovariate(2.0), 2.0) * (1 if self._world.calm else self._world.pace))
                if trio.current_time() - last > RESEND_AFTER:
                    last = trio.current_time()
                    for client_id, content in list(self.pending.items()):
                        self._history.count("a resend")
                        await self._send(ws, number, client_id, content)
                if not self._world.calm and self._talks:
                    await self._something(ws, number)
                elif self._world.calm:
                    await self.read_all(ws, number)
        except (ConnectionClosed, trio.BrokenResourceError):
            return

    async def read_all(self, ws: WebSocketConnection, number: int) -> None:
        """Marks all it has received as read, unless that is the last position it got back."""
        if self.newest > self.read_up_to:
            await self._put(ws, number, {"type": "read", "seq": self.newest})

    async def _something(self, ws: WebSocketConnection, number: int) -> None:
        rand = self._random
        chance = rand.random()
        action = next((name for limit, name in ACTIONS if chance < limit), None)
        if self._world.plan.often and rand.random() < OFTEN:
            action = self._world.plan.often
        if action is not None and not self._world.plan.has(action):
            return
        if action == "message":
            for _ in range(rand.choice((1, 1, 1, 2, 6)) if self._world.plan.has("burst") else 1):
                self._made += 1
                client_id = f"{self.name}-{self._made}"
                self.pending[client_id] = f"{client_id} {'x' * rand.choice((0, 10, 10, 3_000))}"
                await self._send(ws, number, client_id, self.pending[client_id])
        elif action == "edit" and self._mine:
            self._made += 1
            content = f"edit {self.name}-{self._made}"
            await self._put(ws, number, {"type": "edit", "message_id": rand.choice(self._mine), "content": content})
        elif action == "delete" and self._sent_here():
            await self._put(ws, number, {"type": "delete", "message_id": rand.choice(self._sent_here())})
        elif action == "theft" and self._others:
            content = f"theft {self.name}-{self._made}"
            await self._put(ws, number, {"type": "edit", "message_id": rand.choice(self._others), "content": content})
        elif action == "typing":
            await self._put(ws, number, {"type": "typing"})
        elif action == "read":
            seq = rand.choice((self.newest, self.newest, rand.randint(0, self.newest), self.newest + 50))
            await self._put(ws, number, {"type": "read", "seq": max(seq, 1)})
        elif action == "cut":
            self._world.cut(number)
        elif action == "vanish":
            self._world.vanish(number)
        elif action == "stall":
            self._history.add("stall", device=self.name)
            self.stalled = True
            await trio.sleep(rand.uniform(1, 12))
            self.stalled = False
        elif action == "renew":
            await self._renew(ws)
        elif action == "close":
            with trio.move_on_after(2):
                await ws.aclose()

    async def _renew(self, ws: WebSocketConnection) -> None:
        token, expires = lease(self._world, self.user, self._random)
        self._note("renewed", self.number, expires=expires)
        await ws.send_message(json.dumps({"type": "auth", "token": token}))

    def _sent_here(self) -> list[str]:
        """Returns messages of this device: a `message_deleted` has no client_id, so no other could be matched."""
        return [key for key, client_id in self._client_ids.items() if client_id.startswith(f"{self.name}-")]

    async def _send(self, ws: WebSocketConnection, number: int, client_id: str, content: str) -> None:
        await self._put(ws, number, {"type": "message", "content": content, "client_id": client_id})

    async def _put(self, ws: WebSocketConnection, number: int, frame: dict[str, Any]) -> None:
        self._note("sent", number, frame=frame)
        await ws.send_message(json.dumps(frame))


async def ask_to_add(world: World, conversation_id: UUID, users: list[User], actor: User) -> int:
    """Requests an addition; returns the status of the answer."""
    body = {"user_ids": [str(user.id) for user in users]}
    return await _ask(world, conversation_id, "addition", users, actor, "POST", "", body)


async def ask_to_remove(world: World, conversation_id: UUID, user: User, actor: User) -> int:
    """Requests a removal, or leaves if the user is the actor; returns the status of the answer."""
    path = f"/{'me' if actor is user else user.id}"
    return await _ask(world, conversation_id, "removal", [user], actor, "DELETE", path, None)


async def _ask(
    world: World, conversation_id: UUID, what: str, users: list[User], actor: User, method: str, path: str, body: object
) -> int:
    path = f"/api/chat/conversations/{conversation_id}/members{path}"
    about = {
        "conversation": str(conversation_id),
        "users": [str(user.id) for user in users],
        "request": world.next_request(),
    }
    world.history.add(f"{what}_asked", **about)
    status, _ = await world.request(actor, method, path, body)
    rev = world.last_rev(conversation_id)
    world.history.add(f"{what}_answered", **about, actor=str(actor.id), status=status, rev=rev)
    world.history.count(f"{what} {status}")
    return status


class Rival:
    """One of several who add and remove the same users at the same time: several at once, and again.

    It does not look who is in. Often it asks for the opposite before the first is answered, and most times it asks
    again when it was not answered for good. Users leave, too, also the owner.
    """

    def __init__(self, world: World, conversation_id: UUID, number: int) -> None:
        self._world = world
        self._conversation_id = conversation_id
        self._random = world.rand(f"rival {number} {conversation_id}")

    async def run(self) -> None:
        """Runs until the calm."""
        world, rand = self._world, self._random
        people = world.users[1:-1]
        while not world.calm:
            await trio.sleep(rand.uniform(0.1, 3))
            users = rand.sample(people, rand.randint(1, len(people)))
            if rand.random() < 0.2 and world.plan.has("bulk"):
                users += world.crowd
            elif rand.random() < 0.1:
                users = [world.users[0]]
            adds = rand.random() < 0.55
            async with trio.open_nursery() as nursery:
                self._begin(nursery, users, adds=adds)
                if rand.random() < 0.4:
                    await trio.sleep(rand.uniform(0, 0.3))
                    self._begin(nursery, users, adds=not adds)

    def _begin(self, nursery: trio.Nursery, users: list[User], *, adds: bool) -> None:
        """Adds the users in one request, or removes some of them in one request each, all at once."""
        if adds:
            nursery.start_soon(self._ask, users, True)
            return
        count = len(users) if len(users) == 1 or self._random.random() < 0.3 else 1
        for user in users[:count]:
            nursery.start_soon(self._ask, [user], False)

    async def _ask(self, users: list[User], adds: bool) -> None:
        world, rand = self._world, self._random
        owner, other = world.owner(self._conversation_id), world.users[-1]
        actor = rand.choice((owner, other)) if adds else rand.choice((owner, owner, owner, users[0]))
        while True:
            if adds:
                status = await ask_to_add(world, self._conversation_id, users, actor)
            else:
                status = await ask_to_remove(world, self._conversation_id, users[0], actor)
            if status not in {0, 503} or world.calm or rand.random() < 0.3:
                return
            world.history.count("a change of members asked for again")
            await trio.sleep(rand.uniform(0.05, 0.5))


class Namer:
    """A member who names a group and describes it, over REST; sometimes as it is named already."""

    def __init__(self, world: World, conversation_id: UUID) -> None:
        self._world = world
        self._conversation_id = conversation_id
        self._random = world.rand(f"namer {conversation_id}")

    async def run(self) -> None:
        """Runs until the calm."""
        world, rand = self._world, self._random
        values: dict[str, str | None] = {}
        while not world.calm:
            await trio.sleep(rand.uniform(0.3, 5))
            if not values or rand.random() < 0.8:
                values = {"name": rand.choice((None, "A", "B", "C"))}
                if rand.random() < 0.3:
                    values["description"] = rand.choice((None, "of some"))
            actor = rand.choice((world.users[-1], world.users[-1], world.users[1]))
            path = f"/api/chat/conversations/{self._conversation_id}"
            status, _ = await world.request(actor, "PATCH", path, values)
            world.history.count(f"a change of properties {status}")


class Poster:
    """A program that posts messages over REST, each again until it is answered."""

    def __init__(self, world: World, conversation_id: UUID) -> None:
        self._world = world
        self._conversation_id = conversation_id
        self._random = world.rand(f"poster {conversation_id}")
        self._user = self._random.choice(world.users[:-1])
        self._made = 0
        self._known: dict[str, int] = {}  # message → the rev that it had when it was last answered

    async def run(self) -> None:
        """Runs until the calm, and until its last message is answered."""
        while not self._world.calm:
            await trio.sleep(self._random.uniform(0.1, 3))
            self._made += 1
            client_id = f"poster-{self._user.username}-{self._made}"
            while not await self._post(client_id):
                await trio.sleep(self._random.uniform(0.1, 1.5))
                self._world.history.count("a post made again")
            if self._known and self._random.random() < 0.4 and self._world.plan.has("edit"):
                await self._edit()

    async def _edit(self) -> None:
        """Edits a message that nobody has changed since: sometimes one that somebody has."""
        history = self._world.history
        message_id, rev = self._random.choice(list(self._known.items())[-3:])
        self._made += 1
        content = f"careful {self._user.username}-{self._made}"
        about = {"conversation": str(self._conversation_id), "message": message_id, "if_rev": rev, "content": content}
        history.add("editing", **about)
        path = f"/api/chat/conversations/{self._conversation_id}/messages/{message_id}"
        status, said = await self._world.request(self._user, "PATCH", path, {"content": content, "if_rev": rev})
        history.add("edit_answered", status=status, body=said, **about)
        history.count(f"a careful edit {status}")
        if status == 409:
            said = said["current"]
        if status in {200, 409} and self._random.random() < 0.7:  # else it goes on with an old rev
            self._known[message_id] = said["rev"]

    async def _post(self, client_id: str) -> bool:
        """Posts a message; returns True if the answer is final. Sometimes it does not wait, or posts once more."""
        path = f"/api/chat/conversations/{self._conversation_id}/messages"
        about = {"conversation": str(self._conversation_id), "user": str(self._user.id), "client_id": client_id}
        content = f"{client_id} {'x' * (len(client_id) % 7)}"
        self._world.history.add("posting", content=content, **about)
        status, said = 0, None
        is_patient = self._world.calm or self._random.random() < 0.8
        with trio.move_on_after(100 if is_patient else self._random.uniform(0, 0.3)):
            status, said = await self._world.request(
                self._user, "POST", path, {"content": content, "client_id": client_id}
            )
        found = said if status in {200, 201} else {}
        if found:
            self._known[found["id"]] = found["rev"]
        self._world.history.add("posted", status=status, id=found.get("id"), seq=found.get("seq"), **about)
        self._world.history.count(f"a post {status}")
        return status not in {0, 429, 500, 503} and (self._world.calm or self._random.random() < 0.9)


class Walker:
    """A user who reads lists page by page over REST while they change: conversations, members, messages."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = world.rand("walker")
        self._user = world.users[-1]  # nobody removes this one

    async def run(self) -> None:
        """Runs until the calm; then walks through each list once more."""
        world, rand = self._world, self._random
        everywhere = [*world.conversations, *world.quiet]
        while not world.calm:
            await trio.sleep(rand.uniform(0.2, 4))
            await self._walk(rand.choice(("conversations", "members", "messages")), rand.choice(everywhere))
            if world.quiet and rand.random() < 0.5:
                await self._stir(rand.choice(world.quiet))
        for what in ("conversations", "members", "messages"):
            await self._walk(what, rand.choice(everywhere))

    async def _walk(self, what: str, conversation_id: UUID) -> None:
        world, rand, size = self._world, self._random, self._random.choice((1, 2, 3))
        path = f"/api/chat/conversations/{conversation_id}/{what}?limit={size}"
        if what == "conversations":
            path = f"/api/chat/conversations?limit={size}"
        about = {"user": str(self._user.id), "what": what, "conversation": str(conversation_id)}
        world.history.add("walk", **about)
        step = ""
        while True:
            status, said = await world.request(self._user, "GET", path + step)
            if status in {0, 503}:
                if rand.random() < 0.3 and not world.calm:
                    return  # it gives up in the middle
                await trio.sleep(rand.uniform(0.1, 1))
                continue
            if status != 200:
                world.history.add("walked_wrong", status=status, body=said, **about)
                return
            found = said[what]
            ids = [each["id"] for each in found]
            rows = {each["id"]: (each["seq"], each["rev"], each["content"]) for each in found if what == "messages"}
            world.history.add("page", ids=ids, rows=rows, total=said["total"], **about)
            if what == "messages":
                step = f"&before_seq={found[-1]['seq']}" if found and found[-1]["seq"] > 1 else ""
            else:
                step = f"&cursor={said['next_cursor']}" if said["next_cursor"] else ""
            if not step:
                break
            await trio.sleep(rand.choice((0, rand.uniform(0, 0.5))))
        world.history.add("walked", **about)
        world.history.count(f"a walk through {what}")

    async def _stir(self, conversation_id: UUID) -> None:
        """Posts where nobody else is, so that the conversation moves to the top of the list."""
        path = f"/api/chat/conversations/{conversation_id}/messages"
        status, _ = await self._world.request(self._user, "POST", path, {"content": "a stir"})
        self._world.history.count(f"a stir {status}")
