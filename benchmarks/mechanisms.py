"""Mechanisms by which a client of a server keeps its messages together: ids, the history, a way to resume."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from benchmarks.dialects import Dialect, Lost, SocketIoDialect, XmppDialect
from benchmarks.identities import XMPP_ROOMS, room_id, room_name, token
from benchmarks.rest import Http

if TYPE_CHECKING:
    from benchmarks.witness import Witness

PAGE = 100  # messages; the peers' pages have no more
XMPP_PAGE = 250  # of ejabberd's archive
ANSWER = 20.0  # seconds within which the archive must answer


@dataclass(frozen=True, slots=True)
class Seen:
    """A message that a client got: its text, the server's id, and where to resume after it."""

    content: str
    id: str
    after: str = ""


# Opens a connection of the reader. The argument resumes: see `Dialect`.
Connect = Callable[[str], Awaitable["Witness"]]


@dataclass(frozen=True, slots=True)
class Resumed:
    """A reader that is back: its connection, the messages that it fetched, and how, in words."""

    witness: Witness
    fetched: list[Seen]
    how: str


class Mechanisms:
    """The specification's: no ids of messages, pages over REST, nothing to resume with.

    Attributes:
        table: where the server stores messages.
        ids: the ids that a client can give a message, in words.
    """

    table = "messages"
    ids = "no id for a resend"

    def message(self, room: int, content: str, name: str) -> bytes:
        """Returns the frame of a message that its sender calls `name`; a resend has the same name."""
        return b'{"type":"message","content":"%s"}' % content.encode()

    def read(self, frame: bytes) -> Seen | None:
        """Returns the message of a frame; None if it is another frame."""
        data = self._decode(frame)
        if data is None or data.get("type") != "message":
            return None
        return Seen(data["content"], data["message_id"])

    def is_error(self, frame: bytes) -> bool:
        data = self._decode(frame)
        return data is not None and data.get("type") == "error"

    def is_typing(self, frame: bytes) -> bool:
        data = self._decode(frame)
        return data is not None and data.get("type") == "typing"

    def _decode(self, frame: bytes) -> dict[str, Any] | None:
        found = json.loads(frame)
        return found if isinstance(found, dict) else None

    async def history(self, witness: Witness, known: Sequence[Seen] = ()) -> list[Seen]:
        """Returns the history as a member reads it, oldest first; from the newest page that has only known messages.

        A page with one of them is not the end: messages are ordered by a time that was taken before they were stored,
        so one that came late may be further back.
        """
        ids, found = {seen.id for seen in known}, list[Seen]()
        http = Http(witness.port)
        try:
            while True:
                path = f"/api/chat/conversations/{room_id(witness.room)}/messages?limit={PAGE}&offset={len(found)}"
                page = json.loads(await http.get(path, token(witness.user)))["messages"]
                found += [Seen(row["content"], row["id"]) for row in page]
                if len(page) < PAGE or ids.issuperset(row["id"] for row in page):
                    return found[::-1]
        finally:
            http.close()

    async def resume(self, last: Witness, known: list[Seen], connect: Connect) -> Resumed:
        """Connects again after the messages that are known. `last`: the connection that was lost."""
        witness = await connect("")
        return Resumed(witness, await self.history(witness, known), "pages over REST, merged by id")

    def merge(self, known: list[Seen], resumed: Resumed, live: list[Seen]) -> list[Seen]:
        """Returns the new messages that the client shows: those that were fetched, then those that came live."""
        ids, shown = {seen.id for seen in known}, list[Seen]()
        for seen in (*resumed.fetched, *live):
            if seen.id not in ids:
                ids.add(seen.id)
                shown.append(seen)
        return shown


class OurMechanisms(Mechanisms):
    """This product's: `client_id` names a message, `rev` and `epoch` a place to resume at."""

    ids = "same `client_id`"

    def message(self, room: int, content: str, name: str) -> bytes:
        return json.dumps({"type": "message", "content": content, "client_id": name}).encode()

    def read(self, frame: bytes) -> Seen | None:
        seen = super().read(frame)
        return None if seen is None else Seen(seen.content, seen.id, str(json.loads(frame)["rev"]))

    async def resume(self, last: Witness, known: list[Seen], connect: Connect) -> Resumed:
        epoch = json.loads(last.ready.result())["epoch"]
        return Resumed(await connect(f"&after={known[-1].after}&epoch={epoch}"), [], "`after` the last `rev`")

    def merge(self, known: list[Seen], resumed: Resumed, live: list[Seen]) -> list[Seen]:
        return live  # the server promises each once


class SocketIoMechanisms(Mechanisms):
    """Socket.IO's: a resend of its client is the same packet with an acknowledgement's id; recovery from memory."""

    ids = "the same packet, as by `retries`"

    def message(self, room: int, content: str, name: str) -> bytes:
        number = uuid5(UUID(int=0), name).int % 10**6
        return b'42%d["message",{"content":"%s"}]' % (number, content.encode())

    def read(self, frame: bytes) -> Seen | None:
        seen = super().read(frame)
        if seen is None:
            return None
        after = json.loads(frame[2:])[2:]  # the offset follows the event's own arguments
        return Seen(seen.content, seen.id, after[0] if after else "")

    def _decode(self, frame: bytes) -> dict[str, Any] | None:
        if not frame.startswith(b"42["):
            return None
        found = json.loads(frame[2:])[1]
        return found if isinstance(found, dict) else None

    async def resume(self, last: Witness, known: list[Seen], connect: Connect) -> Resumed:
        session = json.loads(last.ready.result()[2:])["pid"]
        witness = await connect(f',"pid":"{session}","offset":"{known[-1].after}"')
        if json.loads(witness.ready.result()[2:])["pid"] == session:
            return Resumed(witness, [], "recovered from memory")
        how = "pages over REST, merged by id; its own recovery did not survive"
        return Resumed(witness, await self.history(witness, known), how)


class XmppMechanisms(Mechanisms):
    """XMPP's: `id` and `origin-id` name a message (XEP-0359), the archive is read after a `stanza-id` (XEP-0313)."""

    table = "archive"
    ids = "same `id` and `origin-id`"

    def message(self, room: int, content: str, name: str) -> bytes:
        return (
            f'<message xmlns="jabber:client" to="{room_name(room)}@{XMPP_ROOMS}" type="groupchat" id="{name}">'
            f'<body>{content}</body><origin-id xmlns="urn:xmpp:sid:0" id="{name}"/></message>'
        ).encode()

    def read(self, frame: bytes) -> Seen | None:
        if not frame.startswith(b"<message "):
            return None
        return _seen(ET.fromstring(frame))

    def is_error(self, frame: bytes) -> bool:
        return frame.startswith(b"<message ") and ET.fromstring(frame).get("type") == "error"

    def is_typing(self, frame: bytes) -> bool:
        return frame.startswith(b"<message ") and b"<composing" in frame

    async def history(self, witness: Witness, known: Sequence[Seen] = ()) -> list[Seen]:
        found = list[Seen]()
        after, is_complete = (known[-1].id if known else ""), False
        while not is_complete:
            page, after, is_complete = await self._page(witness, after)
            found += page
        return found

    async def _page(self, witness: Witness, after: str) -> tuple[list[Seen], str, bool]:
        """Returns a page of the archive, the id after which the next one begins, and True for the last."""
        start, place = len(witness.frames), f"<after>{after}</after>" if after else ""
        name = f"page{start}"
        witness.send(
            f'<iq xmlns="jabber:client" to="{room_name(witness.room)}@{XMPP_ROOMS}" type="set" id="{name}">'
            f'<query xmlns="urn:xmpp:mam:2"><set xmlns="http://jabber.org/protocol/rsm">'
            f"<max>{XMPP_PAGE}</max>{place}</set></query></iq>".encode()
        )

        def new(kind: bytes) -> list[ET.Element]:
            return [ET.fromstring(frame) for frame in witness.frames[start:] if frame.startswith(kind)]

        def answers() -> list[ET.Element]:
            return [answer for answer in new(b"<iq ") if answer.get("id") == name]

        if not await witness.wait(lambda: bool(answers()), ANSWER):
            raise Lost("the archive does not answer")
        end = answers()[0].find("{urn:xmpp:mam:2}fin")
        if end is None:
            raise Lost(f"the archive answers with an error: {ET.tostring(answers()[0])!r}")
        found = list[Seen]()
        for result in (message.find("{urn:xmpp:mam:2}result") for message in new(b"<message ")):
            if result is not None:
                after = result.get("id", "")
                body = result.findtext(".//{jabber:client}body")
                found += [] if body is None else [Seen(body, after)]
        return found, after, end.get("complete") == "true" or not found

    async def resume(self, last: Witness, known: list[Seen], connect: Connect) -> Resumed:
        witness = await connect("")
        how = "the archive after the last `stanza-id`"
        return Resumed(witness, await self.history(witness, known), how)


def _seen(message: ET.Element) -> Seen | None:
    body, stanza_id = message.findtext("{jabber:client}body"), message.find("{urn:xmpp:sid:0}stanza-id")
    if body is None or message.get("type") != "groupchat":
        return None
    return Seen(body, "" if stanza_id is None else stanza_id.get("id", ""))


def mechanisms_of(dialect: Dialect, *, ours: bool) -> Mechanisms:
    """Returns the mechanisms of a server with this dialect."""
    if isinstance(dialect, XmppDialect):
        return XmppMechanisms()
    if isinstance(dialect, SocketIoDialect):
        return SocketIoMechanisms()
    return OurMechanisms() if ours else Mechanisms()
