"""Promises about the commits of a database and the results of stores. Shares no code with the stores.

Each violation begins with the name of the promise that was broken.
"""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import LiteralString
from uuid import UUID

import psycopg
from psycopg.rows import namedtuple_row


@dataclass(frozen=True)
class Call:
    """A completed operation.

    Attributes:
        what: its name.
        conversation_id: its conversation.
        since: the highest version of the members known to be committed when it began.
        began: when it began, in seconds of any clock.
        ended: when it returned.
    """

    what: str
    conversation_id: UUID
    since: int
    began: float
    ended: float


@dataclass
class Answers:
    """The results of the stores in one round."""

    changes: list[tuple[Call, int]] = field(default_factory=list)  # changes of members, with the new version
    absent: list[tuple[Call, UUID]] = field(default_factory=list)  # users reported as non-members
    members: list[tuple[Call, int, frozenset[UUID]]] = field(default_factory=list)  # as of a version
    present: list[tuple[Call, int, UUID]] = field(default_factory=list)  # a member as of a version
    gone: list[tuple[Call, int, UUID]] = field(default_factory=list)  # no member as of a version
    stored: list[tuple[Call, UUID, int]] = field(default_factory=list)  # message, seq
    refused: list[UUID] = field(default_factory=list)  # messages
    unanswered: set[UUID] = field(default_factory=set)  # messages
    revised: list[tuple[Call, UUID, int]] = field(default_factory=list)  # revision, rev
    read: list[tuple[Call, UUID, int]] = field(default_factory=list)  # user, seq
    actors: dict[UUID, UUID] = field(default_factory=dict)  # revision → user
    errors: list[str] = field(default_factory=list)
    known: dict[UUID, int] = field(default_factory=lambda: defaultdict(int))  # conversation → highest version returned


class Oracle:
    """Checks the conversations of one round.

    Args:
        conninfo: the database, with a journal.
        conversations: the conversations to check.
        answers: the results of the stores.
    """

    def __init__(self, conninfo: str, conversations: list[UUID], answers: Answers) -> None:
        self.violations: list[str] = []
        self.counters: Counter[str] = Counter()
        self._conversations = conversations
        self._answers = answers
        self._states: dict[UUID, dict[int, frozenset[UUID]]] = {}  # conversation → version → members
        self._last_in: dict[tuple[UUID, UUID], int] = {}  # conversation, user → version of their last addition
        self._messages: dict[UUID, tuple[UUID, int]] = {}  # id → conversation, seq
        self._revisions: dict[UUID, int] = {}  # id → rev
        self._last_revs: dict[UUID, int] = {}  # conversation → number of assigned revs
        with psycopg.connect(conninfo, autocommit=True) as connection:
            self._connection = connection
            self._judge()

    def _fail(self, promise: str, text: str) -> None:
        self.violations.append(f"{promise}: {text}")

    def _judge(self) -> None:
        for error in self._answers.errors:
            self._fail("no fault inside", error)
        for conversation_id in self._conversations:
            self._replay(conversation_id)
            self._check_rows(conversation_id)
        self._check_members()
        self._check_messages()
        self._check_positions()

    def _query(self, statement: LiteralString, conversation_id: UUID) -> list[tuple[object, ...]]:
        return self._connection.execute(statement, (conversation_id,)).fetchall()

    def _replay(self, conversation_id: UUID) -> None:
        """Replays the journal of a conversation: its members at each version, and their messages and revisions."""
        members: set[UUID] = set()
        states = self._states[conversation_id] = {}
        revs: Counter[int] = Counter()
        version, is_changed = 0, False
        with self._connection.cursor(row_factory=namedtuple_row) as cursor:
            rows = cursor.execute(
                "SELECT * FROM journal WHERE conversation_id = %s ORDER BY id", (conversation_id,)
            ).fetchall()
        for row in rows:
            if row.what in {"in", "out"}:
                (members.add if row.what == "in" else members.remove)(row.user_id)
                is_changed = row.transaction != rows[0].transaction
                if row.what == "in":
                    self._last_in[conversation_id, row.user_id] = version + is_changed
                if is_changed:
                    self.counters[f"member {row.what}"] += 1
                else:
                    states[0] = frozenset(members)
                continue
            if row.what == "version":
                if row.version != version + 1 or not is_changed:
                    self._fail("each change of members has a version", f"{row.version} came after {version}")
                version, is_changed = row.version, False
                states[version] = frozenset(members)
                continue
            if is_changed:
                self._fail("each change of members has a version", f"none came after {version}")
                is_changed = False
            revs[row.rev] += 1
            actor = row.user_id if row.what == "message" else self._answers.actors[row.revision_id]
            self.counters[row.what] += 1
            if actor not in members:
                self._fail("nothing of a removed member is stored", f"{row.what} as rev {row.rev} of {actor}")
            if row.what == "message":
                self._messages[row.message_id] = conversation_id, row.seq
            else:
                self._revisions[row.revision_id] = row.rev
        self._last_revs[conversation_id] = len(revs)
        if sorted(revs.elements()) != list(range(1, len(revs) + 1)):
            self._fail("rev has no gap", f"given out were {sorted(revs.elements())}")

    def _check_rows(self, conversation_id: UUID) -> None:
        rows = self._query("SELECT seq FROM messages WHERE conversation_id = %s ORDER BY seq", conversation_id)
        if [row[0] for row in rows] != list(range(1, len(rows) + 1)):
            self._fail("seq has no gap", f"the seqs are {[row[0] for row in rows]}")
        doubled = self._query(
            """
            SELECT client_id FROM messages WHERE conversation_id = %s AND client_id IS NOT NULL
            GROUP BY sender_id, client_id HAVING count(*) > 1
            """,
            conversation_id,
        )
        if doubled:
            self._fail("one message for a client_id", f"stored more than once: {doubled}")
        ((last_seq, last_rev, version, member_count),) = self._query(
            "SELECT last_seq, last_rev, members_version, member_count FROM conversations WHERE id = %s", conversation_id
        )
        states = self._states[conversation_id]
        stored = sum(where == conversation_id for where, _ in self._messages.values())
        expected = stored, self._last_revs[conversation_id], max(states)
        if (last_seq, last_rev, version) != expected or len(rows) != stored:
            self._fail("the head is what is stored", f"{last_seq}, {last_rev}, {version}, not {expected}")
        if member_count != len(states[max(states)]):
            self._fail("counts are right", f"{member_count} members, not {len(states[max(states)])}")

    def _possible(self, call: Call) -> list[frozenset[UUID]]:
        """Lists the members at every version between the beginning and the end of a call."""
        until = max(
            (version for change, version in self._changes(call.conversation_id) if change.began < call.ended),
            default=math.inf,
        )
        states = self._states[call.conversation_id]
        return [states[version] for version in sorted(states) if call.since <= version <= max(until, call.since)]

    def _changes(self, conversation_id: UUID) -> list[tuple[Call, int]]:
        return [change for change in self._answers.changes if change[0].conversation_id == conversation_id]

    def _check_members(self) -> None:
        """Checks that each result about members is true as of its version."""
        answers = self._answers
        for call, version, ids in answers.members:
            if self._states[call.conversation_id].get(version) != ids:
                self._fail("members are as of their version", f"{call.what} at version {version}")
        for call, version, user_id in answers.present:
            if user_id not in self._states[call.conversation_id].get(version, ()):
                self._fail("members are as of their version", f"{call.what} has {user_id} at version {version}")
        for call, version, user_id in answers.gone:
            if user_id in self._states[call.conversation_id].get(version, (user_id,)):
                self._fail("members are as of their version", f"{call.what} lacks {user_id} at version {version}")
        for call, user_id in answers.absent:
            self.counters["a refusal"] += 1
            if all(user_id in state for state in self._possible(call)):
                self._fail("a member is not refused", f"{call.what} of {user_id}")

    def _check_messages(self) -> None:
        for call, message_id, seq in self._answers.stored:
            if self._messages.get(message_id) != (call.conversation_id, seq):
                self._fail("acknowledged is kept", f"{message_id} as seq {seq}")
        # A message sent twice may be rejected first and stored later.
        acknowledged = {message_id for _, message_id, _ in self._answers.stored}
        for message_id in set(self._answers.refused) - acknowledged - self._answers.unanswered:
            if message_id in self._messages:
                self._fail("what is refused is not stored", str(message_id))
        for _, revision_id, rev in self._answers.revised:
            if self._revisions.get(revision_id) != rev:
                self._fail("acknowledged is kept", f"revision {revision_id} as rev {rev}")

    def _check_positions(self) -> None:
        positions = {
            (conversation_id, row[0]): row[1]
            for conversation_id in self._conversations
            for row in self._query(
                "SELECT user_id, read_seq FROM conversation_users WHERE conversation_id = %s", conversation_id
            )
        }
        for call, user_id, seq in self._answers.read:
            key = call.conversation_id, user_id
            since = self._last_in.get(key, 0)  # an earlier membership had its own position
            if key in positions and call.since >= since and int(str(positions[key])) < seq:
                self._fail("a read position never goes back", f"{user_id} had read {seq}, and now {positions[key]}")
