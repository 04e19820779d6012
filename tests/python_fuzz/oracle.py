"""Promises of the client, judged when a round is over by what the server answers over REST.

Each violation begins with the name of the promise that was broken.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from uuid import UUID

from pulse_trio.client import GroupDetails, Member, Message, User


@dataclass
class Sent:
    """A message that a bot sent, perhaps several times with the same `client_id`.

    Attributes:
        acknowledged: the messages that its sends returned.
        is_refused: a send was rejected for good.
        is_uncertain: a send was cancelled, or failed without saying that the message is not stored.
    """

    group: UUID
    sender: UUID
    client_id: str
    content: str
    acknowledged: list[Message] = field(default_factory=list)
    is_refused: bool = False
    is_uncertain: bool = False


@dataclass
class Revised:
    """An edit or a deletion of a message.

    Attributes:
        content: None: a deletion.
        is_done: it was acknowledged.
        is_refused: it was rejected for good.
        rev: of an acknowledged edit.
    """

    message: UUID
    content: str | None
    is_done: bool = False
    is_refused: bool = False
    rev: int = 0


@dataclass
class View:
    """A conversation as a program shows it that has all events from its beginning and nothing else.

    Attributes:
        user: whose it is.
        rev, epoch: the position of the room after the last event; both survive rooms and clients.
        message_rev: the highest rev of a message.
        members: user id → the last record of them.
        violations: what no event may do.
    """

    user: str
    group: UUID
    rev: int = 0
    epoch: str | None = None
    message_rev: int = 0
    messages: dict[int, Message] = field(default_factory=dict)
    members: dict[UUID, Member] = field(default_factory=dict)
    details: GroupDetails | None = None
    violations: list[str] = field(default_factory=list)

    def fail(self, promise: str, text: object) -> None:
        self.violations.append(f"{promise}: {self.user} in {self.group}: {text}")

    def show(self, message: Message, *, is_new: bool) -> None:
        """Applies an event of a message."""
        known = self.messages.get(message.seq)
        if message.rev <= self.message_rev:
            self.fail("events come once, in order", f"{message} after rev {self.message_rev}")
        if is_new and known is not None:
            self.fail("a new message is new", message)
        if known is not None and known.id != message.id:
            self.fail("a seq is one message", f"{known} and {message}")
        self.message_rev = max(self.message_rev, message.rev)
        self.messages[message.seq] = message

    def learn(self, member: Member) -> None:
        """Applies a record of a member."""
        known = self.members.get(member.user_id)
        if known is not None and known.rev >= member.rev:
            self.fail("events come once, in order", f"{member} after {known}")
        self.members[member.user_id] = member

    def is_member(self, user_id: UUID) -> bool:
        """Returns True unless the last record of the user says that they left."""
        return user_id not in self.members or self.members[user_id].is_member

    def name(self, details: GroupDetails) -> None:
        """Applies a name, description or owner. Two events may tell of one change."""
        if self.details is not None and details.rev < self.details.rev:
            self.fail("events come once, in order", f"{details} after {self.details}")
        self.details = details


@dataclass(frozen=True)
class Truth:
    """A conversation as the server has it at the end."""

    group: UUID
    last_rev: int
    name: str | None
    description: str | None
    messages: list[Message]
    members: frozenset[User]
    first_members: frozenset[UUID]
    """The users that it was created with."""


@dataclass
class Records:
    """The acts of the bots of a round, and their answers."""

    sent: dict[str, Sent] = field(default_factory=dict)  # by client_id
    revised: list[Revised] = field(default_factory=list)
    seen: dict[tuple[UUID, int], Message] = field(default_factory=dict)  # (id, rev) → the record
    views: list[View] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def saw(self, message: Message) -> None:
        """Compares a record with every other of the same rev, from wherever it came."""
        known = self.seen.setdefault((message.id, message.rev), message)
        if known != message:
            self.violations.append(f"records of one rev are equal: {known} and {message}")


def judge(records: Records, truths: list[Truth]) -> list[str]:
    """Returns the violations of a round."""
    found = list(records.violations)
    for truth in truths:
        for message in truth.messages:
            records.saw(message)
    found += records.violations[len(found) :]
    stored = {message.id: message for truth in truths for message in truth.messages}
    for truth in truths:
        found += _judge_history(truth, records)
        for view in records.views:
            if view.group == truth.group:
                found += view.violations + _judge_view(view, truth)
    found += _judge_sent(records, stored)
    found += _judge_revised(records, stored)
    return found


def _judge_history(truth: Truth, records: Records) -> list[str]:
    found = []
    seqs = [message.seq for message in truth.messages]
    if seqs != list(range(1, len(seqs) + 1)):
        found.append(f"a history has no gap: {truth.group}: {seqs}")
    ids: dict[str, UUID] = {}
    for message in truth.messages:
        sent = records.sent.get(message.client_id or "")
        if sent is None or (sent.group, sent.sender) != (truth.group, message.sender_id):
            found.append(f"what is stored was sent: {message}")
        elif ids.setdefault(sent.client_id, message.id) != message.id:
            found.append(f"a message is stored once: {sent.client_id} is {ids[sent.client_id]} and {message}")
    return found


def _judge_view(view: View, truth: Truth) -> list[str]:
    found = []
    about = f"{view.user} in {view.group}"
    if view.rev != truth.last_rev:
        found.append(f"a room catches up: {about} is at {view.rev}, not {truth.last_rev}")
    for message in truth.messages:
        shown = view.messages.pop(message.seq, None)
        if shown != message:
            found.append(f"events show what the server has: {about} shows {shown}, not {message}")
    found += [f"events show what the server has: {about} also shows {m}" for m in view.messages.values()]
    shown_members = set(truth.first_members) - set(view.members)
    shown_members |= {member.user_id for member in view.members.values() if member.is_member}
    members = {user.id for user in truth.members}
    if shown_members != members:
        found.append(f"events show who is a member: {about}: {shown_members ^ members}")
    if view.details is not None and (view.details.name, view.details.description) != (truth.name, truth.description):
        found.append(f"events show the name: {about}: {view.details}, not {truth.name!r}")
    return found


def _judge_sent(records: Records, stored: dict[UUID, Message]) -> list[str]:
    found = []
    by_client_id = {message.client_id: message for message in stored.values()}
    for sent in records.sent.values():
        message = by_client_id.get(sent.client_id)
        place = None if message is None else (message.id, message.seq)
        lost = [known for known in sent.acknowledged if (known.id, known.seq) != place]
        found += [f"acknowledged is stored: {known} is {message}" for known in lost]
        if sent.is_refused and message is not None and not sent.acknowledged and not sent.is_uncertain:
            found.append(f"rejected is not stored: {message}")
        if not (sent.acknowledged or sent.is_refused or sent.is_uncertain):
            found.append(f"every send ends: {sent}")
    return found


def _judge_revised(records: Records, stored: dict[UUID, Message]) -> list[str]:
    """A message is as its last edit left it; one without an answer may have come at any time, or not at all."""
    found = []
    acts: dict[UUID, list[Revised]] = defaultdict(list)
    for revised in records.revised:
        if not revised.is_refused:
            acts[revised.message].append(revised)
    for message in stored.values():
        done = [act for act in acts[message.id] if act.is_done]
        edits = [act for act in done if act.content is not None]
        possible = {act.content for act in acts[message.id] if not act.is_done}
        if len(edits) < len(done):
            possible = {None}
        elif edits:
            possible.add(max(edits, key=lambda act: act.rev).content)
        elif sent := records.sent.get(message.client_id or ""):
            possible.add(sent.content)
        if (None if message.is_deleted else message.content) not in possible:
            found.append(f"a message is as it was left: {message}, not {possible}")
        if any(act.rev > message.rev for act in edits):
            found.append(f"acknowledged is stored: {message} is older than {edits}")
    return found
