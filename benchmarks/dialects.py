"""The dialects of the servers: how a client connects, and the frames of a message and of typing."""

import base64
from collections.abc import Generator

from benchmarks.identities import XMPP_DOMAIN, XMPP_ROOMS, password, room_id, room_name, token, user_name

# What a client sends next; it is resumed with each frame of the server until it returns: then the connection is open.
Opening = Generator[tuple[bytes, ...], bytes, None]


class Lost(Exception):
    """A connection ended unexpectedly, or an answer was an error."""


class Refused(Lost):
    """The server does not let the client in."""


class Dialect:
    """The frames and paths of the specification.

    A frame is recognized by its first bytes. `more` resumes: it is added to the address, or to what a client says of
    itself.

    Attributes:
        counted: how the frame of a message begins.
        typed: how the frame of typing begins.
        errors: how the frames of errors begin.
        protocol: the WebSocket subprotocol; None for none.
    """

    counted = b'{"type":"message"'
    typed = b'{"type":"typing"'
    errors: tuple[bytes, ...] = (b'{"type":"error"',)
    protocol: str | None = None

    def path(self, room: int, user: int, more: str = "") -> str:
        return f"/api/chat/ws/{room_id(room)}?token={token(user)}{more}"

    def opening(self, room: int, user: int, number: int, more: str = "") -> Opening:
        """The conversation that opens a connection. `number` is the connection's own."""
        yield ()

    def message(self, room: int) -> tuple[bytes, bytes]:
        """Returns what comes before and after the content of a message."""
        return b'{"type":"message","content":"', b'"}'

    def typing(self, room: int) -> bytes:
        return b'{"type":"typing"}'

    def answer(self, frame: bytes) -> bytes | None:
        """Returns the answer to a frame that asks for one, such as a ping; None for any other."""
        return None


class SocketIoDialect(Dialect):
    """Engine.IO 4 and Socket.IO 5, over WebSocket only."""

    counted = b'42["message"'
    typed = b'42["typing"'
    errors: tuple[bytes, ...] = (b'42["error"', b"44")

    def path(self, room: int, user: int, more: str = "") -> str:
        return "/socket.io/?EIO=4&transport=websocket"

    def opening(self, room: int, user: int, number: int, more: str = "") -> Opening:
        yield ()  # the handshake of Engine.IO
        auth = f'"token":"{token(user)}","conversation_id":"{room_id(room)}"{more}'
        answer = yield (b"40{%s}" % auth.encode(),)
        if not answer.startswith(b"40"):
            raise Refused(answer)

    def message(self, room: int) -> tuple[bytes, bytes]:
        return b'42["message",{"content":"', b'"}]'

    def typing(self, room: int) -> bytes:
        return b'42["typing",{}]'

    def answer(self, frame: bytes) -> bytes | None:
        return b"3" if frame == b"2" else None  # a ping of Engine.IO


class XmppDialect(Dialect):
    """XMPP over WebSocket (RFC 7395) with SASL PLAIN (RFC 4616), and rooms (XEP-0045).

    Presence has frames of its own; a message and typing (XEP-0085) begin alike, so typing is not counted apart.
    """

    counted = b"<message "
    typed = b"<message "
    errors: tuple[bytes, ...] = (b"<stream:error", b"<failure")
    protocol: str | None = "xmpp"

    def path(self, room: int, user: int, more: str = "") -> str:
        return "/ws"

    def opening(self, room: int, user: int, number: int, more: str = "") -> Opening:
        stream = b'<open xmlns="urn:ietf:params:xml:ns:xmpp-framing" to="%s" version="1.0"/>' % XMPP_DOMAIN.encode()
        yield from _until((stream,), b"<stream:features")
        secret = base64.b64encode(f"\0{user_name(user)}\0{password(user)}".encode())
        plain = b'<auth xmlns="urn:ietf:params:xml:ns:xmpp-sasl" mechanism="PLAIN">%s</auth>' % secret
        yield from _until((plain,), b"<success")
        yield from _until((stream,), b"<stream:features")
        bind = b'<iq type="set" id="bind"><bind xmlns="urn:ietf:params:xml:ns:xmpp-bind"/></iq>'
        yield from _until((bind,), b"<iq ")
        # The subject ends what a room sends to somebody who joins (XEP-0045, 7.2.2).
        place = b"%s@%s/%d" % (*_address(room), number)
        no_history = b'<x xmlns="http://jabber.org/protocol/muc"><history maxstanzas="0"/></x>'
        yield from _until((b'<presence to="%s">%s</presence>' % (place, no_history),), b"<message ")

    def message(self, room: int) -> tuple[bytes, bytes]:
        head = b'<message xmlns="jabber:client" to="%s@%s" type="groupchat">' % _address(room)
        return head + b"<body>", b"</body></message>"

    def typing(self, room: int) -> bytes:
        head = b'<message xmlns="jabber:client" to="%s@%s" type="groupchat">' % _address(room)
        return head + b'<composing xmlns="http://jabber.org/protocol/chatstates"/></message>'


def _address(room: int) -> tuple[bytes, bytes]:
    return room_name(room).encode(), XMPP_ROOMS.encode()


def _until(frames: tuple[bytes, ...], start: bytes) -> Opening:
    """Sends frames, and waits for one that begins like this."""
    answer = yield frames
    while True:
        if answer.startswith(XmppDialect.errors) or b' type="error"' in answer or b" type='error'" in answer:
            raise Refused(answer)
        if answer.startswith(start):
            return
        answer = yield ()
