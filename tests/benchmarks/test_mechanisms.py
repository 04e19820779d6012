"""Frames of each server, as the trials read them: what a client does not see, no trial can find."""

import json

from benchmarks.dialects import Dialect, SocketIoDialect, XmppDialect
from benchmarks.mechanisms import (
    Mechanisms,
    OurMechanisms,
    Resumed,
    Seen,
    SocketIoMechanisms,
    XmppMechanisms,
    mechanisms_of,
)

FRAME = {"type": "message", "content": "hello", "message_id": "m1", "rev": 7}


def test_each_server_has_its_own() -> None:
    assert type(mechanisms_of(Dialect(), ours=True)) is OurMechanisms
    assert type(mechanisms_of(Dialect(), ours=False)) is Mechanisms
    assert type(mechanisms_of(SocketIoDialect(), ours=False)) is SocketIoMechanisms
    assert type(mechanisms_of(XmppDialect(), ours=False)) is XmppMechanisms


class TestJson:
    def test_reads_messages_errors_and_typing(self) -> None:
        by, text = Mechanisms(), json.dumps(FRAME).encode()
        assert by.read(text) == Seen("hello", "m1")
        assert by.read(b'{"type":"system"}') is None
        assert by.is_error(b'{"type":"error"}')
        assert by.is_typing(b'{"type":"typing"}')
        assert not by.is_error(text)
        assert not by.is_typing(text)

    def test_ours_has_a_place_to_resume_at_and_a_name_for_a_resend(self) -> None:
        assert OurMechanisms().read(json.dumps(FRAME).encode()) == Seen("hello", "m1", "7")
        assert json.loads(OurMechanisms().message(1, "hello", "a-1"))["client_id"] == "a-1"

    def test_a_client_merges_pages_and_what_came_live_by_id(self) -> None:
        one, two, three = (Seen(name, name) for name in ("1", "2", "3"))
        assert Mechanisms().merge([one], Resumed(None, [one, two], ""), [two, three]) == [two, three]  # type: ignore[arg-type]

    def test_ours_merges_nothing_so_a_repeat_shows(self) -> None:
        one = Seen("1", "1")
        assert OurMechanisms().merge([one], Resumed(None, [], ""), [one, one]) == [one, one]  # type: ignore[arg-type]


class TestSocketIo:
    def test_reads_events_with_their_offset(self) -> None:
        by = SocketIoMechanisms()
        assert by.read(b"42" + json.dumps(["message", FRAME, "offset"]).encode()) == Seen("hello", "m1", "offset")
        assert by.is_error(b'42["error",{"type":"error"}]')
        assert by.is_typing(b'42["typing",{"type":"typing"}]')
        assert by.read(b"2") is None

    def test_a_resend_is_the_same_packet(self) -> None:
        by = SocketIoMechanisms()
        assert by.message(1, "hello", "a-1") == by.message(1, "hello", "a-1")
        assert by.message(1, "hello", "a-1") != by.message(1, "hello", "a-2")


class TestXmpp:
    HEAD = b"<message xmlns='jabber:client' to='u@localhost/1' from='room1@conference.localhost/5' type='groupchat'>"

    def test_reads_messages_with_their_id_in_the_archive(self) -> None:
        stanza_id = b"<stanza-id by='room1@conference.localhost' id='17' xmlns='urn:xmpp:sid:0'/>"
        by = XmppMechanisms()
        assert by.read(self.HEAD + stanza_id + b"<body>hello</body></message>") == Seen("hello", "17")
        assert by.read(self.HEAD + b"<body>hello</body></message>") == Seen("hello", "")
        assert by.read(self.HEAD + b"<subject/></message>") is None
        assert by.read(b"<presence xmlns='jabber:client'/>") is None

    def test_reads_typing_and_errors(self) -> None:
        by = XmppMechanisms()
        assert by.is_typing(self.HEAD + b"<composing xmlns='http://jabber.org/protocol/chatstates'/></message>")
        error = self.HEAD.replace(b"groupchat", b"error") + b"<body>hello</body></message>"
        assert by.is_error(error)
        assert by.read(error) is None
