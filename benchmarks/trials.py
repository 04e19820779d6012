"""The trials: each tries one promise on a running server, as a client would see it.

Every trial has conversations of its own, so that one does not disturb the next.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from benchmarks.client import Tally, connect
from benchmarks.dialects import Lost
from benchmarks.mechanisms import Mechanisms, Seen, mechanisms_of
from benchmarks.observed import FailedStore, Frozen, Order, Restart, SentTwice, Verdict
from benchmarks.processes import family
from benchmarks.provision import Rooms
from benchmarks.targets import Running
from benchmarks.witness import Witness

FIRST_ROOM, MEMBERS = 9_000, 8
TWICE, ORDER, FREEZE, BESIDE, FAIL, RESTART = range(FIRST_ROOM, FIRST_ROOM + 6)
ROOMS = [Rooms(room, 1, MEMBERS, shared=True) for room in (TWICE, ORDER, FREEZE, BESIDE, FAIL, RESTART)]
READER, SENDER, OTHER = 0, 1, 2  # users

ARRIVAL = 20.0  # seconds within which a message must come
TABLE_AWAY = 3.0  # seconds
FROZEN = 4.0  # seconds
PING_EVERY = 0.1  # seconds, while the database stands still
TYPE_EVERY = 1.1  # seconds: our server sends the typing of a user once a second
EACH = 300  # messages of each sender in the trial of the order
BATCH = 100  # messages of each sender in each part of the trial of the restart


class Trial:
    """One server, and the connections that a trial opens to it."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.by: Mechanisms = mechanisms_of(running.target.dialect, ours=running.target.ours)
        self._opened: list[Witness] = []
        self._number = 0
        self._read: dict[Witness, tuple[int, list[Seen]]] = {}  # number of frames read, and their messages

    async def connect(self, room: int, user: int, more: str = "") -> Witness:
        self._number += 1
        port = self.running.process.port
        witness = await connect(Witness, self.running.target.dialect, port, room, user, self._number, Tally(), more)
        witness.port = port
        self._opened.append(witness)
        return witness

    def send(self, witness: Witness, content: str) -> None:
        """Sends a message whose name is its text."""
        witness.send(self.by.message(witness.room, content, content))

    def seen(self, witness: Witness) -> list[Seen]:
        """Returns the messages that a client got, in order."""
        count, found = self._read.get(witness, (0, []))
        found += [seen for frame in witness.frames[count:] if (seen := self.by.read(frame)) is not None]
        self._read[witness] = len(witness.frames), found
        return list(found)

    def contents(self, witness: Witness) -> list[str]:
        return [seen.content for seen in self.seen(witness)]

    async def arrives(self, witness: Witness, content: str, seconds: float = ARRIVAL) -> bool:
        """Waits for a message; returns False if it does not come in time."""
        return await witness.wait(lambda: content in self.contents(witness), seconds)

    async def history(self, room: int) -> list[str]:
        """Returns the texts of the history, oldest first, as a member reads them."""
        witness = await self.connect(room, READER)
        return [seen.content for seen in await self.by.history(witness)]

    async def close(self) -> None:
        for witness in self._opened:
            await witness.close()


async def sent_twice(trial: Trial) -> Verdict:
    """A message is sent, and after a reconnect sent again as the same."""
    reader, sender = await trial.connect(TWICE, READER), await trial.connect(TWICE, SENDER)
    trial.send(sender, "same-1")
    if not await trial.arrives(sender, "same-1"):
        raise Lost("a message did not come")
    sender.cut()
    again = await trial.connect(TWICE, SENDER)
    trial.send(again, "same-1")
    await asyncio.sleep(0.5)
    trial.send(again, "end-1")
    await trial.arrives(reader, "end-1")
    stored = await trial.history(TWICE)
    return SentTwice(trial.contents(reader).count("same-1"), stored.count("same-1"), trial.by.ids).verdict()


async def order(trial: Trial) -> Verdict:
    """Two senders send 300 messages each without waiting; three others read."""
    readers = [await trial.connect(ORDER, user) for user in range(3)]
    senders = [await trial.connect(ORDER, user) for user in (3, 4)]
    sent = [[f"{name}-{number}" for number in range(EACH)] for name in "ab"]
    await _send_all(trial, senders, sent)
    for reader in readers:
        await reader.wait(lambda reader=reader: len(trial.seen(reader)) >= 2 * EACH, ARRIVAL)  # type: ignore[misc]
    return Order(sent, [trial.contents(reader) for reader in readers], await trial.history(ORDER)).verdict()


async def frozen_database(trial: Trial) -> Verdict:
    """The processes of PostgreSQL are stopped for four seconds, while a message waits to be stored."""
    reader, sender = await trial.connect(FREEZE, READER), await trial.connect(FREEZE, SENDER)
    typist, watcher = await trial.connect(BESIDE, SENDER), await trial.connect(BESIDE, OTHER)
    trial.send(sender, "first-1")
    if not await trial.arrives(reader, "first-1"):
        raise Lost("a message did not come")
    with _stopped(trial.running.cluster.pid):
        end = time.monotonic() + FROZEN
        trial.send(sender, "waiting-1")
        await asyncio.sleep(PING_EVERY)
        pings, typing, beside = await asyncio.gather(
            _probe(end, PING_EVERY, reader, reader.ping, lambda: len(reader.pongs)),
            _probe(end, TYPE_EVERY, watcher, typist.type, lambda: sum(map(trial.by.is_typing, watcher.frames))),
            _probe(end, TYPE_EVERY, sender, reader.type, lambda: sum(map(trial.by.is_typing, sender.frames))),
        )
    return Frozen(pings, typing, beside, await trial.arrives(reader, "waiting-1")).verdict()


async def failed_store(trial: Trial) -> Verdict:
    """The table of the messages is away for three seconds, while one is sent."""
    reader, sender = await trial.connect(FAIL, READER), await trial.connect(FAIL, SENDER)
    trial.send(sender, "first-1")
    if not (await trial.arrives(reader, "first-1") and await trial.arrives(sender, "first-1")):
        raise Lost("a message did not come")
    table = trial.by.table
    await trial.running.run(f"ALTER TABLE {table} RENAME TO {table}_away")
    try:
        trial.send(sender, "lost-1")
        await asyncio.sleep(TABLE_AWAY)
    finally:
        await trial.running.run(f"ALTER TABLE {table}_away RENAME TO {table}")
    if not trial.running.process.is_running:
        return FailedStore(shown=False, stored=False, answer="", serves=False, ended=True).verdict()

    def answer() -> str:
        if any(map(trial.by.is_error, sender.frames)):
            return "an error"
        return "a closed connection" if sender.gone.done() else ""

    await sender.wait(lambda: bool(answer()) or "lost-1" in trial.contents(sender), ARRIVAL)
    other = await trial.connect(FAIL, OTHER)
    trial.send(other, "after-1")
    serves = await trial.arrives(reader, "after-1") and await trial.arrives(other, "after-1")
    stored = "lost-1" in await trial.history(FAIL)
    shown = "lost-1" in trial.contents(reader)
    return FailedStore(shown=shown, stored=stored, answer=answer(), serves=serves, ended=False).verdict()


async def restart(trial: Trial) -> Verdict:
    """A reader loses its connection while two others send; then the server is killed while they send."""
    reader = await trial.connect(RESTART, READER)
    senders = [await trial.connect(RESTART, user) for user in (SENDER, OTHER)]
    sending = asyncio.create_task(_send_all(trial, senders, _names("a", "b")))
    await reader.wait(lambda: len(trial.seen(reader)) >= BATCH, ARRIVAL)
    reader.cut()
    known = trial.seen(reader)
    await sending
    for sender in senders:
        await sender.wait(lambda sender=sender: len(trial.seen(sender)) >= 2 * BATCH, ARRIVAL)  # type: ignore[misc]
    sending = asyncio.create_task(_send_all(trial, senders, _names("c", "d")))
    await senders[0].wait(lambda: len(trial.seen(senders[0])) >= 2 * BATCH + BATCH // 2, ARRIVAL)
    trial.running.kill()
    await asyncio.gather(sending, return_exceptions=True)  # the connections are gone
    acknowledged = {content for sender in senders for content in trial.contents(sender)}

    await trial.running.launch()
    again = await trial.connect(RESTART, SENDER)
    trial.send(again, "between-1")
    if not await trial.arrives(again, "between-1"):
        raise Lost("a message did not come after the restart")
    resumed = await trial.by.resume(reader, known, lambda more: trial.connect(RESTART, READER, more))
    trial.send(again, "end-1")
    await trial.arrives(resumed.witness, "end-1")
    after = trial.by.merge(known, resumed, trial.seen(resumed.witness))
    stored = await trial.history(RESTART)
    before = [seen.content for seen in known]
    return Restart(before, [seen.content for seen in after], sorted(acknowledged), stored, resumed.how).verdict()


PROMISES: dict[str, Callable[[Trial], Awaitable[Verdict]]] = {
    "the store fails: only what is stored is shown, and the sender learns it": failed_store,
    "sent twice, a message is stored and shown once": sent_twice,
    "one order: of each sender, for all readers, in the history": order,
    "the database stands still for 4 s: pings and typing go on": frozen_database,
    "resume after SIGKILL and a restart: nothing missed, nothing twice": restart,
}


@asynccontextmanager
async def trial_of(running: Running) -> AsyncIterator[Trial]:
    """Opens a trial on a running server; closes its connections at the end."""
    trial = Trial(running)
    try:
        yield trial
    finally:
        await trial.close()


async def _send_all(trial: Trial, senders: Sequence[Witness], messages: Sequence[Sequence[str]]) -> None:
    """Each sender sends its messages, one right after the other."""
    for together in zip(*messages, strict=True):
        for sender, content in zip(senders, together, strict=True):
            trial.send(sender, content)
        await asyncio.sleep(0)


def _names(*senders: str) -> list[list[str]]:
    return [[f"{name}-{number}" for number in range(BATCH)] for name in senders]


async def _probe(
    end: float, every: float, witness: Witness, send: Callable[[], None], count: Callable[[], int]
) -> float | None:
    """Sends something again and again until `end`; returns the longest time until it came, None if one never did."""
    longest = 0.0
    while (now := time.monotonic()) < end:
        before = count()
        send()
        if not await witness.wait(lambda before=before: count() > before, end - now):  # type: ignore[misc]
            return None
        longest = max(longest, time.monotonic() - now)
        await asyncio.sleep(every)
    return longest


@contextmanager
def _stopped(root: int) -> Iterator[None]:
    """Stops a process and its descendants for the block: first the parent, which would start others."""
    stopped = []
    try:
        for pid in family(root):
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
