"""One round: tasks of several stores change the same few conversations concurrently."""

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
import trio

from pulse_trio.ids import IdSource
from pulse_trio.store.base import (
    NewConversation,
    NewMessage,
    NoSuchMessage,
    NotAMember,
    NotYourMessage,
    OwnerOnly,
    ReadMark,
    Revision,
    StoreError,
    TooManyMembers,
    User,
)
from pulse_trio.store.postgres.group_commit import StoreBusy
from tests.fuzz.oracle import Answers, Call, Oracle
from tests.fuzz.stores import SlowStore, open_stores

STORES: Final = 3
USERS: Final = 5
MAX_MEMBERS: Final = 4  # of a group; low, so that some additions are rejected
TASKS: Final = {"append": 4, "change": 2, "revise": 2, "mark": 1, "look": 1, "rename": 1}  # of each store
MAX_IDLE: Final = 0.03  # seconds between two operations of a task
LIMIT: Final = 60  # seconds in which a round must end
REFUSALS: Final = (NotAMember, NoSuchMessage, NotYourMessage, OwnerOnly, TooManyMembers)
START: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Result:
    """The result of a round."""

    seed: int
    violations: list[str]
    counters: Counter[str]


class Round:
    """The tasks of a round and their results.

    Args:
        seed: determines their operations; the outcome also depends on the machine's scheduling.
        stores: one for each simulated process.
    """

    def __init__(self, seed: int, stores: list[SlowStore]) -> None:
        self.seed = seed
        self.answers = Answers()
        self.counters: Counter[str] = Counter()
        self.conversations: list[UUID] = []
        self._stores = stores
        self._users: list[User] = []
        rand = random.Random(f"{seed}/ids")
        self._ids = IdSource(self._clock, rand.randbytes)
        self._ticks = 0
        self._sent: list[list[NewMessage]] = []  # a few batches to resend
        self._stored: list[NewMessage] = []
        self._ends = 0.0

    def _clock(self) -> datetime:
        self._ticks += 1
        return START + timedelta(milliseconds=self._ticks)

    async def run(self, seconds: float) -> None:
        """Creates users and groups, and changes them for that many seconds."""
        store = self._stores[0]
        for number in range(USERS):
            user = User(self._ids(), f"user{number}-{self._ids()}"[:32])
            await store.create_user(user, password_hash=None, subject=None, created_at=self._clock())
            self._users.append(user)
        members = tuple(user.id for user in self._users[:MAX_MEMBERS])
        for _ in range(random.Random(f"{self.seed}/groups").choice((1, 2, 3))):
            new = NewConversation(self._ids(), "Group", None, True, members[0], members, self._clock())
            await store.create_conversation(new)
            self.conversations.append(new.id)
        self._ends = trio.current_time() + seconds
        async with trio.open_nursery() as nursery:
            for number, store in enumerate(self._stores):
                for name, count in TASKS.items():
                    for task in range(count):
                        rand = random.Random(f"{self.seed}/{name} {number} {task}")
                        nursery.start_soon(self._repeat, getattr(self, f"_{name}"), store, rand)

    async def _repeat(
        self, work: Callable[[SlowStore, random.Random], Awaitable[None]], store: SlowStore, rand: random.Random
    ) -> None:
        while trio.current_time() < self._ends:
            await trio.sleep(rand.uniform(0, MAX_IDLE))
            try:
                await work(store, rand)
            except REFUSALS as error:
                self.counters[f"refused: {type(error).__name__}"] += 1
            except StoreBusy:
                self.counters["a row was busy"] += 1
            except StoreError as error:
                self._note_error(error)

    def _note_error(self, error: StoreError) -> None:
        cause = error.__cause__
        if isinstance(cause, psycopg.errors.DeadlockDetected):
            self.answers.errors.append("a deadlock")
        else:
            self.answers.errors.append(f"{type(error).__name__} {error} {type(cause).__name__}")

    async def _call(self, what: str, conversation_id: UUID, work: Awaitable[Any]) -> tuple[Call, Any]:
        since, began = self.answers.known[conversation_id], trio.current_time()
        answer = await work
        self.counters[what] += 1
        return Call(what, conversation_id, since, began, trio.current_time()), answer

    # --- what the tasks do ---

    async def _append(self, store: SlowStore, rand: random.Random) -> None:
        """Stores a message, or several in one batch; now and then one that another store may be storing just now."""
        conversation_id = rand.choice(self.conversations)
        if self._sent and rand.random() < 0.15:
            batch = rand.choice(self._sent)
            conversation_id = batch[0].conversation_id
            if rand.random() < 0.5:  # a resend by the client has another id
                batch = [self._message(conversation_id, old.sender_id, old.client_id) for old in batch]
        else:
            batch = [
                self._message(conversation_id, rand.choice(self._users).id, str(self._ids()))
                for _ in range(rand.choice((1, 1, 1, 2, 5)))
            ]
            self._sent[rand.randrange(8) :] = [batch]
        began = trio.current_time()
        while True:
            try:
                call, rows = await self._call("append", conversation_id, store.append(batch))
            except StoreBusy:
                self.counters["an append was busy"] += 1
                if trio.current_time() - began > LIMIT / 4:
                    self.answers.unanswered.update(new.id for new in batch)
                    raise
            else:
                break
        for new, row in zip(batch, rows, strict=True):
            if row is None:
                self.answers.refused.append(new.id)
                self.answers.absent.append((call, new.sender_id))
            else:
                self.answers.stored.append((call, row.id, row.seq))
                if row.id == new.id:
                    self._stored.append(new)

    def _message(self, conversation_id: UUID, sender_id: UUID, client_id: str | None) -> NewMessage:
        return NewMessage(self._ids(), conversation_id, sender_id, "hello", client_id, self._clock())

    async def _change(self, store: SlowStore, rand: random.Random) -> None:
        """Adds several users, removes one, or makes one leave. The first user stays the owner."""
        conversation_id = rand.choice(self.conversations)
        owner, others = self._users[0], self._users[1:]
        if rand.random() < 0.5:
            ids = [user.id for user in rand.sample(others, rand.randint(1, 3))]
            actor = rand.choice(self._users)
            adding = store.add_members(conversation_id, actor.id, ids, limit=MAX_MEMBERS, now=self._clock())
            call, added = await self._call("addition", conversation_id, adding)
            self.answers.present += [(call, added.version, user_id) for user_id in ids]
            self._note_version(call, added.version)
        else:
            user = rand.choice(others)
            actor = rand.choice((owner, owner, user))
            removing = store.remove_member(conversation_id, actor.id, user.id, now=self._clock())
            call, removed = await self._call("removal", conversation_id, removing)
            self.answers.gone.append((call, removed.version, user.id))
            self._note_version(call, removed.version)

    def _note_version(self, call: Call, version: int) -> None:
        self.answers.changes.append((call, version))
        known = self.answers.known
        known[call.conversation_id] = max(known[call.conversation_id], version)

    async def _revise(self, store: SlowStore, rand: random.Random) -> None:
        if not self._stored:
            return
        old = rand.choice(self._stored[-20:])
        actor_id = old.sender_id if rand.random() < 0.9 else rand.choice(self._users).id
        content = None if rand.random() < 0.2 else "hello again"
        revision = Revision(self._ids(), old.conversation_id, old.id, actor_id, content, self._clock())
        self.answers.actors[revision.id] = actor_id
        call, row = await self._call("revision", old.conversation_id, store.revise(revision))
        self.answers.revised.append((call, revision.id, row.rev))

    async def _mark(self, store: SlowStore, rand: random.Random) -> None:
        since = {conversation_id: self.answers.known[conversation_id] for conversation_id in self.conversations}
        began = trio.current_time()
        user = rand.choice(self._users)
        marks = [
            ReadMark(conversation_id, rand.choice((user, *self._users)).id, rand.randint(1, 200))
            for conversation_id in rand.sample(self.conversations, rand.randint(1, len(self.conversations)))
        ]
        states = await store.mark_read(marks)
        self.counters["mark"] += 1
        for mark, state in zip(marks, states, strict=True):
            at = mark.conversation_id
            call = Call("mark_read", at, since[at], began, trio.current_time())
            if state is None:
                self.answers.absent.append((call, mark.user_id))
            else:
                self.answers.read.append((call, mark.user_id, state.read_seq))
                if state.read_seq > state.last_seq:
                    self.answers.errors.append(f"read {state.read_seq} of {state.last_seq}")
        if rand.random() < 0.2:
            await store.mark_seen({user.id: self._clock() for user in self._users})

    async def _look(self, store: SlowStore, rand: random.Random) -> None:
        """Reads the members by a random operation."""
        conversation_id, user = rand.choice(self.conversations), rand.choice(self._users)
        how = rand.choice(("members", "membership", "memberships"))
        if how == "members":
            call, members = await self._call(how, conversation_id, store.members(conversation_id))
            self.answers.members.append((call, members.version, frozenset(members.ids)))
            return
        if how == "membership":
            call, version = await self._call(how, conversation_id, store.membership(conversation_id, user.id))
        else:
            among = rand.choice((None, self.conversations))
            call, heads = await self._call(how, conversation_id, store.memberships(user.id, among))
            version = heads[conversation_id].members_version if conversation_id in heads else None
        if version is None:
            self.answers.absent.append((call, user.id))
        else:
            self.answers.present.append((call, version, user.id))

    async def _rename(self, store: SlowStore, rand: random.Random) -> None:
        conversation_id, actor = rand.choice(self.conversations), rand.choice(self._users)
        renaming = store.rename(conversation_id, actor.id, {"name": f"Group {rand.random()}"}, now=self._clock())
        call, renamed = await self._call("rename", conversation_id, renaming)
        ids = frozenset(member.id for member in renamed.members)
        self.answers.members.append((call, renamed.head.members_version, ids))


async def _run(conninfo: str, seed: int, seconds: float) -> Round:
    with trio.fail_after(seconds + LIMIT):
        async with open_stores(conninfo, seed, STORES) as stores:
            made = Round(seed, stores)
            await made.run(seconds)
    return made


def fuzz(conninfo: str, seed: int, seconds: float) -> Result:
    """Runs one round with new users and conversations on a database with a journal."""
    before = _deadlocks(conninfo)
    made = trio.run(_run, conninfo, seed, seconds)
    oracle = Oracle(conninfo, made.conversations, made.answers)
    if deadlocks := _deadlocks(conninfo) - before:  # complete, because the stores' connections are closed
        oracle.violations.append(f"no deadlock: {deadlocks} happened")
    return Result(seed, oracle.violations, made.counters + oracle.counters)


def _deadlocks(conninfo: str) -> int:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])
