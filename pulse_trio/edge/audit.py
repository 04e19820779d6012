"""Security events in the log: a line each, for audits and for programs such as fail2ban.

A line has the client's address, the request id, and ids of users; never a token, a password or a text. People type
passwords where a username belongs, so that of a failed login appears as a digest only.
"""

import hashlib
import secrets
from enum import Enum
from typing import Final

import structlog

from pulse_trio.edge.log_samples import LogSampler
from pulse_trio.model import Message
from pulse_trio.texts import username_key

SOURCE_RATE: Final = 0.2  # lines a second of one event and one source
SOURCE_BURST: Final = 20
EVENT_RATE: Final = 20.0  # lines a second of one event and all sources
EVENT_BURST: Final = 200

log = structlog.get_logger(__name__)


class SecurityEvent(Enum):
    """An event: the text of its line, and True for a refusal, which is logged as a warning."""

    LOGIN = ("login ok", False)
    LOGIN_FAILED = ("login failed", True)
    LOGIN_LIMITED = ("login limited", True)
    REGISTRATION = ("account registered", False)
    REGISTRATION_REFUSED = ("registration refused", True)
    RENEWAL = ("token renewed", False)
    RENEWAL_REFUSED = ("token renewal refused", True)
    HANDSHAKE_REFUSED = ("handshake refused", True)
    MEMBERS_ADDED = ("members added", False)
    MEMBER_REMOVED = ("member removed", False)
    MESSAGE_REMOVED = ("message of another user deleted", False)

    def __init__(self, text: str, is_refusal: bool) -> None:  # a member of the tuples above
        self.text = text
        self.is_refusal = is_refusal


def deletion_fields(message: Message) -> dict[str, str]:
    """Returns the values of the line about a deletion by the owner of the conversation: ids, never the text."""
    return {
        "conversation_id": str(message.conversation_id),
        "message_id": str(message.id),
        "sender_id": str(message.sender_id),
    }


class Audit:
    """Writes the lines, and counts those that it leaves out."""

    def __init__(self) -> None:
        self._samplers = {
            event: LogSampler(EVENT_RATE, EVENT_BURST, source_rate=SOURCE_RATE, source_burst=SOURCE_BURST)
            for event in SecurityEvent
        }
        self._digest_key = secrets.token_bytes(16)  # a digest of a guessable text could be reversed without one

    def record(self, event: SecurityEvent, source: str, **fields: object) -> None:
        """Writes a line, unless there were too many of this event; the next line then has their number (`suppressed`).

        Args:
            event: the event.
            source: whoever caused it, an address or a user: each has a bound of its own.
            **fields: the values of the line; None is left out.
        """
        suppressed = self._samplers[event].take(source)
        if suppressed is None:
            return
        shown = {name: value for name, value in fields.items() if value is not None}
        if suppressed:
            shown["suppressed"] = suppressed
        write = log.warning if event.is_refusal else log.info
        write(event.text, kind="security", **shown)

    def digest(self, username: str) -> str:
        """Returns a digest of a name in any case and form; it is the same until the process ends."""
        return hashlib.blake2b(username_key(username).encode(), digest_size=8, key=self._digest_key).hexdigest()
