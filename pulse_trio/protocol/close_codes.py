"""Close codes: why the server closes a connection, and what the client should do."""

from enum import IntEnum
from typing import Self


class CloseCode(IntEnum):
    """Why the server closes a connection (RFC 6455, section 7.4; 4000 and above are this service's).

    Each with what it means and what the client is to do.
    """

    NORMAL = 1000, "you closed it", ""
    PROTOCOL_ERROR = 1002, "you broke the WebSocket protocol", "mend the client"
    INVALID_TEXT = 1007, "a text message was not UTF-8", "mend the client"
    UNFINISHED = 1008, "a message did not come to its end within `PULSE_MESSAGE_TIMEOUT` seconds", "reconnect"
    TOO_BIG = 1009, "a message over `PULSE_MAX_FRAME_BYTES` bytes", "send less at a time"
    INTERNAL_ERROR = 1011, "a fault of the server", "reconnect"
    RESTART = 1012, "the server restarts", "reconnect after a random moment, so that not everybody comes at once"
    TOKEN_EXPIRED = 4401, "your token has expired", "reconnect with a new one; send `auth` in time to avoid it"
    REMOVED = 4403, "you were removed from the conversation", "do not reconnect"
    TOO_SLOW = (
        4408,
        "you read too slowly: over `PULSE_OUTBOX_BYTES` waited for you",
        "reconnect with `after`, or `resume`",
    )
    CANNOT_RESUME = 4409, "you cannot resume at this `after`", "load the history afresh, then reconnect"
    FLOODING = (
        4429,
        "you went on sending too much after `rate_limited`, or sent too many pings, pongs or pieces of messages",
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
