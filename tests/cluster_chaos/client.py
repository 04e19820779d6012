"""A client of the chaos: reads, sends, edits, deletes, and comes back from wherever it was cut off."""

import json
import random
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx2
import trio

from tests.cluster_chaos.oracle import Records, Sent, View
from tests.support.client import Person
from tests.support.raw import CLOSE, TEXT, RawClient, frame, open_raw, upgrade_request

PAUSE = 4.0  # seconds between two acts of one client, on average
ALL = "members,conversation,me"


class ChaosClient:
    """One program of one user.

    Args:
        person: the user.
        conversations: those that it takes part in; one with its own connection, or some with a session.
        records: of all clients.
        rand: decides what it does.
        is_session: it has one connection for all.
        features: what it asks for; None: nothing.

    Attributes:
        views: what it knows, by conversation.
        is_connected: a WebSocket is open.
        is_ending: no new acts.
    """

    def __init__(
        self,
        person: Person,
        conversations: list[str],
        records: Records,
        rand: random.Random,
        *,
        is_session: bool,
        features: str | None,
    ) -> None:
        self.person = person
        self.is_session = is_session
        self.features = features
        self.views = {key: View() for key in conversations}
        self.is_connected = False
        self.is_ending = False
        self.watched: dict[str, bool] = {}
        self._records = records
        self._rand = rand
        self._me_rev: int | None = None
        self._number = 0
        self._pending: dict[str, Sent] = {}
        self._resent: set[str] = set()  # a resend is answered with the message, wherever it stands
        self._port = 0  # of this end of the connection: it says by the log which worker had it
        self._reconnect = trio.CancelScope()
        kind = "session" if is_session else "own"
        self.name = f"{person.username}/{kind}/{features}/{rand.getrandbits(32):x}"

    @property
    def has_features(self) -> bool:
        return self.features is not None

    @property
    def pending(self) -> list[Sent]:
        """The messages that are neither acknowledged nor rejected."""
        return list(self._pending.values())

    def reconnect(self) -> None:
        """Ends the present connection; another one follows."""
        self._reconnect.cancel()

    async def run(self) -> None:
        """Opens one connection after the other until cancelled."""
        port = int(self.person.base_url.rpartition(":")[2])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._act)
            while True:
                with trio.CancelScope() as self._reconnect:
                    try:
                        async with open_raw(port) as raw:
                            self._port = raw.stream.socket.getsockname()[1]
                            await self._use(raw)
                    except (OSError, EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
                        self._records.counters["cut off"] += 1
                    finally:
                        self.is_connected = False
                await trio.sleep(self._rand.uniform(0.1, 1.0))

    # --- reading ---

    async def _use(self, raw: RawClient) -> None:
        path = "/api/chat/ws"
        query = f"?token={self.person.token}"
        if self.has_features:
            query += f"&features={quote(self.features or '')}"
        if not self.is_session:
            ((key, view),) = self.views.items()
            path, query = f"{path}/{key}", f"{query}&after={view.rev}"
            view.begin(is_complete=True, live_rev=view.rev)
        answer = await raw.request(upgrade_request(path + query))
        if answer.status != 101:
            self._records.counters[f"handshake {answer.status}"] += 1
            await trio.sleep(self._rand.uniform(0.5, 2.0))
            return
        self._raw = raw
        if self.is_session:
            if await self._receive() != "session":
                return
            revs = {key: view.rev for key, view in self.views.items()}
            for view in self.views.values():
                view.begin(is_complete=True, live_rev=view.rev)
            resume: dict[str, Any] = {"type": "resume", "revs": revs}
            if self._me_rev is not None:
                resume["me"] = self._me_rev
            await raw.send(frame(resume))
            if self.watched:
                await raw.send(frame({"type": "watch", "user_ids": list(self.watched)}))
        self.is_connected = True
        self._records.counters["connected"] += 1
        for client_id in list(self._pending):
            self._resent.add(client_id)
            await self._send_frame(client_id)
        while await self._receive() is not None:
            pass

    async def _receive(self) -> str | None:
        """Receives a frame and handles it; returns its type, None: the connection was closed."""
        while True:
            opcode, payload = await self._raw.read_frame()
            if opcode == TEXT:
                got = json.loads(payload)
                self._take(got)
                return str(got["type"])
            if opcode == CLOSE:
                self._records.counters[f"closed {int.from_bytes(payload[:2], 'big')}"] += 1
                return None

    def _take(self, got: dict[str, Any]) -> None:
        self._records.counters["frames"] += 1
        kind = got["type"]
        key = got.get("conversation_id")
        if kind == "error":
            self._take_error(got)
        elif kind == "membership":
            self._take_membership(got)
        elif kind == "conversation_added":
            self._added(got["conversation_id"])
        elif kind == "users":
            self.watched.update((each["user_id"], each["is_online"]) for each in got["users"])
        elif key in self.views:
            view = self.views[key]
            if "rev" in got:
                self._take_change(key, view, got)
            elif kind == "read":
                for each in got["positions"]:
                    if each["seq"] < view.read_seqs.get(each["user_id"], 0):
                        self._fail("a read position never goes back", got)
                    view.read_seqs[each["user_id"]] = each["seq"]
            elif kind == "system" and not self.is_session:
                self._take_presence(view, got)

    def _take_change(self, key: str, view: View, got: dict[str, Any]) -> None:
        rev = got["rev"]
        if rev > self._records.removed.get((self.person.id, key), rev):
            self._fail("a removed user receives nothing", got)
        if view.live_rev is not None and rev <= view.live_rev and got.get("client_id") in self._resent:
            self._records.counters["resend answered"] += 1
            view.trace.append(("resend", rev, got.get("prev_rev"), got["client_id"]))
            if got["client_id"] in self._pending:
                self._acknowledge(got["client_id"], got["message_id"], got["seq"])
            return
        if view.live_rev is not None:
            if rev <= view.live_rev:
                self._fail("the order of rev is kept", (view.live_rev, got))
            if self.has_features and got["prev_rev"] > view.live_rev:
                if got["type"] == "member" and self._is_addition(got):
                    self._added(key)  # not a member when the connection began
                else:
                    self._fail("no change is left out", (view.live_rev, got, list(view.trace)))
        view.trace.append((got["type"], rev, got.get("prev_rev"), got.get("client_id")))
        view.live_rev = rev
        kind = got["type"]
        if kind.startswith("message"):
            if got.get("client_id") in self._pending:
                self._acknowledge(got["client_id"], got["message_id"], got["seq"])
            state = rev, got["seq"], got.get("content")
            if view.messages.get(got["message_id"], (0,))[0] > rev:
                self._fail("a message never goes back", (view.messages[got["message_id"]], got))
            view.messages[got["message_id"]] = state
        elif kind == "member":
            for each in got["members"]:
                view.members[each["user_id"]] = each["rev"], each["is_member"]
        elif kind == "conversation":
            view.name = got["name"]
        if view.is_complete:
            view.rev = rev

    def _is_addition(self, got: dict[str, Any]) -> bool:
        mine = [each["is_member"] for each in got["members"] if each["user_id"] == self.person.id]
        return self.is_session and mine == [True]

    def _take_presence(self, view: View, got: dict[str, Any]) -> None:
        event, user = got["event"], got["sender_id"]
        active = set(got["active_users"])
        at = datetime.now(UTC).strftime("%M:%S.%f")[:-3]
        view.presence.append((at, event, user[-4:], sorted(each[-4:] for each in active)))
        if view.active is not None and user != self.person.id:
            if event == "joined" and user in view.active:
                self._fail("`joined` comes once", (user[-4:], list(view.presence)))
            if event == "left" and user not in view.active:
                self._fail("`left` comes once", (user[-4:], list(view.presence)))
        view.active = active

    def _take_membership(self, got: dict[str, Any]) -> None:
        if self._me_rev is not None and got["prev_me_rev"] != self._me_rev:
            self._fail("no change of a user is left out", (self._me_rev, got))
        self._me_rev = got["me_rev"]
        view = self.views.get(got["conversation_id"])
        if view is None:
            return
        view.trace.append(("membership", got["is_member"], got["me_rev"]))
        if not got["is_member"]:
            view.members[self.person.id] = 0, False
            self._added(got["conversation_id"])  # whatever comes from now on is of an addition: it may be known later
        elif not view.members.get(self.person.id, (0, True))[1]:
            self._added(got["conversation_id"])

    def _added(self, key: str) -> None:
        """Notes an addition: what happened meanwhile is not sent. This client resumes for it at its end."""
        if key in self.views:
            self.views[key].begin(is_complete=False, live_rev=None)

    def _take_error(self, got: dict[str, Any]) -> None:
        self._records.counters[f"error {got['code']}"] += 1
        if got["code"] in {"not_a_member", "client_id_reused"}:
            self._pending.pop(got.get("client_id", ""), None)
        elif got["code"] not in {"not_stored", "unavailable", "no_such_message"}:
            self._fail("nothing is rejected without a reason", got)

    def _fail(self, promise: str, detail: object) -> None:
        self._records.fail(promise, (self.name, detail), self._port)

    def _acknowledge(self, client_id: str, message_id: str, seq: int) -> None:
        sent = self._pending.pop(client_id)
        sent.message_id, sent.seq = message_id, seq
        self._records.counters["acknowledged"] += 1

    # --- acting ---

    async def _act(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self._rand.expovariate(1 / PAUSE))
                for client_id in list(self._pending):
                    if self._rand.random() < 0.5:
                        nursery.start_soon(self._post, client_id)
                if self.is_ending:
                    continue
                draw = self._rand.random()
                key = self._rand.choice(list(self.views))
                if draw < 0.7:
                    self._number += 1
                    client_id = f"{self.name}-{self._number}"
                    sent = Sent(key, self.person.id, f"{client_id} " + "x" * self._rand.choice([0, 50, 500]))
                    self._pending[client_id] = self._records.sent[client_id] = sent
                    await self._send_frame(client_id)
                    if self._rand.random() < 0.2:  # and at once a second time, by another process
                        nursery.start_soon(self._post, client_id)
                elif draw < 0.85:
                    nursery.start_soon(self._revise, key)
                elif draw < 0.95:
                    last = max((seq for _, seq, _ in self.views[key].messages.values()), default=0)
                    if last:
                        await self._send({"type": "read", "conversation_id": key, "seq": last})
                elif draw < 0.97:
                    await self._send({"type": "typing", "conversation_id": key})
                else:
                    self.reconnect()

    async def _send_frame(self, client_id: str) -> None:
        sent = self._pending.get(client_id)
        if sent is not None:
            await self._send(
                {
                    "type": "message",
                    "conversation_id": sent.conversation,
                    "content": sent.content,
                    "client_id": client_id,
                }
            )

    async def _send(self, what: dict[str, Any]) -> None:
        if self.is_connected:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                await self._raw.send(frame(what))

    async def _post(self, client_id: str) -> None:
        sent = self._pending.get(client_id)
        if sent is None:
            return
        self._resent.add(client_id)
        body = {"content": sent.content, "client_id": client_id}
        path = f"/api/chat/conversations/{sent.conversation}/messages"
        answer = await self.ask("POST", path, json=body)
        if answer is None:
            return
        self._records.counters[f"post {answer.status_code}"] += 1
        if answer.status_code in {200, 201} and sent.message_id is None:
            self._pending.setdefault(client_id, sent)
            self._acknowledge(client_id, answer.json()["id"], answer.json()["seq"])
        elif answer.status_code == 404:
            self._pending.pop(client_id, None)

    async def _revise(self, key: str) -> None:
        own = [
            sent.message_id
            for sent in self._records.sent.values()
            if sent.conversation == key and sent.sender == self.person.id and sent.message_id is not None
        ]
        if not own:
            return
        path = f"/api/chat/conversations/{key}/messages/{self._rand.choice(own)}"
        if self._rand.random() < 0.7:
            answer = await self.ask("PATCH", path, json={"content": f"edited {self._rand.random()}"})
        else:
            answer = await self.ask("DELETE", path)
        if answer is not None:
            self._records.counters[f"revise {answer.status_code}"] += 1

    async def ask(self, method: str, path: str, **options: Any) -> httpx2.Response | None:
        """Makes a request once; None if there is no answer."""
        return await ask(self.person, method, path, **options)


async def ask(person: Person, method: str, path: str, **options: Any) -> httpx2.Response | None:
    """Makes a request once; None if there is no answer."""
    try:
        return await person.api.request(method, path, **options)
    except httpx2.HTTPError:
        return None
