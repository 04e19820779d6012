"""What the fields of frames may be and what they mean, as types: the AsyncAPI document tells it.

Nothing is checked by these rules when the service runs: `protocol.FrameReader` reads what clients send, with error
codes of its own, and a test holds the two together.
"""

from typing import Annotated, Final, TypeAlias
from uuid import UUID

from msgspec import Meta

MAX_CLIENT_ID_CHARS: Final = 64
MAX_REV: Final = 10**18 - 1
"""Higher than any rev will be, and within what the database counts to."""

# What Python calls white space, as a character class that regular expressions read alike in every language.
_SPACE: Final = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

# --- what clients send ---

Content: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        pattern=rf"^[^\x00]*[^\x00{_SPACE}][^\x00]*$",
        description="Not only white space, without the NUL character and lone surrogates; kept to the byte.",
        examples=["Hello, world!"],
    ),
]
ClientId: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_CLIENT_ID_CHARS,
        pattern=r"^[^\x00]*$",
        description="Chosen by the sender; a message sent again with the same one is stored once.",
        examples=["m-1"],
    ),
]
Revs: TypeAlias = Annotated[
    dict[UUID, Annotated[int, Meta(ge=0, le=MAX_REV)]],
    Meta(
        description="The highest `rev` seen of each conversation, by its id.",
        examples=[{"0190a6bf-01aa-7b3c-8d4e-9f8e7d6c5b4a": 42}],
        extra_json_schema={"propertyNames": {"format": "uuid"}},
    ),
]
UserIds: TypeAlias = Annotated[list[UUID], Meta(description="Users to watch; repeated ids count once.")]
Token: TypeAlias = Annotated[str, Meta(description="An `access_token`, of the same user.", examples=["TOKEN"])]

# --- what both know ---

ConversationId: TypeAlias = Annotated[UUID, Meta(description="The id of a conversation.")]
MessageId: TypeAlias = Annotated[UUID, Meta(description="The id of a message.")]

Seq: TypeAlias = Annotated[
    int,
    Meta(ge=1, description="Where the message stands in its conversation: 1, 2, 3 … without gaps.", examples=[42]),
]
Rev: TypeAlias = Annotated[
    int,
    Meta(ge=1, description="Numbers the changes of a conversation; an edited message has a new one.", examples=[42]),
]
Epoch: TypeAlias = Annotated[
    str,
    Meta(description="Another one means another history: revs of before say nothing.", examples=["5f1d7a02c4b8e963"]),
]

# --- what the server sends ---

Time: TypeAlias = Annotated[
    str,
    Meta(
        description="UTC, RFC 3339, with microseconds.",
        extra_json_schema={"format": "date-time"},
        examples=["2026-02-04T10:30:00.123456Z"],
    ),
]
Username: TypeAlias = Annotated[str, Meta(examples=["john_doe"])]
Text: TypeAlias = Annotated[str, Meta(description="The message, as it was sent.", examples=["Hello, world!"])]
ActiveCount: TypeAlias = Annotated[int, Meta(ge=0, description="How many users are connected.", examples=[1])]
LastSeq: TypeAlias = Annotated[int, Meta(ge=0, description="The `seq` of the newest message; 0: none.", examples=[42])]
LastRev: TypeAlias = Annotated[int, Meta(ge=0, description="The newest `rev`; 0: none.", examples=[42])]
Event: TypeAlias = Annotated[
    str,
    Meta(
        description="What happened.",
        examples=["joined"],
        extra_json_schema={"enum": ["joined", "left", "added", "removed", "renamed"]},
    ),
]
EchoedClientId: TypeAlias = Annotated[
    str,
    Meta(max_length=MAX_CLIENT_ID_CHARS, description="The frame's, as far as it can be told back.", examples=["m-1"]),
]
Seconds: TypeAlias = Annotated[int, Meta(description="Seconds from now.", examples=[3600])]
