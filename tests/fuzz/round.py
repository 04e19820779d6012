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
from pulse_trio.model import (
    AddMembers,
    Command,
    Delete,
    Edit,
    Kind,
    Leave,
    Member,
    Message,
    MyMembership,
    Post,
    RemoveMember,
    SetProperties,
    User,
)
from pulse_trio.store.base import NewConversation, NoSuchMember, NotAMember, Outcome, ReadMark, Refusal, StoreError
from pulse_trio.store.postgres.group_commit import StoreBusy
from tests.fuzz.oracle import Answers, Call, Oracle, Thing, thing_of
from tests.fuzz.stores import SlowStore, open_stores
from tests.support.handovers import Handed

STORES: Final = 3
USERS: Final = 5
MAX_MEMBERS: Final = 4  # of a group; low, so that some additions are rejected
# Of each store.
TASKS: Final = {"post": 4, "change": 2, "revise": 2, "repeat": 1, "mark": 1, "look": 1, "rename": 1, "follow": 1}
MAX_IDLE: Final = 0.03  # seconds between two operations of a task
MAX_KEPT: Final = 12  # commands that may be repeated; fewer than a store remembers of one object
PAGE: Final = 15  # objects; small, so that a reader needs several pages
LIMIT: Final = 60  # seconds in which a round must end
START: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Result:
    """The result of a round."""

    seed: int
    violations: list[str]
    counters: Counter[str]


class Reader:
    """Somebody who reads the log of a conversation, or of a user's own sequence, page by page."""

    def __init__(self, store: SlowStore, conversation_id: UUID, user_id: UUID) -> None:
        self.conversation_id = conversation_id
        self.user_id = user_id
        self.log: dict[Thing, Any] = {}
        self.own_log: dict[UUID, MyMembership] = {}
        self._store = store
        self._rev = self._user_rev = 0

    async def read(self) -> bool:
        """Reads a page of each; returns True at the end of both."""
        page = await self._store.changes(self.conversation_id, after_rev=self._rev, kinds=Kind.ALL, limit=PAGE)
        for change in page:
            self.log[thing_of(change)] = change
            self._rev = change.rev
        own = await self._store.user_changes(self.user_id, after_rev=self._user_rev, limit=PAGE)
        for mine in own:
            self.own_log[mine.conversation_id] = mine
            self._user_rev = mine.user_rev
        return not page and not own


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
        self.users: list[User] = []
        self._stores = stores
        rand = random.Random(f"{seed}/ids")
        self._ids = IdSource(self._clock, rand.randbytes)
        self._ticks = 0
        self._sent: list[list[Post]] = []  # a few batches to resend
        # A few commands to repeat: revisions, and others apart, so that many of one do not displace the other.
        self._asked: dict[bool, list[Command]] = {True: [], False: []}
        self._stored: list[Message] = []
        self._readers: dict[tuple[int, int], Reader] = {}  # by store and number
        self._ends = 0.0

    def _clock(self) -> datetime:
        self._ticks += 1
        return START + timedelta(milliseconds=self._ticks)

    async def run(self, seconds: float) -> None:
        """Creates users and groups, and changes them for that many seconds; then lets all readers come to the end."""
        store = self._stores[0]
        for number in range(USERS):
            user = User(self._ids(), f"user{number}-{self._ids()}"[:32])
            await store.create_user(user, password_hash=None, subject=None, created_at=self._clock())
            self.users.append(user)
        members = tuple(user.id for user in self.users[:MAX_MEMBERS])
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
                        nursery.start_soon(self._repeat_until_the_end, getattr(self, f"_{name}"), store, rand)
        late = [
            Reader(store, self.conversations[number % len(self.conversations)], user.id)
            for number, user in enumerate(self.users)
        ]
        async with trio.open_nursery() as nursery:
            for reader in [*self._readers.values(), *late]:
                nursery.start_soon(self._finish, reader)

    async def _finish(self, reader: Reader) -> None:
        while not await reader.read():
            pass
        self.answers.logs[reader.conversation_id].append(reader.log)
        self.answers.own_logs[reader.user_id].append(reader.own_log)

    async def _repeat_until_the_end(
        self, work: Callable[[SlowStore, random.Random], Awaitable[None]], store: SlowStore, rand: random.Random
    ) -> None:
        while trio.current_time() < self._ends:
            await trio.sleep(rand.uniform(0, MAX_IDLE))
            try:
                await work(store, rand)
            except StoreBusy:
                self.counters["a row was busy"] += 1
            except StoreError as error:
                self._note_error(error)

    def _note_error(self, error: StoreError) -> None:
        cause = error.__cause__
        if isinstance(cause, psycopg.errors.DeadlockDetected):
            self.answers.errors.append("a deadlock")
        else:
            self.answers.errors.append(f"{type(error).__name__} {error} {type(cause).__name__} {cause}")

    async def _call(self, what: str, conversation_id: UUID, work: Awaitable[Any]) -> tuple[Call, Any]:
        since, began = self.answers.known[conversation_id], trio.current_time()
        answer = await work
        self.counters[what] += 1
        return Call(what, conversation_id, since, began, trio.current_time()), answer

    async def _apply(self, store: SlowStore, command: Command) -> Outcome:
        """Carries out one command, which may be repeated later, and notes its outcome."""
        if isinstance(command, Edit | Delete):
            self.answers.actors[command.id] = command.actor_id
        what = type(command).__name__
        self._keep(command)
        call, (outcome,) = await self._call(what, command.conversation_id, store.apply([command]))
        self._note(call, command, outcome)
        result: Outcome = outcome
        return result

    def _note(self, call: Call, command: Command, outcome: Outcome) -> None:
        if isinstance(outcome, Refusal):
            self.counters[f"refused: {type(outcome).__name__}"] += 1
            if isinstance(outcome, NotAMember):
                self.answers.absent.append((call, command.actor_id))
            if isinstance(outcome, NoSuchMember) and isinstance(command, RemoveMember):
                self.answers.absent.append((call, command.user_id))
            return
        known = self.answers.known
        for change in outcome:
            self.answers.changed.append((call, change))
            if isinstance(change, Member):
                known[call.conversation_id] = max(known[call.conversation_id], change.rev)

    # --- what the tasks do ---

    async def _post(self, store: SlowStore, rand: random.Random) -> None:
        """Stores a message, or several in one batch; now and then one that another store may be storing just now."""
        conversation_id = rand.choice(self.conversations)
        if self._sent and rand.random() < 0.15:
            batch = rand.choice(self._sent)
            conversation_id = batch[0].conversation_id
            if rand.random() < 0.5:  # a resend by the client has another id
                batch = [self._message(conversation_id, old.actor_id, old.client_id) for old in batch]
        else:
            batch = [
                self._message(conversation_id, rand.choice(self.users).id, str(self._ids()))
                for _ in range(rand.choice((1, 1, 1, 2, 5)))
            ]
            self._sent[rand.randrange(8) :] = [batch]
        call, outcomes = await self._call("post", conversation_id, self._store_all(store, batch, rand))
        for new, outcome in zip(batch, outcomes, strict=True):
            self._note(call, new, outcome)
            if isinstance(outcome, Refusal):
                self.answers.refused.append(new.id)
            else:
                self._stored += outcome

    async def _store_all(self, store: SlowStore, batch: list[Post], rand: random.Random) -> list[Outcome]:
        """Stores messages, for as long as it takes."""
        began = trio.current_time()
        while True:
            try:
                if rand.random() < 0.5 and (outcomes := await self._hand_over(store, batch)) is not None:
                    return outcomes
                return await store.apply(batch)
            except StoreBusy:
                self.counters["a post was busy"] += 1
                if trio.current_time() - began > LIMIT / 4:
                    self.answers.unanswered.update(new.id for new in batch)
                    raise

    async def _hand_over(self, store: SlowStore, batch: list[Post]) -> list[Outcome] | None:
        """Stores messages as a handover; returns None if they must be stored by `apply`."""
        handed = Handed(*batch, seconds=LIMIT)
        if not store.apply_soon(handed):
            return None
        answer = await handed.wait()
        if isinstance(answer, StoreError):
            raise answer
        self.counters["a handover" if answer is not None else "a handover to carry out alone"] += 1
        return answer

    def _message(self, conversation_id: UUID, actor_id: UUID, client_id: str | None) -> Post:
        return Post(**self._given(conversation_id, actor_id), content="hello", client_id=client_id)

    def _given(self, conversation_id: UUID, actor_id: UUID) -> dict[str, Any]:
        """Returns what every command has."""
        return {"id": self._ids(), "conversation_id": conversation_id, "actor_id": actor_id, "at": self._clock()}

    async def _change(self, store: SlowStore, rand: random.Random) -> None:
        """Adds several users, removes one, or makes one leave. One user always stays, so that no group is empty."""
        conversation_id, actor = rand.choice(self.conversations), rand.choice(self.users)
        staying = self.users[1]
        leaving = rand.choice([user for user in self.users if user != staying])
        given = self._given(conversation_id, actor.id)
        dice = rand.random()
        if dice < 0.5:
            ids = tuple(user.id for user in rand.sample(self.users, rand.randint(1, 3)))
            command: Command = AddMembers(**given, user_ids=ids, limit=MAX_MEMBERS)
        elif dice < 0.85:
            owner = rand.choice((self.users[0], self.users[0], staying, leaving))
            command = RemoveMember(**{**given, "actor_id": owner.id}, user_id=leaving.id)
        else:
            command = Leave(**{**given, "actor_id": leaving.id})
        await self._apply(store, command)

    async def _repeat(self, store: SlowStore, rand: random.Random) -> None:
        """Repeats a command of any store, which may still be carrying it out."""
        asked = self._asked[rand.random() < 0.5]
        if asked:
            await self._apply(store, rand.choice(asked))

    def _keep(self, *commands: Command) -> None:
        for command in commands:
            asked = self._asked[isinstance(command, Edit | Delete)]
            asked.append(command)
            del asked[:-MAX_KEPT]

    async def _revise(self, store: SlowStore, rand: random.Random) -> None:
        """Edits or deletes a message, or several in one call; now and then all the same one."""
        if not self._stored:
            return
        first = rand.choice(self._stored[-20:])
        near = [old for old in self._stored[-20:] if old.conversation_id == first.conversation_id]
        more = [rand.choice((first, rand.choice(near))) for _ in range(rand.choice((0, 0, 1, 2, 3)))]
        batch = [self._revision(old, rand) for old in (first, *more)]
        for command in batch:
            self.answers.actors[command.id] = command.actor_id
        if len(batch) == 1:
            await self._apply(store, batch[0])
            return
        self._keep(*batch)
        call, outcomes = await self._call("several revisions", first.conversation_id, store.apply(batch))
        for command, outcome in zip(batch, outcomes, strict=True):
            self._note(call, command, outcome)
        if rand.random() < 0.3:  # as after a lost answer
            call, outcomes = await self._call("repeated revisions", first.conversation_id, store.apply(batch))
            for command, outcome in zip(batch, outcomes, strict=True):
                self._note(call, command, outcome)

    def _revision(self, old: Message, rand: random.Random) -> Edit | Delete:
        actor_id = old.sender_id if rand.random() < 0.9 else rand.choice(self.users).id
        given = self._given(old.conversation_id, actor_id)
        if rand.random() < 0.2:
            return Delete(**given, message_id=old.id)
        return Edit(**given, message_id=old.id, content="hello again", if_rev=rand.choice((None, None, old.rev)))

    async def _rename(self, store: SlowStore, rand: random.Random) -> None:
        conversation_id, actor = rand.choice(self.conversations), rand.choice(self.users)
        values = {"name": rand.choice(("Group", f"Group {rand.random()}"))}
        await self._apply(store, SetProperties(**self._given(conversation_id, actor.id), values=values))

    async def _mark(self, store: SlowStore, rand: random.Random) -> None:
        since = {conversation_id: self.answers.known[conversation_id] for conversation_id in self.conversations}
        began = trio.current_time()
        marks = [
            ReadMark(conversation_id, user.id, rand.randint(1, 200))
            for conversation_id in rand.sample(self.conversations, rand.randint(1, len(self.conversations)))
            for user in rand.sample(self.users, rand.randint(1, 3))
        ]
        states = await store.mark_read(marks)
        self.counters["mark"] += 1
        for mark, state in zip(marks, states, strict=True):
            at = mark.conversation_id
            call = Call("mark_read", at, since[at], began, trio.current_time())
            if state is None:
                self.answers.absent.append((call, mark.user_id))
            else:
                self.answers.read.append((call, mark.user_id, state.read_seq, state.user_rev))
                if state.read_seq > state.last_seq:
                    self.answers.errors.append(f"read {state.read_seq} of {state.last_seq}")
        if rand.random() < 0.2:
            await store.mark_seen({user.id: self._clock() for user in self.users})

    async def _look(self, store: SlowStore, rand: random.Random) -> None:
        """Reads the members by a random operation."""
        conversation_id, user = rand.choice(self.conversations), rand.choice(self.users)
        how = rand.choice(("members", "membership", "memberships"))
        if how == "members":
            call, members = await self._call(how, conversation_id, store.members(conversation_id))
            self.answers.members.append((call, members.rev, frozenset(members.ids)))
            return
        if how == "membership":
            call, rev = await self._call(how, conversation_id, store.membership(conversation_id, user.id))
        else:
            among = rand.choice((None, self.conversations))
            call, found = await self._call(how, conversation_id, store.memberships(user.id, among))
            rev = found.heads[conversation_id].members_rev if conversation_id in found.heads else None
        if rev is None:
            self.answers.absent.append((call, user.id))
        else:
            self.answers.present.append((call, rev, user.id))

    async def _follow(self, store: SlowStore, rand: random.Random) -> None:
        """Lets one of the store's readers read on."""
        key = self._stores.index(store), rand.randrange(len(self.conversations))
        if key not in self._readers:
            self._readers[key] = Reader(store, self.conversations[key[1]], self.users[sum(key) % USERS].id)
        await self._readers[key].read()
        self.counters["read"] += 1


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
    oracle = Oracle(conninfo, made.conversations, (user.id for user in made.users), made.answers)
    if deadlocks := _deadlocks(conninfo) - before:  # complete, because the stores' connections are closed
        oracle.violations.append(f"no deadlock: {deadlocks} happened")
    return Result(seed, oracle.violations, made.counters + oracle.counters)


def _deadlocks(conninfo: str) -> int:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])
