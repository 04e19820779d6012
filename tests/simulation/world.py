"""The simulated world: the real service behind the real Hypercorn, on streams in memory and a virtual clock."""

import contextlib
import json
import random
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
import structlog
import trio

import pulse_trio.app
from pulse_trio.auth.passwords import Passwords
from pulse_trio.edge.server import install
from pulse_trio.ids import IdSource
from pulse_trio.model import Kind, User
from pulse_trio.rooms import (
    catch_up,
    comparison,
    feed,
    known_heads,
    lobby,
    member_updates,
    room,
    rooms_behind,
    user_feeds,
)
from pulse_trio.rooms.hub import Hub
from pulse_trio.settings import Settings
from pulse_trio.store.base import NewConversation
from pulse_trio.store.memory import MemoryStore
from tests.simulation.bus import Engine
from tests.simulation.faults import FaultyStore, properties_of, row_of
from tests.simulation.history import History
from tests.simulation.paths import counted
from tests.simulation.plan import Plan
from tests.simulation.process import Process
from tests.simulation.streams import Connection, End

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "a key of the simulation: 5b1c8e7d2f90a364"
LIFETIME = 36_000  # virtual seconds of a token, if it is not to expire
HYPERCORN_TOML = Path(__file__).parents[2] / "hypercorn.toml"
PACES = (1.0, 1.0, 5.0)  # of clients of several processes: how much slower they are
LINGERS = (60.0, 3.0, 0.3, 0.3)  # seconds that a room without connections of its own stays, with several processes
RESUME_WAIT = 5.0  # PULSE_RESUME_WAIT: seconds after which a silent session starts
NAME = "Group"  # of each conversation at first
PROCESSES = (1, 1, 1, 1, 2, 2, 3, 4)  # of the service
COUNTED = ("a gap was filled", "a room failed")  # log lines that tell of a rare path


class World:
    """One run's service, its data and its network.

    Args:
        seed: decides everything.
        plan: what is left out.
        fault_rate: how often an operation of the store goes wrong during the chaos, 0 to 1.
    """

    def __init__(self, seed: int, plan: Plan, fault_rate: float) -> None:
        self.seed = seed
        self.plan = plan
        self.history = History()
        self.fault_rate = fault_rate
        self.late_rate = self.rand("late").choice((0.0, 0.2, 0.5)) if plan.has("late") else 0.0
        self.soon_rate = self.rand("soon").choice((1.0, 1.0, 0.7, 0.0)) if plan.has("soon") else 0.0
        self.calm = False
        self.well = False  # everybody is connected and has caught up
        self._epoch_of_clock = trio.current_time()
        linger = self.rand("linger").choice((60.0, 3.0, 0.5)) if plan.has("linger") else 60.0
        self.engine = Engine(self.rand("bus"), has_faults=plan.has("bus"))
        count = self.rand("processes").choice(PROCESSES) if plan.processes is None else plan.processes
        self.processes = [Process(self, number) for number in range(count if plan.has("processes") else 1)]
        # Where rooms end between two messages, the index must know what sessions have.
        self.pace = self.rand("pace").choice(PACES) if self.is_cluster else 1.0
        if self.is_cluster and plan.has("linger"):
            linger = self.rand("linger").choice(LINGERS)
        self.hypercorn_toml = HYPERCORN_TOML
        self.settings = Settings(
            room_linger=linger,
            secret_key=SECRET,
            store_timeout=4,
            write_timeout=6,
            pending_messages=8,
            inbox_messages=32,
            batch_messages=16,
            # A process that stands still must not read `resume` only after that time.
            resume_wait=15.0 if self.is_cluster else RESUME_WAIT,
        ).model_copy(update={"outbox_bytes": 12_000})  # below what is allowed, so that it is reached
        self.data = MemoryStore(epoch="one")
        self.ids = IdSource(self.clock, self.rand("ids").randbytes)
        self.users: list[User] = []
        self.crowd: list[User] = []  # users with no device, who are added and removed
        self.conversations: list[UUID] = []
        self.quiet: list[UUID] = []  # conversations with no device: only REST clients use them
        self.connections: dict[int, Connection] = {}
        self.vanished: dict[int, float] = {}  # connection → when
        self.history.add("processes", count=len(self.processes))
        self._balancer = self.rand("balancer")
        self._process_of: dict[int, Process] = {}
        self._numbers = 0
        self._requests = 0

    def rand(self, name: str) -> random.Random:
        """A source of chance of its own for each part, so that a change of one moves the others little."""
        return random.Random(f"{self.seed}/{name}")

    def clock(self) -> datetime:
        """The wall clock of the simulation."""
        return BEGINNING + timedelta(seconds=trio.current_time() - self._epoch_of_clock)

    def token(self, user: User, lifetime: float = LIFETIME) -> tuple[str, float]:
        """A token for about so many seconds, and when it expires, as the history tells the time."""
        expires = int(self.clock().timestamp() + lifetime)
        token = jwt.encode({"sub": str(user.id), "exp": expires}, SECRET, algorithm="HS256")
        return token, expires - BEGINNING.timestamp()

    async def populate(self, users: int, conversations: int, crowd: int = 0, quiet: int = 0) -> None:
        """Users, and groups whose owner is the first of them; the last user is in all of them, too."""
        self.users = [await self._create_user(f"user{number}") for number in range(users)]
        self.crowd = [await self._create_user(f"crowd{number}") for number in range(crowd)]
        self.conversations = [await self._create_group(self.users) for _ in range(conversations)]
        self.quiet = [await self._create_group([self.users[-1], *self.crowd[:1]]) for _ in range(quiet)]

    async def _create_user(self, name: str) -> User:
        user = User(self.ids(), name)
        await self.data.create_user(user, password_hash=None, subject=None, created_at=self.clock())
        return user

    async def _create_group(self, users: list[User]) -> UUID:
        members = tuple(user.id for user in users)
        new = NewConversation(self.ids(), NAME, None, True, members[0], members, self.clock())
        created = await self.data.create_conversation(new)
        about = {"conversation": str(new.id), "rev": 0, "actor": None}
        self.history.add("properties", **about, name=NAME, description=None, owner=str(members[0]))
        revs = {membership.user_id: membership.user_rev for membership in created.memberships}
        for member in members:
            self.history.add("member_in", **about, user=str(member), user_rev=revs[member], read_seq=0)
        return new.id

    # --- the service ---

    async def run_service(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs all processes of the service, for as long as the world runs."""
        if not self.is_cluster:
            await self.processes[0].run(task_status=task_status)
            return
        async with trio.open_nursery() as nursery:
            await nursery.start(self.engine.run)
            for process in self.processes:
                await nursery.start(process.run)
            task_status.started()

    def stop(self, *, kill: bool) -> None:
        """Ends the first process: as SIGKILL does, or in order."""
        self.processes[0].stop(kill=kill)

    @property
    def is_cluster(self) -> bool:
        """True if there are several processes."""
        return len(self.processes) > 1

    @property
    def hub(self) -> Hub:
        """The hub of the first process."""
        return self.processes[0].hub

    @property
    def store(self) -> FaultyStore | None:
        """The store of the first process."""
        return self.processes[0].store

    @property
    def is_up(self) -> bool:
        """True if all processes accept connections."""
        return all(process.is_up for process in self.processes)

    @property
    def serving(self) -> int:
        """The number of connections that are served."""
        return sum(process.serving for process in self.processes)

    def process_of(self, number: int) -> Process:
        """Returns the process of a connection."""
        return self._process_of[number]

    def calm_down(self) -> None:
        """From now on nothing goes wrong."""
        self.calm = True
        self.history.add("calm")
        self.engine.calm_down()
        for process in self.processes:
            process.calm_down()

    # --- the network ---

    def connect(self, process: Process | None = None) -> tuple[int, End]:
        """A connection to the service, to any process if none is named. Raises OSError when it is down."""
        if process is None:
            up = [each for each in self.processes if each.is_up]
            process = self._balancer.choice(up) if len(up) > 1 else up[0] if up else None
        if process is None or not process.is_up:
            raise ConnectionRefusedError
        self._numbers += 1
        self._process_of[self._numbers] = process
        connection = process.accept(self._numbers, self.rand(f"connection {self._numbers}"))
        self.connections[self._numbers] = connection
        return self._numbers, connection.client

    def next_number(self, session: int) -> int:
        """A number for what the checker takes for a connection, of the process of a session."""
        self._numbers += 1
        self._process_of[self._numbers] = self._process_of[session]
        return self._numbers

    def next_request(self) -> int:
        """A number for a change of members that is asked for."""
        self._requests += 1
        return self._requests

    def cut(self, number: int) -> None:
        """Cuts a connection without a close; what is on the way is lost."""
        if number in self.connections:
            self.history.add("cut", connection=number)
            self.connections[number].cut()

    def vanish(self, number: int) -> None:
        """The client of a connection is gone, and the server hears nothing of it, ever."""
        if number in self.connections:
            self.history.add("vanished", connection=number)
            self.vanished[number] = trio.current_time()
            self.connections[number].vanish()

    async def request(self, user: User, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """A REST request; its status and what it says, or 0 when no answer came."""
        data = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: chat.example\r\nConnection: close\r\n"
            f"Authorization: Bearer {self.token(user)[0]}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        answer = b""
        stream: End | None = None
        try:
            with trio.move_on_after(20):
                _, stream = self.connect()
                await stream.send_all(head.encode() + data)
                while not _is_whole(answer) and (piece := await stream.receive_some()):
                    answer += piece
        except (OSError, trio.BrokenResourceError):
            pass
        finally:
            if stream is not None:
                with trio.CancelScope(shield=True):
                    await stream.aclose()
        if not _is_whole(answer):
            return 0, None
        said = answer.partition(b"\r\n\r\n")[2]
        return int(answer[9:12]), json.loads(said) if said else None

    # --- what is there ---

    def members(self, conversation_id: UUID) -> set[UUID]:
        return set(self.data._conversations[conversation_id].members)

    def owner(self, conversation_id: UUID) -> User:
        owner_id = self.data._conversations[conversation_id].owner_id
        return next(user for user in (*self.users, *self.crowd) if user.id == owner_id)

    def last_rev(self, conversation_id: UUID, kinds: int = Kind.ALL) -> int:
        """The highest rev of these kinds."""
        stored = self.data._conversations[conversation_id]
        revs = {
            Kind.MESSAGE: stored.message_rev,
            Kind.MEMBER: stored.members_rev,
            Kind.CONVERSATION: stored.properties_rev,
        }
        return max(rev for kind, rev in revs.items() if kind & kinds)

    def last_me_rev(self, user: User) -> int:
        """The highest rev of the user's own sequence."""
        return self.data._accounts[user.id].last_rev

    def note_rows(self) -> None:
        """Puts what the store holds into the history."""
        for conversation_id in (*self.conversations, *self.quiet):
            stored = self.data._conversations[conversation_id]
            rows = sorted(stored.messages, key=lambda row: row.seq)
            self.history.add("rows", conversation=str(conversation_id), rows=[row_of(row) for row in rows])
            members = sorted(str(user_id) for user_id in stored.members)
            self.history.add("members", conversation=str(conversation_id), users=members)
            positions = {str(key): member.read_seq for key, member in stored.members.items()}
            self.history.add("positions", conversation=str(conversation_id), positions=positions)
            self.history.add("has_properties", **properties_of(stored.properties()))


@contextmanager
def deterministic(world: World) -> Iterator[None]:
    """Takes the service's sources of chance from the seed, and writes its log into the history."""
    before = structlog.get_config()

    def note(_logger: object, level: str, event: dict[str, Any]) -> Any:
        problem = event.pop("exc_info", None)
        text = repr(problem) if isinstance(problem, BaseException) else ""
        if problem is True or level == "exception":
            text = "".join(traceback.format_exc().splitlines(keepends=True)[-6:])
        if event.get("event") in COUNTED:
            world.history.count(event["event"])
        world.history.add("log", level=level, **{f"log_{k}": str(v) for k, v in event.items()}, problem=text)
        raise structlog.DropEvent

    structlog.configure(processors=[note], wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=False)
    real_hub, real_passwords = pulse_trio.app.Hub, pulse_trio.app.Passwords
    bounds = [(member_updates, "MAX_USERS_A_TURN", 1), (room, "MAX_USERS_A_TURN", 1)]
    # Sometimes small pages, so that a resume takes several; and sometimes other tasks run within one delivery.
    pages, deliveries = world.rand("pages").choice((1, 3, 256)), world.rand("deliveries").choice((1, 2, 1_000))
    bounds += [(catch_up, "PAGE_CHANGES", pages), (user_feeds, "PAGE_CHANGES", pages)]
    bounds += [(feed, "MAX_DELIVERIES_A_TURN", deliveries)]
    bounds += [(lobby, "MAX_MEMBERSHIPS", world.rand("memberships").choice((1, 1_000)))]
    bounds += [(rooms_behind, "MAX_OPENING", world.rand("openings").choice((1, 2, 32)))]
    bounds += [(comparison, "MAX_COMPARED", world.rand("compared").choice((1, 1_000)))]
    bounds += [(known_heads, "MAX_BEGINNINGS", world.rand("beginnings").choice((1, 10_000)))]
    bounds += [(comparison, "SWEEP", 1e6)]  # it would hide what a comparison must find when it is asked for
    bounds += [(feed, "MAX_HELD", world.rand("held").choice((1, 3, 1_000)))]
    bounds_before = [(module, name, getattr(module, name)) for module, name, _ in bounds]
    for module, name, value in bounds:
        setattr(module, name, value)

    def hub(*args: Any, **options: Any) -> Hub:
        bus = options.get("bus")
        return real_hub(*args, **options, rand=world.rand("jitter" if bus is None else f"jitter {bus.jitter}"))

    def one_passwords(parallel: int) -> Passwords:  # its hash takes 30 ms
        if not _PASSWORDS:
            _PASSWORDS.append(real_passwords(parallel))
        return _PASSWORDS[0]

    # What a run leaves behind must not be frozen: there are hundreds in a process.
    tune, pulse_trio.app.tune_garbage_collector = pulse_trio.app.tune_garbage_collector, lambda: None
    pulse_trio.app.Hub = hub  # type: ignore[misc,assignment]
    pulse_trio.app.Passwords = one_passwords  # type: ignore[misc,assignment]
    install(world.settings)
    try:
        with counted(world.history):
            yield
    finally:
        pulse_trio.app.tune_garbage_collector = tune
        pulse_trio.app.Hub = real_hub  # type: ignore[misc]
        for module, name, value in bounds_before:
            setattr(module, name, value)
        pulse_trio.app.Passwords = real_passwords  # type: ignore[misc]
        structlog.configure(**before)


_PASSWORDS: list[Passwords] = []


def _is_whole(answer: bytes) -> bool:
    """True for an HTTP response with its whole body."""
    head, end, body = answer.partition(b"\r\n\r\n")
    found = re.search(rb"content-length: *([0-9]+)", head, re.IGNORECASE)
    return bool(end) and len(body) >= (0 if found is None else int(found[1]))


async def quietly_closed(stream: End) -> None:
    """Closes it, also while cancelled."""
    with trio.CancelScope(shield=True), contextlib.suppress(trio.BrokenResourceError):
        await stream.aclose()
