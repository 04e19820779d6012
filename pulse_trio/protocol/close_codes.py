"""Close codes: why the server closes a connection, and what the client should do."""

from enum import IntEnum
from typing import Self


class CloseCode(IntEnum):
    """The code with which the server closes a connection (RFC 6455, section 7.4; 4000 and above are this service's).

    Attributes:
        meaning: what happened, for the documents.
        advice: what the client should do; empty for nothing.
    """

    NORMAL = 1000, "you closed it", ""
    PROTOCOL_ERROR = 1002, "you broke the WebSocket protocol", "fix the client"
    INVALID_TEXT = 1007, "a text message was not UTF-8", "fix the client"
    UNFINISHED = 1008, "a message was not complete within `PULSE_MESSAGE_TIMEOUT` seconds", "reconnect"
    TOO_BIG = 1009, "a message over `PULSE_MAX_FRAME_BYTES` bytes", "send smaller messages"
    INTERNAL_ERROR = 1011, "an internal error of the server", "reconnect"
    RESTART = 1012, "the server restarts", "reconnect after a random delay, so that clients do not all come at once"
    TOKEN_EXPIRED = 4401, "your token has expired", "reconnect with a new one; to avoid this, send `auth` in time"
    REMOVED = 4403, "you were removed from the conversation", "do not reconnect"
    TOO_SLOW = (
        4408,
        "you read too slowly: more than `PULSE_OUTBOX_BYTES` were waiting for you",
        "reconnect with `after`, or `resume`",
    )
    CANNOT_RESUME = 4409, "you cannot resume at this `after`", "reload the history, then reconnect"
    FLOODING = (
        4429,
        "you kept exceeding the rate limit after `rate_limited`, or sent too many pings, pongs or fragments",
        "reconnect, and send more slowly",
    )

    meaning: str
    advice: str

    def __new__(cls, value: int, meaning: str, advice: str) -> Self:
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        code.advice = advice
        return code
