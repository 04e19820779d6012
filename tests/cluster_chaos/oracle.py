"""The records of all clients, and what the database must show when a round is over.

Each violation begins with the name of the promise that was broken.
"""

import re
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import psycopg

KINDS: Final = {"message": "message", "message_updated": "message", "message_deleted": "message"}


@dataclass
class Sent:
    """A message that a client sends until it is acknowledged or rejected for good."""

    conversation: str
    sender: str
    content: str
    message_id: str | None = None  # of the acknowledgement
    seq: int = 0


@dataclass
class Records:
    """The records of a round.

    Attributes:
        sent: by client_id.
        removed: user and conversation → a rev above which the user may receive nothing, while that is so.
        violations: broken promises.
        counters: what happened.
    """

    sent: dict[str, Sent] = field(default_factory=dict)
    removed: dict[tuple[str, str], int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)

    def fail(self, promise: str, detail: object, port: int | None = None) -> None:
        """Records a violation; `port` is the client's, if there is a connection."""
        at = datetime.now(UTC).strftime("%H:%M:%S.%f")
        self.violations.append(f"{promise}: {re.sub('x{9,}', 'x…', str(detail))} at {at}, port {port}")


@dataclass
class View:
    """A conversation as a client knows it that has received all changes from its beginning.

    Attributes:
        rev: everything up to it was received; the client resumes after it.
        live_rev: the last rev of the present connection; None: nothing has come.
        is_complete: everything that came on this connection follows `rev`.
        messages: id → rev, seq and content (None: deleted).
        members: id → rev and whether they are a member, of those that have changed.
        name: of the conversation; None: not changed yet.
        read_seqs: the read positions that this connection was sent.
        active: the connected users that this connection knows; None: none yet.
        trace, begun, presence: the last that came, for whoever looks at a violation.
    """

    rev: int = 0
    live_rev: int | None = None
    is_complete: bool = False
    messages: dict[str, tuple[int, int, str | None]] = field(default_factory=dict)
    members: dict[str, tuple[int, bool]] = field(default_factory=dict)
    name: str | None = None
    read_seqs: dict[str, int] = field(default_factory=dict)
    active: set[str] | None = None
    trace: deque[tuple[object, ...]] = field(default_factory=lambda: deque(maxlen=20))
    begun: deque[tuple[object, ...]] = field(default_factory=lambda: deque(maxlen=30))
    presence: deque[tuple[object, ...]] = field(default_factory=lambda: deque(maxlen=6))

    def begin(self, *, is_complete: bool, live_rev: int | None) -> None:
        """Begins a connection."""
        self.live_rev = live_rev
        self.is_complete = is_complete
        self.read_seqs = {}
        self.active = None
        self.trace.append(("begin", live_rev))
        self.begun.append((datetime.now(UTC).strftime("%M:%S"), self.rev, is_complete))
        self.presence.clear()


@dataclass
class Truth:
    """A conversation as the database has it."""

    last_rev: int
    message_rev: int
    name: str
    members: set[str]
    messages: dict[str, tuple[int, int, str | None]]
    client_ids: dict[str, list[str]]
    read_seqs: dict[str, int]

    def rev_of(self, *, has_features: bool) -> int:
        """The highest rev of a change that a client is sent."""
        return self.last_rev if has_features else self.message_rev


def read_truths(conninfo: str) -> dict[str, Truth]:
    """Reads all conversations; nobody may change them meanwhile."""
    truths: dict[str, Truth] = {}
    with psycopg.connect(conninfo) as connection:
        rows: list[tuple[Any, ...]] = connection.execute(
            "SELECT id::text, last_rev, message_rev, name FROM conversations"
        ).fetchall()
        for key, last_rev, message_rev, name in rows:
            truths[key] = Truth(last_rev, message_rev, name, set(), {}, {}, {})
        for key, user, read_seq in connection.execute(
            "SELECT conversation_id::text, user_id::text, read_seq FROM conversation_users"
        ):
            truths[key].members.add(user)
            truths[key].read_seqs[user] = read_seq
        for key, message, rev, seq, content, is_deleted, client_id in connection.execute(
            "SELECT conversation_id::text, id::text, rev, seq, content, is_deleted, client_id FROM messages"
        ):
            truths[key].messages[message] = rev, seq, None if is_deleted else content
            truths[key].client_ids.setdefault(client_id, []).append(message)
    return truths


def judge_stored(records: Records, truths: dict[str, Truth]) -> None:
    """Compares what was acknowledged with what is stored."""
    for key, truth in truths.items():
        seqs = sorted(seq for _, seq, _ in truth.messages.values())
        if seqs != list(range(1, len(seqs) + 1)):
            records.fail("the numbers of messages have no gap", key)
    for client_id, sent in records.sent.items():
        found = truths[sent.conversation].client_ids.get(client_id, [])
        if len(found) > 1:
            records.fail("a message is stored once", (client_id, found))
        if sent.message_id is not None and found != [sent.message_id]:
            records.fail("an acknowledged message is stored", (client_id, sent.message_id, found))


def judge_view(records: Records, who: str, view: View, truth: Truth, *, has_features: bool) -> None:
    """Compares what a client knows with what is stored."""
    if view.messages != truth.messages:
        here, there = set(view.messages.values()), set(truth.messages.values())
        missing, wrong = [sorted(each, key=str)[:4] for each in (there - here, here - there)]
        detail = (who, "missing", missing, "wrong", wrong, list(view.begun))
        records.fail("a client has all messages as they are now", detail)
    if has_features:
        wrong = [user for user, (_, is_member) in view.members.items() if is_member != (user in truth.members)]
        if wrong:
            records.fail("a client has the members as they are now", (who, wrong))
        if view.name is not None and view.name != truth.name:
            records.fail("a client has the name as it is now", (who, view.name, truth.name))
