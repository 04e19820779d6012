"""Promises about the commits of a database and the results of stores. Shares no code with the stores.

Each violation begins with the name of the promise that was broken.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString, TypeAlias
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from pulse_trio.model import Change, Member, Message, MyMembership, Properties

Thing: TypeAlias = tuple[str, UUID]
"""An object of a conversation: "message", "member" or "properties", and its id."""


@dataclass(frozen=True)
class Call:
    """A completed operation.

    Attributes:
        what: its name.
        conversation_id: its conversation.
        since: the highest rev of a change of members known to be committed when it began.
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

    changed: list[tuple[Call, Change]] = field(default_factory=list)  # objects as a command's outcome showed them
    absent: list[tuple[Call, UUID]] = field(default_factory=list)  # users reported as non-members
    members: list[tuple[Call, int, frozenset[UUID]]] = field(default_factory=list)  # as of a rev
    present: list[tuple[Call, int, UUID]] = field(default_factory=list)  # a member as of a rev
    refused: list[UUID] = field(default_factory=list)  # messages
    unanswered: set[UUID] = field(default_factory=set)  # messages
    read: list[tuple[Call, UUID, int, int]] = field(default_factory=list)  # user, seq, number in their own sequence
    actors: dict[UUID, UUID] = field(default_factory=dict)  # edit or deletion → user
    errors: list[str] = field(default_factory=list)
    known: dict[UUID, int] = field(default_factory=lambda: defaultdict(int))  # conversation → highest rev of members
    # What somebody who reads page by page, while others change things, has in the end; the first is read at the end.
    logs: dict[UUID, list[dict[Thing, Change]]] = field(default_factory=lambda: defaultdict(list))
    own_logs: dict[UUID, list[dict[UUID, MyMembership]]] = field(default_factory=lambda: defaultdict(list))


def thing_of(change: Change) -> Thing:
    """Returns the object that a change is the state of."""
    match change:
        case Message():
            return "message", change.id
        case Member():
            return "member", change.user_id
        case Properties():
            return "properties", change.conversation_id


@dataclass(frozen=True)
class Entry:
    """A row of the journal; `rev` and `user_rev` are 0 for a change that takes none."""

    transaction: int
    conversation_id: UUID
    what: str
    object_id: UUID
    rev: int
    user_rev: int
    seq: int | None
    actor_id: UUID | None
    command_id: UUID


ENTRIES: Final = """
    SELECT transaction::text::bigint AS transaction, conversation_id, what, object_id, coalesce(rev, 0) AS rev,
        coalesce(user_rev, 0) AS user_rev, seq, actor_id, command_id
    FROM journal WHERE conversation_id = %s ORDER BY id
"""
THINGS: Final = {
    "message": "message",
    "revision": "message",
    "joined": "member",
    "left": "member",
    "properties": "properties",
}


class Oracle:
    """Checks the conversations of one round.

    Args:
        conninfo: the database, with a journal.
        conversations: the conversations to check.
        users: their users.
        answers: the results of the stores.
    """

    def __init__(self, conninfo: str, conversations: list[UUID], users: Iterable[UUID], answers: Answers) -> None:
        self.violations: list[str] = []
        self.counters: Counter[str] = Counter()
        self._conversations = conversations
        self._users = list(users)
        self._answers = answers
        self._states: dict[UUID, dict[int, frozenset[UUID]]] = {}  # conversation → rev → members
        self._last_in: dict[tuple[UUID, UUID], int] = {}  # conversation, user → rev of their last addition
        self._revs: dict[UUID, dict[int, Entry]] = {}  # conversation → rev → its row of the journal
        self._last: dict[UUID, dict[Thing, Entry]] = {}  # conversation → object → its last row of the journal
        self._user_revs: dict[UUID, dict[int, Entry]] = defaultdict(dict)  # user → number → its row of the journal
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
        self._check_user_sequences()
        self._check_logs()
        self._check_members()
        self._check_outcomes()
        self._check_positions()

    def _query(self, statement: LiteralString, key: UUID) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, (key,)).fetchall()

    # --- the journal ---

    def _replay(self, conversation_id: UUID) -> None:
        """Replays a conversation's journal: its objects, its members at each rev, and who might do what."""
        with self._connection.cursor(row_factory=class_row(Entry)) as cursor:
            rows = cursor.execute(ENTRIES, (conversation_id,)).fetchall()
        for row in rows:
            if row.user_rev:
                own = self._user_revs[row.object_id]
                if row.user_rev in own:
                    self._fail("a user's sequence has no gap", f"{row.object_id} has {row.user_rev} twice")
                own[row.user_rev] = row
        created_with = frozenset(row.object_id for row in rows if row.what == "joined" and not row.rev)
        numbered = [row for row in rows if row.rev]
        revs = [row.rev for row in numbered]
        if sorted(revs) != list(range(1, len(revs) + 1)):
            self._fail("rev has no gap", f"given out were {sorted(revs)}")
        # A transaction's rows may be noted in any order, but it has all revs between its first and its last.
        for before, after in itertools.pairwise(numbered):
            if before.transaction != after.transaction and before.rev > after.rev:
                self._fail("revs have the order of the commits", f"{after.rev} came after {before.rev}")
        numbered.sort(key=lambda row: row.rev)
        self._revs[conversation_id] = {row.rev: row for row in numbered}
        self._last[conversation_id] = {(THINGS[row.what], row.object_id): row for row in numbered}
        self._check_repeats(numbered)

        members = set(created_with)
        states = self._states[conversation_id] = {0: created_with}
        at_start, transaction = frozenset(members), 0
        for row in numbered:
            self.counters[row.what] += 1
            if row.transaction != transaction:
                at_start, transaction = frozenset(members), row.transaction
            actor_id = self._answers.actors[row.command_id] if row.what == "revision" else row.actor_id
            if actor_id not in at_start:
                self._fail("nothing of a removed member is stored", f"{row.what} as rev {row.rev} of {actor_id}")
            if row.what in {"joined", "left"}:
                is_member = row.object_id in members
                if is_member != (row.what == "left"):
                    self._fail("members change in turn", f"{row.object_id} {row.what} at rev {row.rev}")
                (members.discard if row.what == "left" else members.add)(row.object_id)
                states[row.rev] = frozenset(members)
                if row.what == "joined":
                    self._last_in[conversation_id, row.object_id] = row.rev

    def _check_repeats(self, numbered: list[Entry]) -> None:
        transactions: dict[UUID, set[int]] = defaultdict(set)
        for row in numbered:
            transactions[row.command_id].add(row.transaction)
        for command_id, found in transactions.items():
            if len(found) > 1:
                self._fail("a repeat changes nothing", f"{command_id} was carried out {len(found)} times")

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
        (found,) = self._query(
            """
            SELECT last_seq, last_rev, message_rev, members_rev, properties_rev, member_count
            FROM conversations WHERE id = %s
            """,
            conversation_id,
        )
        latest = {"message": 0, "member": 0, "properties": 0}
        for rev, row in self._revs[conversation_id].items():
            latest[THINGS[row.what]] = rev
        states = self._states[conversation_id]
        members = states[max(states)]
        last_rev = max(self._revs[conversation_id], default=0)
        if found[:5] != (len(rows), last_rev, *latest.values()):
            self._fail("the head is what is stored", f"{found[:5]}, not {(len(rows), last_rev, *latest.values())}")
        stored = self._query("SELECT user_id FROM conversation_users WHERE conversation_id = %s", conversation_id)
        if found[5] != len(members) or {row[0] for row in stored} != members:
            self._fail("counts are right", f"{found[5]} members, {len(stored)} rows, not {len(members)}")

    def _check_user_sequences(self) -> None:
        for user_id in self._users:
            ((last_rev,),) = self._query("SELECT last_rev FROM users WHERE id = %s", user_id)
            numbers = sorted(self._user_revs[user_id])
            if numbers != list(range(1, last_rev + 1)):
                self._fail("a user's sequence has no gap", f"{user_id}: {numbers}, and the last is {last_rev}")

    # --- what was read and answered ---

    def _check_logs(self) -> None:
        """Checks that each reader has each object once, as it was last changed."""
        for conversation_id in self._conversations:
            expected = {thing: (row.rev, row.what != "left") for thing, row in self._last[conversation_id].items()}
            for log in self._answers.logs[conversation_id]:
                found = {thing: (change.rev, getattr(change, "is_member", True)) for thing, change in log.items()}
                if found != expected:
                    different = dict(set(found.items()) ^ set(expected.items()))
                    self._fail("a reader misses nothing", f"{different}")
        for user_id in self._users:
            expected_own = {}
            for number, row in sorted(self._user_revs[user_id].items()):
                expected_own[row.conversation_id] = number, row.what != "left"
            for own in self._answers.own_logs[user_id]:
                found_own = {key: (mine.user_rev, mine.is_member) for key, mine in own.items()}
                if found_own != expected_own:
                    self._fail("a reader misses nothing", f"of {user_id}: {found_own}, not {expected_own}")

    def _possible(self, call: Call) -> list[frozenset[UUID]]:
        """Lists the members at every rev between the beginning and the end of a call."""
        until = max(
            (
                change.rev
                for change_call, change in self._answers.changed
                if isinstance(change, Member)
                and change.conversation_id == call.conversation_id
                and change_call.began < call.ended
            ),
            default=math.inf,
        )
        states = self._states[call.conversation_id]
        last = max(rev for rev in states if rev <= call.since)
        return [states[rev] for rev in sorted(states) if last <= rev <= max(until, call.since)]

    def _check_members(self) -> None:
        """Checks that each result about members is true as of its rev."""
        answers = self._answers
        for call, rev, ids in answers.members:
            if self._states[call.conversation_id].get(rev) != ids:
                self._fail("members are as of their rev", f"{call.what} at rev {rev}")
        for call, rev, user_id in answers.present:
            if user_id not in self._states[call.conversation_id].get(rev, ()):
                self._fail("members are as of their rev", f"{call.what} has {user_id} at rev {rev}")
        for call, user_id in answers.absent:
            self.counters["a refusal"] += 1
            if all(user_id in state for state in self._possible(call)):
                self._fail("a member is not refused", f"{call.what} of {user_id}")

    def _check_outcomes(self) -> None:
        for call, change in self._answers.changed:
            row = self._revs[change.conversation_id].get(change.rev)
            kind, object_id = thing_of(change)
            if kind == "properties" and not change.rev:
                continue  # they are as at the creation, which takes no rev
            is_kept = row is not None and (THINGS[row.what], row.object_id) == (kind, object_id)
            if row is not None and isinstance(change, Member):
                is_kept &= change.is_member == (row.what == "joined") and change.user_rev in {0, row.user_rev}
            if row is not None and isinstance(change, Message):
                is_kept &= change.seq == row.seq
            if not is_kept:
                self._fail("acknowledged is kept", f"{call.what}: {kind} {object_id} as rev {change.rev}")
        # A message sent twice may be rejected first and stored later.
        acknowledged = {change.id for _, change in self._answers.changed if isinstance(change, Message)}
        stored = {object_id for last in self._last.values() for kind, object_id in last if kind == "message"}
        for message_id in set(self._answers.refused) - acknowledged - self._answers.unanswered:
            if message_id in stored:
                self._fail("what is refused is not stored", str(message_id))

    def _check_positions(self) -> None:
        positions = {
            (conversation_id, row[0]): row[1]
            for conversation_id in self._conversations
            for row in self._query(
                "SELECT user_id, read_seq FROM conversation_users WHERE conversation_id = %s", conversation_id
            )
        }
        for call, user_id, seq, user_rev in self._answers.read:
            row = self._user_revs[user_id].get(user_rev)
            if row is None or row.conversation_id != call.conversation_id or row.seq != seq:
                self._fail("acknowledged is kept", f"{user_id} had read {seq} as their {user_rev}th change")
            key = call.conversation_id, user_id
            since = self._last_in.get(key, 0)  # an earlier membership had its own position
            if key in positions and call.since >= since and positions[key] < seq:
                self._fail("a read position never goes back", f"{user_id} had read {seq}, and now {positions[key]}")
