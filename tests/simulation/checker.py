"""Checks a history for broken promises. It shares no code with the service, and reads nothing but the history.

Each violation begins with the name of the promise that was broken.
"""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.history import Event, History

MESSAGES = ("message", "message_updated", "message_deleted")
KINDS = dict.fromkeys(MESSAGES, "message") | {"member": "member", "conversation": "conversation"}  # by type of frame
REPLACED = {"added": "member", "removed": "member", "renamed": "conversation"}  # events that these kinds replace
REMOVED = 4403  # close code
FORBIDDEN = 403  # status of a handshake
EXPIRY_SLACK = 0.5  # virtual seconds
# Virtual seconds after which an addition with a lost answer must be known; and in all other processes, one that was
# answered.
KNOWN_AFTER = 20.0
# With several processes a read position may come before the removal of a user whom it is sent to.
READS_WAIT_FOR_REMOVALS = False
MAX_BATCH = 16  # messages that are answered together


FEATURE_OF = {"member": "members", "conversation": "conversation"}


def _kinds(features: str | None) -> frozenset[str]:
    asked = _names(features)
    return frozenset({"message", *(kind for kind, name in FEATURE_OF.items() if name in asked)})


def _names(features: str | None) -> set[str]:
    return set() if features is None else set(features.split(","))


@dataclass
class _Connection:
    """A connection, as far as the history shows it."""

    device: str
    user: str
    conversation: str
    opened: int  # index of the event
    after: int | None
    features: str | None
    is_session: bool = False
    joined: int = -1
    rev: int = 0
    active: list[str] = field(default_factory=list)
    sent_ids: set[str] = field(default_factory=set)  # client_ids of messages, ids of messages that it changed
    is_gone: bool = False
    unanswered: list["_Sent"] = field(default_factory=list)
    order: list[str] = field(default_factory=list)  # client_ids of messages as they were sent, without the refused
    baseline: int | None = None  # of a session whose user was added: live from here on, or a little before
    expires: float = math.inf  # the expiry of its token, in the history's time
    is_replayed: bool = False  # of a session: its first changes may come from the store
    kinds: frozenset[str] = frozenset()  # of the changes that it is sent
    process: str = ""

    def __post_init__(self) -> None:
        self.kinds = _kinds(self.features)


@dataclass
class _Sent:
    """A pending message: `frames` counts the changes that its sender got since a later message was answered."""

    client_id: str
    frames: int = -1


@dataclass
class _Walk:
    """A walk through a list over REST: `until` is the seq below which messages come next."""

    began: int
    seen: list[str] = field(default_factory=list)
    until: int | None = None


class Checker:
    """Reads a history once, in order."""

    def __init__(self, history: History) -> None:
        self.violations: list[str] = []
        self._history = history
        self._connections: dict[int, _Connection] = {}
        self._committed: dict[str, dict[int, Event]] = defaultdict(dict)  # conversation → rev → commit
        self._kind: dict[str, dict[int, str]] = defaultdict(dict)  # conversation → rev → kind of its object
        self._object: dict[str, dict[int, str]] = defaultdict(dict)  # conversation → rev → its object
        self._latest: dict[str, dict[str, int]] = defaultdict(dict)  # conversation → object → rev
        self._first_seen: dict[tuple[str, str, int], int] = {}  # process, conversation, rev → its first delivery there
        self._next_rev: dict[tuple[str, int], int] = {}  # conversation, rev → that of the object's next change
        self._last_seq: dict[str, int] = defaultdict(int)
        self._active: dict[str, int] = {}  # conversation → the event of its last activity
        self._replicas: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)  # device → seq → frame
        self._member_replicas: dict[str, dict[str, tuple[int, bool]]] = {}  # device → user → rev, True for a member
        self._property_replicas: dict[str, tuple[int, Any, Any, str]] = {}  # device → rev, name, description, owner
        self._since: dict[str, int] = {}  # device → the rev that its replica begins after
        self._place: dict[str, str] = {}  # device → conversation
        self._owner: dict[str, str] = {}  # device → user
        self._sent: dict[str, dict[str, str]] = defaultdict(dict)  # device → client_id → content
        self._acknowledged: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._stored_as: dict[tuple[str, str, str], str] = {}  # conversation, sender, client_id → message
        self._posted_as: dict[tuple[str, str, str], int] = {}  # conversation, sender, client_id → rev of the post
        self._sends: Counter[str] = Counter()
        self._sent_on: dict[tuple[str, int], set[str]] = {}  # device, session → ids, as in `_Connection`
        self._members: dict[str, set[str]] = defaultdict(set)
        self._member_states: dict[str, dict[str, tuple[int, bool]]] = defaultdict(dict)  # as in `_member_replicas`
        self._counts: dict[str, dict[int, int]] = defaultdict(dict)  # conversation → rev → number of members
        self._properties: dict[str, tuple[int, Any, Any, str]] = {}  # conversation → as in `_property_replicas`
        self._was_member: dict[tuple[str, str], int] = {}  # the last event that added or removed them
        self._last_in: dict[tuple[str, str], int] = {}  # the last event that added them
        self._in_since: dict[tuple[str, str], float] = {}  # the time of the commit that made them a member
        self._sessions: dict[int, int] = {}  # number of a session → the event that opened it
        self._out_since: dict[tuple[str, str], int] = {}  # the rev of the removal of users who are no members
        self._last_out: dict[tuple[str, str], int] = {}  # the last event that removed them
        self._asked: dict[int, int] = {}  # request for an addition → the event that began it
        self._known_in: dict[tuple[str, str], float] = {}  # the event since which a membership is known
        self._probes: dict[int, tuple[int, float]] = {}  # session → the event and the time of its latest probe
        self._first_sent: dict[str, int] = {}  # client_id → event
        self._is_up = False  # whether a service has run
        self._rows: dict[str, list[dict[str, Any]]] = {}
        # Process, conversation, rev: received by connections that did not resume. And those that none may receive.
        self._seen_live: set[tuple[str, str, int]] = set()
        self._skipped_live: set[tuple[str, str, int]] = set()
        self._positions: dict[tuple[str, str], int] = defaultdict(int)  # conversation, user → their read position
        self._marks: dict[tuple[str, str], set[int]] = defaultdict(lambda: {0})  # the positions that they have sent
        self._received: dict[tuple[int, str], int] = {}  # connection, user → the last position that it received
        self._posting: dict[tuple[str, str], int] = {}  # conversation, user → the event of their latest POST
        self._careful: dict[tuple[str, str], int] = {}  # conversation, content of an edit → the rev that it asked for
        self._walks: dict[tuple[str, str, str], _Walk] = {}
        # user → me_rev → conversation, True for a member, read position; and the latest of each conversation
        self._own: dict[str, dict[int, tuple[str, bool, int]]] = defaultdict(dict)
        self._own_latest: dict[str, dict[str, int]] = defaultdict(dict)
        self._own_replicas: dict[str, dict[str, tuple[bool, int]]] = {}  # device → conversation → member, read position
        self._me: dict[str, int] = {}  # device → its me_rev
        self._is_cluster = False
        self._broken = 0  # faults injected into a room and not logged yet

    def check(self) -> list[str]:
        """Returns the violations, in the order in which they were found."""
        for index, event in enumerate(self._history.events):
            handler = getattr(self, f"_on_{event.kind}", None)
            if handler is not None:
                handler(index, event)
        for device, replica in self._replicas.items():
            self._check_replica(device, replica)
        for conversation, rows in self._rows.items():
            self._check_rows(conversation, rows)
        return self.violations

    def _fail(self, promise: str, text: str, event: Event | None = None) -> None:
        where = "" if event is None else f" (at {event.at:.4f})"
        self.violations.append(f"{promise}: {text}{where}")

    # --- the store and the members ---

    def _on_processes(self, index: int, event: Event) -> None:
        self._is_cluster = event.count > 1

    def _on_up(self, index: int, event: Event) -> None:
        self._is_up = True

    def _note_commit(self, index: int, event: Event, kind: str, what: str) -> None:
        """Takes a commit of an object."""
        where = event.conversation
        commits = self._committed[where]
        if event.rev != len(commits) + 1:
            self._fail("rev has no gap", f"rev {event.rev} was given out after {len(commits)}", event)
        commits[event.rev] = event
        self._kind[where][event.rev] = kind
        self._object[where][event.rev] = what
        self._counts[where][event.rev] = len(self._members[where])
        if what in self._latest[where]:
            self._next_rev[where, self._latest[where][what]] = event.rev
        self._latest[where][what] = event.rev

    def _on_member_in(self, index: int, event: Event) -> None:
        key = event.conversation, event.user
        if not self._is_up:
            self._known_in[key] = index
        self._members[event.conversation].add(event.user)
        self._out_since.pop(key, None)
        self._last_in[key] = index
        self._in_since[key] = event.at
        # A new member starts with everything read.
        start = self._last_seq[event.conversation]
        self._positions[key] = start
        # A mark of a message that did not exist yet may still be pending since before the removal.
        pending = {seq for seq in self._marks[key] if seq > start}
        self._marks[key] = {start, *pending}
        self._note_member(index, event, is_member=True)

    def _on_member_out(self, index: int, event: Event) -> None:
        key = event.conversation, event.user
        self._known_in.pop(key, None)
        self._members[event.conversation].discard(event.user)
        self._out_since[key] = event.rev
        self._last_out[key] = index
        self._note_member(index, event, is_member=False)

    def _note_member(self, index: int, event: Event, *, is_member: bool) -> None:
        self._was_member[event.conversation, event.user] = index
        self._member_states[event.conversation][event.user] = event.rev, is_member
        self._active[event.conversation] = index
        if event.rev:
            self._note_commit(index, event, "member", event.user)
        self._note_own(event, is_member=is_member)

    def _note_own(self, event: Event, *, is_member: bool) -> None:
        """Takes a change of the user's own sequence."""
        log, latest = self._own[event.user], self._own_latest[event.user]
        if event.user_rev != len(log) + 1:
            self._fail("me_rev has no gap", f"{event.user_rev} was given out after {len(log)}", event)
        read_seq = event.data.get("read_seq", event.data.get("seq", 0)) if is_member else 0
        log[event.user_rev] = event.conversation, is_member, read_seq
        latest[event.conversation] = event.user_rev

    def _on_properties(self, index: int, event: Event) -> None:
        self._active[event.conversation] = index
        self._properties[event.conversation] = event.rev, event.name, event.description, event.owner
        if event.rev:
            self._note_commit(index, event, "conversation", "properties")

    def _on_position(self, index: int, event: Event) -> None:
        key = event.conversation, event.user
        if event.seq < self._positions[key]:
            what = f"{event.user} had {self._positions[key]}, and now {event.seq}"
            self._fail("a read position never goes back", what, event)
        if event.seq > self._last_seq[event.conversation]:
            self._fail("a read message exists", f"{event.user} has read {event.seq}, which does not exist", event)
        if event.seq not in self._marks[key]:
            self._fail("a read position is what was asked for", f"{event.user} never asked for {event.seq}", event)
        self._positions[key] = event.seq
        if event.data.get("user_rev", 0) > len(self._own[event.user]):
            self._note_own(event, is_member=True)

    def _on_commit(self, index: int, event: Event) -> None:
        self._active[event.conversation] = index
        is_out = event.sender not in self._members[event.conversation]
        if is_out and (event.id not in self._latest[event.conversation] or (event.edited and not event.deleted)):
            what = f"{event.client_id} as seq {event.seq}, rev {event.rev}"
            self._fail("nothing of a removed member is stored", what, event)
        before = self._latest[event.conversation].get(event.id)
        asked_for = self._careful.get((event.conversation, event.content))
        if asked_for is not None and before != asked_for:
            self._fail("no edit of another rev", f"{event.content} of rev {before}, asked for {asked_for}", event)
        self._note_commit(index, event, "message", event.id)
        self._last_seq[event.conversation] = max(self._last_seq[event.conversation], event.seq)
        self._stored_as[event.conversation, event.sender, event.client_id] = event.id
        self._posted_as.setdefault((event.conversation, event.sender, event.client_id), event.rev)

    def _on_addition_asked(self, index: int, event: Event) -> None:
        self._asked[event.request] = index

    def _on_addition_answered(self, index: int, event: Event) -> None:
        if event.status == 200:
            for user in event.users:
                key = event.conversation, user
                # A user removed since the request may have been added again by another request, still pending.
                is_in = user in self._members[event.conversation]
                if is_in and self._last_out.get(key, -1) < self._asked[event.request]:
                    self._known_in.setdefault(key, index)

    # --- connections ---

    def _on_open(self, index: int, event: Event) -> None:
        connection = self._connections[event.connection] = _Connection(
            event.device,
            event.user,
            event.conversation,
            index,
            event.after,
            event.data.get("features"),
            expires=event.expires,
            process=event.data.get("process", ""),
        )
        if "session" in event.data:
            connection.is_session = True
            # A frame sent before the removal may be answered after the user was added again.
            connection.sent_ids = self._sent_on.setdefault((event.device, event.session), set())
            connection.joined = index
            connection.rev = event.after or 0
            # Changes before its resume was read come from the store, each message in its state by then.
            connection.is_replayed = True
            if event.after is None:
                connection.baseline = connection.rev = len(self._committed[event.conversation])
                self._load(event.device, event.conversation, connection.baseline)
            else:
                self._resume(event.device, event.conversation)
        self._place[event.device] = event.conversation
        self._owner[event.device] = event.user

    def _load(self, device: str, conversation: str, rev: int) -> None:
        """Takes it that a device loads the conversation as it now is; frames up to `rev` are no news to it."""
        self._replicas[device] = {}
        self._since[device] = rev
        self._member_replicas[device] = dict(self._member_states[conversation])
        self._property_replicas[device] = self._properties.get(conversation, (0, None, None, ""))

    def _resume(self, device: str, conversation: str) -> None:
        """Takes it that a device goes on with what it has; at first, with the conversation as it was created."""
        self._since.setdefault(device, 0)
        first = dict.fromkeys(self._created(conversation), (0, True))
        self._member_replicas.setdefault(device, first)
        self._property_replicas.setdefault(device, (0, "Group", None, ""))

    def _created(self, conversation: str) -> list[str]:
        """Returns the members that the conversation was created with."""
        events = self._history.events
        return [e.user for e in events if e.kind == "member_in" and not e.rev and e.conversation == conversation]

    def _on_gone(self, index: int, event: Event) -> None:
        self._connections[event.connection].is_gone = True

    def _on_renewed(self, index: int, event: Event) -> None:
        connection = self._connections[event.connection]
        connection.expires = max(connection.expires, event.expires)

    def _on_sent(self, index: int, event: Event) -> None:
        frame = event.frame
        connection = self._connections[event.connection]
        if frame["type"] == "message":
            connection.sent_ids.add(frame["client_id"])
            self._sends[frame["client_id"]] += 1
            self._first_sent.setdefault(frame["client_id"], index)
            connection.unanswered.append(_Sent(frame["client_id"]))
            connection.order.append(frame["client_id"])
            self._sent[event.device][frame["client_id"]] = frame["content"]
        elif "message_id" in frame:
            connection.sent_ids.add(frame["message_id"])
        elif frame["type"] == "read":
            key = connection.conversation, connection.user
            self._marks[key].add(frame["seq"])
            if frame["seq"] > self._last_seq[connection.conversation]:
                self._history.count("a mark of an unknown seq")
            elif frame["seq"] < self._positions[key]:
                self._history.count("a mark behind")

    def _on_frame(self, index: int, event: Event) -> None:
        frame = event.frame
        connection = self._connections[event.connection]
        kind = frame["type"]
        if connection.is_gone and kind != "error":
            self._fail("nothing after the end", f"{connection.device} got {_brief(frame)}", event)
        self._check_still_in(event, connection.user, connection.conversation, frame)
        if frame.get("conversation_id", connection.conversation) != connection.conversation:
            self._fail("only members get frames", f"{connection.device} got {_brief(frame)}", event)
        if kind == "system":
            self._on_system(index, event, connection, frame)
        elif connection.joined < 0:
            if kind != "error":
                self._fail("the first frame is `joined`", f"{connection.device} got {_brief(frame)}", event)
        elif kind in KINDS:
            self._on_change(index, event, connection, frame)
        elif kind == "read":
            self._on_read(event, connection, frame)
        self._check_answered(event, connection, frame)
        self._check_order(event, connection, frame)
        if kind == "error" and frame["code"] == "not_a_member" and "client_id" in frame:
            self._check_stays_in(event, connection.user, connection.conversation, self._first_sent[frame["client_id"]])
        if kind == "error" and frame["code"] in {"client_id_reused", "invalid_frame", "cannot_resume"}:
            self._fail("no refusal without reason", f"{connection.device} got {_brief(frame)}", event)

    def _check_still_in(self, event: Event, user: str, conversation: str, frame: dict[str, Any]) -> None:
        """Checks that a frame tells a user nothing that was committed after their removal."""
        stands_at = frame.get("rev", frame.get("last_rev"))
        if frame["type"] == "read" and self._is_cluster and not READS_WAIT_FOR_REMOVALS:
            return
        if frame["type"] == "read":  # no rev is below its seq
            stands_at = max(position["seq"] for position in frame["positions"])
        removed_at = self._out_since.get((conversation, user))
        if removed_at is not None and stands_at is not None and stands_at > removed_at:
            what = f"{event.device}, whose user was removed at rev {removed_at}, got {_brief(frame)}"
            self._fail("a removed member gets nothing", what, event)

    def _check_answered(self, event: Event, connection: _Connection, frame: dict[str, Any]) -> None:
        """Checks that messages of a connection are answered in order, except within a batch."""
        client_id = frame.get("client_id")
        if frame["type"] == "message_deleted":
            commit = self._committed[connection.conversation].get(frame["rev"])
            client_id = None if commit is None else commit.client_id
        is_own = frame["type"] == "error" or frame.get("sender_id") == connection.user
        place = next((n for n, sent in enumerate(connection.unanswered) if sent.client_id == client_id), None)
        if place is not None and is_own:
            del connection.unanswered[place]
            if self._sends[client_id] == 1:  # a resent message: this may be the answer to any of its copies
                for sent in connection.unanswered[:place]:
                    sent.frames = max(sent.frames, 0)
        for sent in connection.unanswered:
            if sent.frames >= 0 and frame["type"] in MESSAGES:
                sent.frames += 1
                # A stored message may come later, during a catch-up; the replica at the end would lack it otherwise.
                is_to_come = (connection.conversation, connection.user, sent.client_id) in self._stored_as
                if is_to_come:
                    sent.frames = 0
                elif sent.frames > MAX_BATCH:
                    self._fail("every message is answered", f"{connection.device} got no answer to {sent}", event)
                    connection.unanswered = []
                    return

    def _check_order(self, event: Event, connection: _Connection, frame: dict[str, Any]) -> None:
        """Checks that messages of a connection are stored in the order in which it sent them.

        Not one that was refused: it may be stored later. Nor one that was sent again.
        """
        client_id = frame.get("client_id")
        if client_id not in connection.order:
            return
        if frame["type"] == "error":
            connection.order.remove(client_id)
        elif frame["type"] == "message" and frame["sender_id"] == connection.user and self._sends[client_id] == 1:
            for later in connection.order[connection.order.index(client_id) + 1 :]:
                rev = self._posted_as.get((connection.conversation, connection.user, later), math.inf)
                if rev < frame["rev"] and self._sends[later] == 1:
                    what = f"{connection.device} sent {later} after {client_id}, which was stored later"
                    self._fail("a connection's messages keep their order", what, event)

    def _on_system(self, index: int, event: Event, connection: _Connection, frame: dict[str, Any]) -> None:
        connection.active = frame["active_users"]
        # A session that asks in `resume` may be sent, before the answer, what it has asked for in the handshake.
        asked = _kinds(event.data.get("features", connection.features))
        if REPLACED.get(frame["event"]) in asked:
            self._fail("only what was asked for", f"{connection.device} got {_brief(frame)}", event)
        if connection.joined >= 0:
            return
        connection.joined = index
        self._check_features(event, connection.device, connection.features, frame, is_session=False)
        changed = self._was_member.get((connection.conversation, connection.user), -1)
        if connection.user not in self._members[connection.conversation] and changed < connection.opened:
            self._fail("only members get frames", f"{connection.device} joined and is not a member", event)
        if connection.after is None:
            connection.rev = frame["last_rev"]
            self._load(connection.device, connection.conversation, frame["last_rev"])
        else:
            connection.rev = connection.after
            self._resume(connection.device, connection.conversation)

    def _check_features(
        self, event: Event, device: str, features: str | None, frame: dict[str, Any], *, is_session: bool
    ) -> None:
        """Checks that the answer has the features that were asked for, and that exist; none if none were."""
        known = {"members", "conversation", *(("me",) if is_session else ())}
        right = None if features is None else sorted(known & _names(features))
        if frame.get("features") != right:
            self._fail("features are answered", f"{device} asked for {features}, got {frame}", event)

    def _on_read(self, event: Event, connection: _Connection, frame: dict[str, Any]) -> None:
        for position in frame["positions"]:
            user, seq = position["user_id"], position["seq"]
            if seq < self._received.get((event.connection, user), 0):
                self._fail("a read position never goes back", f"{connection.device} got {seq} for {user}", event)
            self._received[event.connection, user] = seq
            is_member = user in self._members[connection.conversation]
            if is_member and seq > self._positions[connection.conversation, user]:
                self._fail("stored before sent", f"{connection.device} got {seq} for {user}", event)

    def _on_change(self, index: int, event: Event, connection: _Connection, frame: dict[str, Any]) -> None:
        kind, where = KINDS[frame["type"]], connection.conversation
        if kind not in connection.kinds:
            self._fail("only what was asked for", f"{connection.device} got {_brief(frame)}", event)
            return
        revs = [entry["rev"] for entry in frame["members"]] if kind == "member" else [frame["rev"]]
        if revs[-1] != frame["rev"]:
            self._fail("delivered as stored", f"{connection.device} got {_brief(frame)} with {revs}", event)
        for rev in revs:
            commit = self._committed[where].get(rev)
            if commit is None or self._kind[where][rev] != kind:
                self._fail("stored before delivered", f"{connection.device} got rev {rev}, not committed so", event)
                return
            if commit.at > connection.expires + EXPIRY_SLACK:
                what = f"{connection.device} got rev {rev} of {commit.at:.3f}, its token ended at {connection.expires}"
                self._fail("no connection outlives its token", what, event)
        known = None if connection.baseline is not None else connection.rev
        is_answer = self._take_revs(index, event, connection, revs, frame)
        self._check_prev_rev(event, connection, revs[0], known, is_answer=is_answer)
        if kind == "message":
            self._take_message(event, connection, frame)
        elif kind == "member":
            self._take_members(event, connection, frame)
        else:
            self._take_properties(event, connection, frame)

    def _take_revs(
        self, index: int, event: Event, connection: _Connection, revs: list[int], frame: dict[str, Any]
    ) -> bool:
        """Checks that these revs come next; returns True for an answer to what this client sent, which need not."""
        device, where = connection.device, connection.conversation
        is_answer = bool({frame.get("client_id"), frame.get("message_id")} & connection.sent_ids)
        is_answer = is_answer or self._committed[where][revs[0]].data.get("client_id") in connection.sent_ids
        for rev in revs:
            self._check_present(event, connection, rev)
            self._first_seen.setdefault((connection.process, where, rev), index)
            if connection.baseline is not None and rev <= connection.baseline:
                if is_answer:
                    return True
                connection.rev = rev  # committed before the client had read of its addition
                connection.baseline = None
            elif rev <= connection.rev:
                if not is_answer:
                    what = f"{device} on connection {event.connection} got rev {rev} after {connection.rev}"
                    self._fail("no repeat", what, event)
                return True
            else:
                self._check_skipped(event, connection, rev)
                connection.rev = rev
                connection.baseline = None
            if connection.after is None and not connection.is_replayed:
                self._seen_live.add((connection.process, where, rev))
                if (connection.process, where, rev) in self._skipped_live:
                    self._fail("no gap", f"{device} got rev {rev}, which others did not", event)
        return False

    def _check_present(self, event: Event, connection: _Connection, rev: int) -> None:
        """Checks that a client that resumes gets each object as it is by then, not as it was before."""
        where = connection.conversation
        later = self._next_rev.get((where, rev))
        # A later change that nobody has got yet, as its answer was lost, may be unknown to the service, too.
        seen = math.inf if later is None else self._first_seen.get((connection.process, where, later), math.inf)
        if connection.after is not None and seen < connection.opened and not connection.sent_ids:
            what = f"{connection.device} got rev {rev}, whose object had rev {later} before it resumed"
            self._fail("an object comes as it is", what, event)

    def _check_prev_rev(
        self, event: Event, connection: _Connection, rev: int, known: int | None, *, is_answer: bool
    ) -> None:
        """Checks `prev_rev` of a frame that begins with `rev`, when the client had everything up to `known`.

        None: the client has just loaded the conversation, while frames were on their way.
        """
        prev_rev, where = event.frame.get("prev_rev"), connection.conversation
        if connection.features is None or prev_rev is None:
            if prev_rev is not None or connection.features is not None:
                self._fail("a right prev_rev", f"{connection.device} got {_brief(event.frame)}", event)
            return
        kinds = self._kind[where]
        if is_answer and prev_rev == rev - 1:
            return  # an answer stands for itself
        if known is None:  # between the two nothing else of its kinds may stand
            between = [r for r in range(prev_rev + 1, rev) if kinds.get(r) in connection.kinds]
            right = prev_rev < rev and not any(self._is_current(where, each) for each in between)
        else:
            # The last change that it has, or one before it if what it has since has changed again.
            after = [r for r in range(prev_rev + 1, known + 1) if kinds.get(r) in connection.kinds]
            right = prev_rev <= known and not any(self._is_current(where, each) for each in after)
        if not right:
            what = f"{connection.device} got {_brief(event.frame)} with prev_rev {prev_rev} after {known}"
            self._fail("a right prev_rev", what, event)

    def _is_current(self, conversation: str, rev: int) -> bool:
        """Returns True if its object has not changed since."""
        return self._latest[conversation][self._object[conversation][rev]] == rev

    def _take_message(self, event: Event, connection: _Connection, frame: dict[str, Any]) -> None:
        device, rev, seq = connection.device, frame["rev"], frame["seq"]
        commit = self._committed[connection.conversation][rev]
        content = "" if frame["type"] == "message_deleted" else frame["content"]
        told = (seq, frame["message_id"], content, frame["sender_id"])
        if told != (commit.seq, commit.id, "" if commit.deleted else commit.content, commit.sender):
            self._fail("delivered as stored", f"{device} got {_brief(frame)} for rev {rev}", event)
        known = self._replicas[device].get(seq)
        # The history that it loaded when it opened is newer than frames that were on their way then.
        if rev > self._since[device] and (known is None or known["rev"] < rev):
            self._replicas[device][seq] = frame
        client_id = frame.get("client_id")
        if client_id in self._sent[device] and frame["sender_id"] == connection.user:
            self._acknowledged[connection.conversation, connection.user, client_id] = frame

    def _take_members(self, event: Event, connection: _Connection, frame: dict[str, Any]) -> None:
        where, replica = connection.conversation, self._member_replicas[connection.device]
        for entry in frame["members"]:
            commit = self._committed[where][entry["rev"]]
            told = entry["user_id"], entry["is_member"], str(entry["actor_id"])
            if told != (commit.user, commit.kind == "member_in", commit.actor):
                self._fail("delivered as stored", f"{connection.device} got {entry} for {commit}", event)
            if replica.get(entry["user_id"], (-1, False))[0] < entry["rev"]:
                replica[entry["user_id"]] = entry["rev"], entry["is_member"]
        counts = {count for rev, count in self._counts[where].items() if rev >= frame["rev"]}
        if frame["member_count"] not in counts:
            self._fail("delivered as stored", f"{connection.device} got a count of {frame['member_count']}", event)

    def _take_properties(self, event: Event, connection: _Connection, frame: dict[str, Any]) -> None:
        commit = self._committed[connection.conversation][frame["rev"]]
        told = frame["rev"], frame["name"], frame["description"], frame["owner_id"]
        if (*told, str(frame["actor_id"])) != (commit.rev, commit.name, commit.description, commit.owner, commit.actor):
            self._fail("delivered as stored", f"{connection.device} got {frame} for {commit}", event)
        if self._property_replicas[connection.device][0] < frame["rev"]:
            self._property_replicas[connection.device] = told

    def _check_skipped(self, event: Event, connection: _Connection, rev: int) -> None:
        where = connection.conversation
        for skipped in range(connection.rev + 1, rev):
            if self._kind[where].get(skipped) not in connection.kinds:
                continue
            is_superseded = not self._is_current(where, skipped)
            place = connection.process, where, skipped
            is_live = connection.after is None and not connection.is_replayed
            if connection.after is None and (not is_superseded or (is_live and place in self._seen_live)):
                self._fail("no gap", f"{connection.device} got rev {rev}, not {skipped}", event)
            elif is_live:
                # The answer to its commit was lost, and its object changed again before any delivery: skipped for all.
                self._history.count("a superseded rev that nobody saw")
                self._skipped_live.add(place)
                continue
            elif not is_superseded:
                what = f"{connection.device}, resumed after {connection.after}, got rev {rev}, not {skipped}"
                self._fail("no gap at resume", what, event)
            else:
                self._history.count("a skipped rev at resume")
                continue
            return

    def _on_gap(self, index: int, event: Event) -> None:
        """Checks a gap that a session saw: its user was removed, and added again, since the last change it had."""
        connection = self._connections[event.connection]
        commits = self._committed[event.conversation].values()
        if not any(c.kind == "member_out" and c.user == event.user and c.rev > connection.rev for c in commits):
            what = f"{event.device} has rev {connection.rev}, got {_brief(event.frame)}"
            self._fail("no gap", what, event)

    def _on_settled(self, index: int, event: Event) -> None:
        """Compares what a connected device has in the calm with what is stored."""
        connection, device = self._connections[event.connection], event.device
        where, kinds = connection.conversation, self._kind[connection.conversation]
        known = max(connection.rev, self._since.get(device, 0))  # a session may have loaded more than it was sent
        unheard = [rev for rev in range(known + 1, len(kinds) + 1) if kinds.get(rev) in connection.kinds]
        if unheard:
            self._fail("every rev is heard of", f"{device} has rev {connection.rev}, not {unheard}", event)
        if "member" in connection.kinds:
            has = {user for user, (_, is_member) in self._member_replicas[device].items() if is_member}
            if has != self._members[where]:
                what = f"{device} has {sorted(has)}, members are {sorted(self._members[where])}"
                self._fail("all end with the same members", what, event)
        if "conversation" in connection.kinds:
            name, stored = self._property_replicas[device][1:3], self._properties[where][1:3]
            if name != stored:
                self._fail("all end with the same name", f"{device} has {name}, stored is {stored}", event)

    # --- the user's own sequence ---

    def _on_session(self, index: int, event: Event) -> None:
        self._sessions[event.connection] = index
        if event.frame.get("type") != "session":
            return
        self._check_features(event, event.device, event.features, event.frame, is_session=True)
        self._check_begin(event, event.features, event.frame, event.frame["user_id"])

    def _on_features(self, index: int, event: Event) -> None:
        self._check_features(event, event.device, event.features, event.frame, is_session=True)

    def _check_begin(self, event: Event, features: str | None, frame: dict[str, Any], user: str) -> None:
        me_rev = frame.get("me_rev")
        is_right = me_rev is not None and 0 <= me_rev <= len(self._own[user])
        if is_right != ("me" in _names(features)) or (me_rev is not None and not is_right):
            self._fail("features are answered", f"{event.device} asked for {features}, got {frame}", event)

    def _on_me(self, index: int, event: Event) -> None:
        """Takes it that a device begins to follow its user's own sequence after `me`."""
        self._me[event.device] = event.me
        if event.is_loaded:
            latest = self._own_latest[event.user]
            self._own_replicas[event.device] = {where: self._own[event.user][rev][1:] for where, rev in latest.items()}

    def _on_membership(self, index: int, event: Event) -> None:
        frame, device = event.frame, event.device
        rev, log, latest = frame["me_rev"], self._own[event.user], self._own_latest[event.user]
        if "me" not in _names(event.features) or device not in self._me:
            self._fail("only what was asked for", f"{device} got {frame}", event)
            return
        known = self._me[device]
        told = frame["conversation_id"], frame["is_member"], frame["read_seq"]
        if rev not in log:
            self._fail("stored before delivered", f"{device} got me_rev {rev}, not committed", event)
            return
        if told != log[rev]:
            self._fail("delivered as stored", f"{device} got {frame}, stored is {log[rev]}", event)
        if rev <= known:
            self._fail("no repeat of memberships", f"{device} got me_rev {rev} after {known}", event)
            return
        # As with `prev_rev`: the last change that it has, or one before it.
        after = range(frame["prev_me_rev"] + 1, known + 1)
        if frame["prev_me_rev"] > known or any(latest[log[each][0]] == each for each in after):
            self._fail("a right prev_me_rev", f"{device} got {frame} after {known}", event)
        for skipped in range(known + 1, rev):
            if latest[log[skipped][0]] == skipped:
                self._fail("no gap in memberships", f"{device} got me_rev {rev} after {known}, not {skipped}", event)
            self._history.count("a skipped me_rev")
        self._me[device] = rev
        self._own_replicas[device][told[0]] = told[1:]

    def _on_me_settled(self, index: int, event: Event) -> None:
        latest, has = self._own_latest[event.user], self._own_replicas[event.device]
        stored = {where: self._own[event.user][rev][1:] for where, rev in latest.items()}
        if has != stored:
            self._fail("memberships converge", f"{event.device} has {has}, stored is {stored}", event)

    def _on_told(self, index: int, event: Event) -> None:
        if "me" in _names(event.features):
            self._fail("only what was asked for", f"{event.device} got {event.frame}", event)

    def _on_resume_refused(self, index: int, event: Event) -> None:
        self._fail("no refusal without reason", f"{event.device} got {event.frame}", event)

    # --- over REST ---

    def _on_editing(self, index: int, event: Event) -> None:
        self._careful[event.conversation, event.content] = event.if_rev

    def _on_edit_answered(self, index: int, event: Event) -> None:
        if event.status not in {0, 200, 404, 409, 503}:
            self._fail("no refusal without reason", f"{event.content} was answered with {event.status}", event)
        if event.status == 409:
            current = event.body["current"]
            commit = self._committed[event.conversation].get(current["rev"])
            if current["rev"] == event.if_rev or commit is None or commit.data.get("id") != event.message:
                self._fail("no refusal without reason", f"{event.content} was refused with {current}", event)
            elif commit.content != current["content"]:
                self._fail("delivered as stored", f"{event.content} was refused with {current}", event)

    def _on_walk(self, index: int, event: Event) -> None:
        self._walks[event.user, event.what, event.conversation] = _Walk(index)

    def _on_walked_wrong(self, index: int, event: Event) -> None:
        self._fail("no refusal without reason", f"a page of {event.what} was answered with {event.status}", event)

    def _on_page(self, index: int, event: Event) -> None:
        """Checks that a page has nothing that an earlier page has, and that messages follow each other."""
        walk = self._walks[event.user, event.what, event.conversation]
        repeated = set(event.ids) & set(walk.seen)
        if event.what == "members":  # one who was removed and added since is at the end of the list again
            moved = {user for user in repeated if self._was_member[event.conversation, user] > walk.began}
            repeated -= moved
        if repeated or len(set(event.ids)) != len(event.ids):
            self._fail("a page repeats nothing", f"{event.what} {sorted(repeated)} of {event.ids}", event)
        walk.seen += event.ids
        for key in event.ids if event.what == "messages" else ():
            seq, rev, content = event.rows[key]
            commit = self._committed[event.conversation].get(rev)
            if commit is None or (commit.data.get("id"), commit.seq, commit.content) != (key, seq, content):
                self._fail("delivered as stored", f"a page has rev {rev} of {key} as {content[:40]}", event)
            if walk.until is not None and seq != walk.until - 1:
                self._fail("a walk leaves nothing out", f"seq {seq} came after {walk.until}", event)
            walk.until = seq

    def _on_walked(self, index: int, event: Event) -> None:
        """Checks a whole walk: it has everything that was in the list all the time, where it was."""
        walk = self._walks.pop((event.user, event.what, event.conversation))
        if event.what == "messages":
            lacks = walk.until not in {None, 1} or (walk.until is None and self._last_seq[event.conversation] > 0)
            missing = [str(walk.until)] if lacks and walk.until is not None else []
        elif event.what == "members":
            keys = ((user, self._was_member[event.conversation, user]) for user in self._members[event.conversation])
            missing = [user for user, changed in keys if changed < walk.began and user not in walk.seen]
        else:
            mine = [where for where, users in self._members.items() if event.user in users]
            missing = [where for where in mine if self._active[where] < walk.began and where not in walk.seen]
        if missing:
            self._fail("a walk leaves nothing out", f"{event.what} {missing}", event)

    def _on_posting(self, index: int, event: Event) -> None:
        self._posting[event.conversation, event.user] = index

    def _on_posted(self, index: int, event: Event) -> None:
        """Takes the answer to a message over REST: an acknowledgement with its position."""
        key = event.conversation, event.user, event.client_id
        if event.status not in {0, 200, 201, 404, 503}:
            self._fail("no refusal without reason", f"{event.client_id} was answered with {event.status}", event)
        if event.id is None:
            return
        if self._stored_as.get(key) != event.id:
            self._fail("stored before delivered", f"{event.client_id} was answered, and is not committed", event)
        is_out = event.user not in self._members[event.conversation]
        if is_out and self._was_member[event.conversation, event.user] < self._posting[event.conversation, event.user]:
            self._fail("a removed member gets nothing", f"{event.client_id} was answered with {event.status}", event)
        self._acknowledged[key] = {"seq": event.seq, "message_id": event.id}

    # --- the end ---

    def _on_rows(self, index: int, event: Event) -> None:
        self._rows[event.conversation] = event.rows

    def _on_members(self, index: int, event: Event) -> None:
        self._members[event.conversation] = set(event.users)

    def _on_connected(self, index: int, event: Event) -> None:
        """Compares the users that are connected now with what every connection was sent."""
        for number in event.connections:
            connection = self._connections[number]
            if set(connection.active) != set(event.users):
                what = f"{connection.device} has {len(connection.active)}, connected are {len(event.users)}"
                self._fail("presence converges", what, event)
            if len(connection.active) != len(set(connection.active)):
                self._fail("presence converges", f"{connection.device} has a user twice", event)

    def _on_watched(self, index: int, event: Event) -> None:
        """Compares the presence that a session was sent with the truth."""
        known = {event.user}.union(*(users for users in self._members.values() if event.user in users))
        known &= set(event.asked_for)
        if event.told != {user: user in event.online for user in known}:
            what = f"{event.device} has {event.told}, online are {event.online}, visible to it are {sorted(known)}"
            self._fail("online status converges", what, event)

    def _on_has_read(self, index: int, event: Event) -> None:
        """Checks the position of a connected device that has marked the last message that it saw."""
        if self._positions[event.conversation, event.user] < event.seq or event.told < event.seq:
            self._fail(
                "a read position is stored and sent", f"{event.device} read {event.seq}, got {event.told}", event
            )

    def _on_positions(self, index: int, event: Event) -> None:
        for user, seq in event.positions.items():
            if seq != self._positions[event.conversation, user]:
                what = f"{user} ended at {seq}, not at {self._positions[event.conversation, user]}"
                self._fail("a read position is kept", what, event)

    def _on_wrong(self, index: int, event: Event) -> None:
        self._fail("the first frame is `session`", event.what, event)

    def _on_early(self, index: int, event: Event) -> None:
        self._fail("only `session` comes first", f"{event.device} got {_brief(event.frame)}", event)

    def _on_put_out(self, index: int, event: Event) -> None:
        self._check_stays_in(event, event.user, event.conversation, self._sessions[event.session])

    def _on_closed(self, index: int, event: Event) -> None:
        if event.code == REMOVED:
            since = self._connections[event.connection].opened
            self._check_stays_in(event, event.user, event.conversation, since)

    def _on_refused(self, index: int, event: Event) -> None:
        if event.status == FORBIDDEN:
            since = self._connections[event.connection].opened
            self._check_stays_in(event, event.user, event.conversation, since)

    def _check_stays_in(self, event: Event, user: str, conversation: str, since: int) -> None:
        """Checks a user who is rejected as no member: they must not have been a member all the time since then."""
        if self._is_known_in(conversation, user, since):
            self._fail("a member stays in", f"a device of {user} was rejected: {event}", event)

    def _is_known_in(self, conversation: str, user: str, at: int) -> bool:
        """Returns True if all processes know at an event that a user is a member."""
        known = self._known_in.get((conversation, user))
        if known is None or known >= at:
            return False
        events = self._history.events
        return not self._is_cluster or events[known].at < events[at].at - KNOWN_AFTER

    def _on_probed(self, index: int, event: Event) -> None:
        self._probes[event.session] = index, event.at

    def _on_missed(self, index: int, event: Event) -> None:
        key, (probed, at) = (event.conversation, event.user), self._probes[event.session]
        is_known = self._known_in.get(key, math.inf) < probed and not self._is_cluster
        if is_known or self._in_since[key] < at - KNOWN_AFTER:
            self._fail("an added user gets what follows", f"{event.device} is not in {event.conversation}", event)

    def _on_unheard(self, index: int, event: Event) -> None:
        key = event.conversation, event.user
        self._check_still_in(event, event.user, event.conversation, event.frame)
        if self._last_in[key] < self._sessions.get(event.removed_from, 0):  # removed, and not added since
            self._fail("a removed member gets nothing", f"a session got {_brief(event.frame)}", event)

    def _on_stuck(self, index: int, event: Event) -> None:
        self._fail("everything ends well", event.what, event)

    def _on_leak(self, index: int, event: Event) -> None:
        self._fail("nothing leaks", event.what, event)

    def _on_broken(self, index: int, event: Event) -> None:
        self._broken += 1

    def _on_log(self, index: int, event: Event) -> None:
        if event.log_event == "a room failed" and self._broken:
            self._broken -= 1  # injected
        elif event.level in {"error", "critical", "exception"}:
            self._fail("no fault inside", str(event), event)

    def _check_replica(self, device: str, replica: dict[int, dict[str, Any]]) -> None:
        """Compares a device's history at the end with the store's."""
        conversation, since = self._place[device], self._since.get(device, 0)
        if self._owner[device] not in self._members[conversation] or conversation not in self._rows:
            return
        for row in self._rows[conversation]:
            frame = replica.get(row["seq"])
            if frame is None:
                if row["rev"] > since:
                    self._fail("all end with the same history", f"{device} lacks seq {row['seq']} (rev {row['rev']})")
                    return
            elif frame["rev"] != row["rev"] or frame["message_id"] != row["id"]:
                what = f"{device} has rev {frame['rev']} of seq {row['seq']}, the store rev {row['rev']}"
                self._fail("all end with the same history", what)
                return
        beyond = set(replica) - {row["seq"] for row in self._rows[conversation]}
        if beyond:
            self._fail("all end with the same history", f"{device} has seqs {sorted(beyond)}, which the store lacks")

    def _check_rows(self, conversation: str, rows: list[dict[str, Any]]) -> None:
        if [row["seq"] for row in rows] != list(range(1, len(rows) + 1)):
            self._fail("seq has no gap", f"the seqs are {[row['seq'] for row in rows]}")
        keys = Counter((row["sender"], row["client_id"]) for row in rows)
        for (_, client_id), count in keys.items():
            if count > 1 and client_id is not None:
                self._fail("one message for a client_id", f"{client_id} was stored {count} times")
        stored = {(row["sender"], row["client_id"]): row for row in rows}
        for (where, sender, client_id), frame in self._acknowledged.items():
            if where != conversation:
                continue
            row = stored.get((sender, client_id))
            if row is None or (row["seq"], row["id"]) != (frame["seq"], frame["message_id"]):
                self._fail("acknowledged is kept", f"{client_id} was acknowledged as seq {frame['seq']}")
        messages = [c for c in self._committed[conversation].values() if c.kind == "commit"]
        edits = Counter(commit.content for commit in messages if commit.edited and not commit.deleted)
        for content, count in edits.items():
            if count > 1 and len(content.split()) == 2:
                self._history.count("an edit made more than once")


def _brief(frame: dict[str, Any]) -> str:
    shown = ("type", "event", "code", "seq", "rev", "last_rev", "client_id", "content")
    return " ".join(f"{name}={str(frame[name])[:40]}" for name in shown if name in frame)
