"""The AsyncAPI document: valid by AsyncAPI's own schema, complete, and consistent with the reader of frames."""

import gzip
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pulse_trio import protocol
from pulse_trio.edge.pages import asyncapi
from pulse_trio.errors import ErrorCode
from pulse_trio.protocol import CloseCode, Frame, FrameError, FrameReader
from pulse_trio.settings import Settings
from tests.documents.test_documents import examples
from tests.support.frames import follow, validators

LONGEST = 20
DOCUMENT = asyncapi.document(Settings(max_content_chars=LONGEST), "chat.example", is_tls=True)
READER = FrameReader(LONGEST)
ID = "0198c5b6-f8a3-7c1e-9d2e-4b5a6c7d8e9f"
OFFICIAL = Path(__file__).parent.parent / "support" / "asyncapi" / "3.0.0.json.gz"


def kinds(parent: type[Frame]) -> Iterator[type[Frame]]:
    """Yields every kind of frame."""
    for kind in parent.__subclasses__():
        yield kind
        yield from kinds(kind)


def listed(operation: str) -> set[str]:
    """Returns the messages of an operation."""
    return {reference["$ref"].rpartition("/")[2] for reference in DOCUMENT["operations"][operation]["messages"]}


def references(value: Any) -> Iterator[dict[str, str]]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def test_the_document_is_valid_asyncapi() -> None:
    official = jsonschema_rs.validator_for(json.loads(gzip.decompress(OFFICIAL.read_bytes())))
    official.validate(DOCUMENT)
    assert not official.is_valid({**DOCUMENT, "operations": {"send": {"action": "publish"}}})
    for reference in references(DOCUMENT):
        assert follow(DOCUMENT, reference) is not None


def test_every_frame_is_listed_in_its_channels() -> None:
    names = {kind.__name__ for kind in kinds(Frame)}
    client = {kind.__name__ for kind in asyncapi.CLIENT_FRAMES}
    server = {kind.__name__ for kind in asyncapi.SERVER_FRAMES}
    assert names == client | server
    session_only = {kind.__name__ for kind in protocol.SESSION_ONLY}
    assert listed("receiveSession") == client
    assert listed("sendSession") == server
    assert listed("receiveConversation") == client - session_only
    assert listed("sendConversation") == server - session_only
    for name in names:
        schema = DOCUMENT["components"]["schemas"][name]
        assert schema["description"], name
        assert "    " not in schema["description"], name


def test_the_document_lists_all_codes() -> None:
    for channel in DOCUMENT["channels"].values():
        assert {entry["code"] for entry in channel["x-close-codes"]} == set(CloseCode)
        for code in CloseCode:
            assert f"| {int(code)} | {code.meaning} | {code.advice} |" in channel["description"]
    code = DOCUMENT["components"]["schemas"]["ErrorFrame"]["properties"]["code"]
    assert set(code["enum"]) == set(code["x-meanings"])
    assert set(code["enum"]) <= {error.code for error in ErrorCode}


def test_the_document_has_the_limits_of_the_service() -> None:
    other = asyncapi.document(
        Settings(max_content_chars=77, resume_conversations=5, watched_users=6, token_in_url=False, ticket_seconds=9),
        "localhost:1",
        is_tls=False,
    )
    schemas = other["components"]["schemas"]
    for name in ("SendMessage", "EditMessage"):
        assert schemas[name]["properties"]["content"]["maxLength"] == 77
    assert schemas["SendResume"]["properties"]["revs"]["maxProperties"] == 5
    assert schemas["SendWatch"]["properties"]["user_ids"]["maxItems"] == 6
    assert other["servers"]["service"]["host"] == "localhost:1"
    assert (other["servers"]["service"]["protocol"], DOCUMENT["servers"]["service"]["protocol"]) == ("ws", "wss")
    for channel in ("conversation", "session"):
        query = other["channels"][channel]["bindings"]["ws"]["query"]["properties"]
        assert "token" not in query
        assert "9 seconds" in query["ticket"]["description"]
        assert "token" in DOCUMENT["channels"][channel]["bindings"]["ws"]["query"]["properties"]
    assert "tokenInUrl" not in other["components"]["securitySchemes"]
    assert "tokenInUrl" in DOCUMENT["components"]["securitySchemes"]


def test_examples_of_the_document_are_valid() -> None:
    frames = typing.Union[asyncapi.SERVER_FRAMES]  # noqa: UP007  # made from a tuple
    for operation in DOCUMENT["operations"]:
        known = validators(DOCUMENT, operation)
        for reference in DOCUMENT["operations"][operation]["messages"]:
            message = follow(DOCUMENT, follow(DOCUMENT, reference))
            (example,) = message["examples"]
            known[example["payload"]["type"]].validate(example["payload"])
            if operation.startswith("receive"):
                assert type(READER.read(json.dumps(example["payload"]))).__name__ == message["title"]
            else:
                msgspec.convert(example["payload"], frames)


@pytest.mark.parametrize(("section", "action"), [("From the client", "receive"), ("From the server", "send")])
def test_the_examples_of_the_protocol_document_are_valid(section: str, action: str) -> None:
    session, conversation = (validators(DOCUMENT, f"{action}{channel}") for channel in ("Session", "Conversation"))
    for example in examples(section):
        kind = str(example["type"])
        assert kind in session
        conversation.get(kind, session[kind]).validate(example)


def test_a_session_frame_needs_a_conversation_id() -> None:
    session = validators(DOCUMENT, "receiveSession")["typing"]
    assert not session.is_valid({"type": "typing"})
    assert not session.is_valid({"type": "typing", "conversation_id": None})
    assert session.is_valid({"type": "typing", "conversation_id": ID})
    assert validators(DOCUMENT, "receiveConversation")["typing"].is_valid({"type": "typing"})


# --- the schemas and the reader ---

# The reader does not know the kind of connection, so it accepts the frames of both.
ACCEPTED = validators(DOCUMENT, "receiveSession") | validators(DOCUMENT, "receiveConversation")

ODD: list[Any] = [
    *(None, True, False, -1, 0, 1, 1.5, 10**18 - 1, 10**18, 10**30),
    *("", " ", "\x00", "a\x00b", " \x1c\x85\u3000", "\ufeff", "\u200b", "\n", "x\n", "text"),
    *("x" * LONGEST, "x" * (LONGEST + 1), "\N{WAVING HAND SIGN}" * LONGEST, "é" * 64, "é" * 65),
    *(ID, ID.upper(), ID.replace("-", ""), f"{{{ID}}}", f"urn:uuid:{ID}", f"{ID}\n", ID[:-1], f"{ID}0"),
    *([], [1], [ID], [ID, ID], ["x"], {}, {"x": 1}, {ID: 0}, {ID: -1}, {ID: 10**18}, {ID: 10**18 - 1}, {ID: "1"}),
    *({ID: None}, {ID: True}, {ID.upper(): 1}, {ID.replace("-", ""): 1}),
]
VALUES = st.sampled_from(ODD) | st.text(max_size=LONGEST + 2)


@st.composite
def nearly_valid(draw: st.DrawFn) -> dict[str, Any]:
    """Draws a client frame with some fields odd and some missing."""
    name = draw(st.sampled_from(sorted(listed("receiveSession"))))
    frame: dict[str, Any] = dict(DOCUMENT["components"]["messages"][name]["examples"][0]["payload"])
    for field in draw(st.sets(st.sampled_from(sorted(frame)))) - {"type"}:
        if draw(st.booleans()):
            frame[field] = draw(VALUES)
        else:
            del frame[field]
    return frame


def check_alike(frame: dict[str, Any]) -> None:
    """Checks that schema and reader agree about a frame."""
    try:
        READER.read(json.dumps(frame))
        is_accepted = True
    except FrameError:
        is_accepted = False
    assert ACCEPTED[frame["type"]].is_valid(frame) is is_accepted, frame


@given(nearly_valid())
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])  # the first text is slow to draw
def test_schema_and_reader_accept_the_same_frames(frame: dict[str, Any]) -> None:
    check_alike(frame)


@pytest.mark.parametrize("name", sorted(listed("receiveSession")))
def test_schema_and_reader_accept_the_same_fields(name: str) -> None:
    whole = DOCUMENT["components"]["messages"][name]["examples"][0]["payload"]
    check_alike(whole)
    for field in whole.keys() - {"type"}:
        check_alike({key: value for key, value in whole.items() if key != field})
        for value in ODD:
            check_alike({**whole, field: value})


def test_schema_and_reader_agree_on_white_space() -> None:
    content = ACCEPTED["message"]
    spaces = [chr(code) for code in range(0x110000) if chr(code).isspace()]
    assert len(spaces) > 20
    for space in spaces:
        assert not content.is_valid({"type": "message", "content": space})
    for letter in ("\ufeff", "\u200b", "\u180e", "a", "\x1b", "\x7f"):
        assert content.is_valid({"type": "message", "content": letter})
