"""Types of the fields of frames, with the bounds and meanings that the AsyncAPI document shows.

These types only describe frames: `protocol.reader` has a function for each type in a client frame, which validates it
with this service's own error codes. A test holds the two together.
"""

from typing import Annotated, Final, TypeAlias
from uuid import UUID

from msgspec import Meta

MAX_CLIENT_ID_CHARS: Final = 64
MAX_REV: Final = 10**18 - 1
"""The highest rev accepted: no conversation gets that far, and it fits the database's `bigint`."""

# Python's white space as a character class that regular expressions of every language read alike.
_SPACE: Final = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

TEXT_PATTERN: Final = r"^[^\x00]*$"
NOT_BLANK_PATTERN: Final = rf"^[^\x00]*[^\x00{_SPACE}][^\x00]*$"

# --- in client frames ---

Content: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        pattern=NOT_BLANK_PATTERN,
        description="Not only white space; no NUL character, no lone surrogates. Stored unchanged.",
        examples=["Hello, world!"],
    ),
]
ClientId: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_CLIENT_ID_CHARS,
        pattern=TEXT_PATTERN,
        description="The sender's own id for a message; a message resent with the same one is stored once.",
        examples=["m-1"],
    ),
]
Revs: TypeAlias = Annotated[
    dict[UUID, Annotated[int, Meta(ge=0, le=MAX_REV)]],
    Meta(
        description="Conversation id → the highest `rev` seen there.",
        examples=[{"0190a6bf-01aa-7b3c-8d4e-9f8e7d6c5b4a": 42}],
        extra_json_schema={"propertyNames": {"format": "uuid"}},
    ),
]
UserIds: TypeAlias = Annotated[list[UUID], Meta(description="Users to watch; repeated ids count once.")]
Token: TypeAlias = Annotated[str, Meta(description="An `access_token`, of the same user.", examples=["TOKEN"])]

# --- in both ---

ConversationId: TypeAlias = Annotated[UUID, Meta(description="The id of a conversation.")]
MessageId: TypeAlias = Annotated[UUID, Meta(description="The id of a message.")]

Seq: TypeAlias = Annotated[
    int,
    Meta(ge=1, description="Position of the message in its conversation: 1, 2, 3 … without gaps.", examples=[42]),
]
Rev: TypeAlias = Annotated[
    int,
    Meta(
        ge=1, description="Number of a change in its conversation; an edit gives the message a new one.", examples=[42]
    ),
]
MeRev: TypeAlias = Annotated[
    int,
    Meta(ge=0, le=MAX_REV, description="Number of a change in the user's own sequence.", examples=[813]),
]
FeatureNames: TypeAlias = Annotated[
    list[str],
    Meta(
        description="Kinds of changes that the client asks for, or is sent; unknown names are ignored.",
        examples=[["conversation", "me", "members"]],
    ),
]
Epoch: TypeAlias = Annotated[
    str,
    Meta(
        description="Identifies a history. If it changed, messages may be gone: reload instead of resuming.",
        examples=["5f1d7a02c4b8e963"],
    ),
]

# --- in server frames ---

PrevRev: TypeAlias = Annotated[
    int,
    Meta(
        ge=0,
        description="The `rev` of the change before this one, of the kinds that the client asked for; if it is higher "
        "than the last one it has, the client missed something. Only if the client asked for features.",
        examples=[41],
    ),
]
PrevMeRev: TypeAlias = Annotated[
    int, Meta(ge=0, description="The `me_rev` of the change before this one.", examples=[812])
]
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
ActiveCount: TypeAlias = Annotated[int, Meta(ge=0, description="Number of connected users.", examples=[1])]
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
    Meta(
        max_length=MAX_CLIENT_ID_CHARS,
        description="The `client_id` of the rejected frame, if it was a valid one.",
        examples=["m-1"],
    ),
]
Seconds: TypeAlias = Annotated[int, Meta(description="Seconds from now.", examples=[3600])]
