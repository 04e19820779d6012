"""Conversations of frames that open connections of the load generator, without a server."""

import base64

import pytest

from benchmarks.dialects import Dialect, Opening, Refused, SocketIoDialect, XmppDialect


def opened(opening: Opening, answers: list[bytes]) -> list[bytes]:
    """Plays the server's frames, and returns the client's. The last one must be what the client waits for."""
    sent = [*next(opening)]
    for number, answer in enumerate(answers, 1):
        try:
            sent += opening.send(answer)
        except StopIteration:
            assert number == len(answers), "the client was done too early"
            return sent
    pytest.fail("the client waits for more")


def test_the_specification_s_first_frame_opens_a_connection() -> None:
    assert opened(Dialect().opening(1, 2, 3), [b'{"type":"system"}']) == []


class TestSocketIo:
    def test_says_who_it_is_after_the_handshake(self) -> None:
        (connect,) = opened(SocketIoDialect().opening(1, 2, 3, ',"pid":"p"'), [b'0{"sid":"x"}', b'40{"sid":"y"}'])
        assert connect.startswith(b'40{"token":"')
        assert connect.endswith(b',"pid":"p"}')

    def test_is_refused_by_an_error(self) -> None:
        with pytest.raises(Refused):
            opened(SocketIoDialect().opening(1, 2, 3), [b"0{}", b'44{"message":"not a member"}'])

    def test_answers_pings(self) -> None:
        assert SocketIoDialect().answer(b"2") == b"3"
        assert SocketIoDialect().answer(b'42["message",{}]') is None


class TestXmpp:
    # As ejabberd sends them: the presence of others and one's own, then the subject.
    ANSWERS = (
        b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' version='1.0'/>",
        b"<stream:features xmlns:stream='http://etherx.jabber.org/streams'><mechanisms/></stream:features>",
        b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>",
        b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' version='1.0'/>",
        b"<stream:features xmlns:stream='http://etherx.jabber.org/streams'><bind/></stream:features>",
        b"<iq type='result' id='bind'><bind/></iq>",
        b"<presence from='room1@conference.localhost/3'/>",
        b"<message from='room1@conference.localhost' type='groupchat'><subject/></message>",
    )

    def test_logs_in_binds_and_joins(self) -> None:
        sent = opened(XmppDialect().opening(1, 2, 3), list(self.ANSWERS))
        assert [frame.split(b" ", 1)[0] for frame in sent] == [b"<open", b"<auth", b"<open", b"<iq", b"<presence"]
        secret = sent[1].partition(b">")[2].partition(b"<")[0]
        assert base64.b64decode(secret) == b"\0user2\0secret2"
        assert b'to="room1@conference.localhost/3"' in sent[-1]

    @pytest.mark.parametrize("error", [b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", b"<stream:error/>"])
    def test_is_refused_at_the_login(self, error: bytes) -> None:
        with pytest.raises(Refused):
            opened(XmppDialect().opening(1, 2, 3), [*self.ANSWERS[:2], error])

    def test_is_refused_by_a_room(self) -> None:
        error = b"<presence from='room1@conference.localhost/3' type='error'><error/></presence>"
        with pytest.raises(Refused):
            opened(XmppDialect().opening(1, 2, 3), [*self.ANSWERS[:6], error])

    def test_its_messages_go_to_the_room(self) -> None:
        head, tail = XmppDialect().message(7)
        assert head + b"hello" + tail == (
            b'<message xmlns="jabber:client" to="room7@conference.localhost" type="groupchat">'
            b"<body>hello</body></message>"
        )
