"""Checks a history for broken promises. It shares no code with the service, and reads nothing but the history.

Each violation begins with the name of the promise that was broken.
"""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.history import Event, History

CHANGES = ("message", "message_updated", "message_deleted")
REMOVED = 4403  # close code
FORBIDDEN = 403  # status of a handshake
EXPIRY_SLACK = 0.5  # virtual seconds
MAX_BATCH = 16  # messages that are answered together


@dataclass
class _Connection:
    """A connection, as far as the history shows it."""

    device: str
    user: str
    conversation: str
    opened: int  # index of the event
    after: int | None
    joined: int = -1
    rev: int = 0
    active: list[str] = field(default_factory=list)
    sent_ids: set[str] = field(default_factory=set)  # client_ids of messages, ids of messages that it changed
    ended_at_rev: int | None = None  # its user was removed when the conversation was at this rev
    unanswered: list["_Sent"] = field(default_factory=list)
    baseline: int | None = None  # of a session whose user was added: live from here on, or a little before
    expires: float = math.inf  # the expiry of its token, in the history's time
    is_replayed: bool = False  # of a session: its first changes may come from the store


@dataclass
class _Sent:
    """A pending message: `frames` counts the changes that its sender got since a later message was answered."""

    client_id: str
    frames: int = -1


@dataclass
class _Request:
    """A request over REST to change one user's membership, and what happened since."""

    is_removal: bool
    ins: int = 0  # how often the user was added since
    outs: int = 0  # how often the user was removed since
    is_alone: bool = True  # no other removal of this user was pending


class Checker:
    """Reads a history once, in order."""

    def __init__(self, history: History) -> None:
        self.violations: list[str] = []
        self._history = history
        self._connections: dict[int, _Connection] = {}
        self._committed: dict[str, dict[int, Event]] = defaultdict(dict)  # conversation → rev → commit
        self._latest: dict[str, dict[str, int]] = defaultdict(dict)  # conversation → message → rev
        self._replicas: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)  # device → seq → frame
        self._since: dict[str, int] = {}  # device → the rev that its replica begins after
        self._place: dict[str, str] = {}  # device → conversation
        self._owner: dict[str, str] = {}  # device → user
        self._sent: dict[str, dict[str, str]] = defaultdict(dict)  # device → client_id → content
        self._acknowledged: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._stored_as: dict[tuple[str, str, str], str] = {}  # conversation, sender, client_id → message
        self._sends: Counter[str] = Counter()
        self._sent_on: dict[tuple[str, int], set[str]] = {}  # device, session → ids, as in `_Connection`
        self._members: dict[str, set[str]] = defaultdict(set)
        self._was_member: dict[tuple[str, str], int] = {}  # the last event that added or removed them
        self._last_in: dict[tuple[str, str], int] = {}  # the last event that added them
        self._sessions: dict[int, int] = {}  # number of a session → the event that opened it
        self._removed_at: dict[tuple[str, str], int] = {}  # the rev at the answer to a removal that is in force
        self._requests: dict[tuple[str, str], dict[int, _Request]] = defaultdict(dict)  # pending ones
        self._known_in: dict[tuple[str, str], float] = {}  # the event since which a membership is known
        self._probes: dict[int, int] = {}  # session → the event of its latest probe
        self._first_sent: dict[str, int] = {}  # client_id → event
        self._is_up = False  # whether a service has run
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._seen_live: set[tuple[str, int]] = set()  # conversation, rev: received by connections that did not resume
        self._skipped_live: set[tuple[str, int]] = set()  # and those that no such connection may receive
        self._positions: dict[tuple[str, str], int] = defaultdict(int)  # conversation, user → their read position
        self._marks: dict[tuple[str, str], set[int]] = defaultdict(lambda: {0})  # the positions that they have sent
        self._received: dict[tuple[int, str], int] = {}  # connection, user → the last position that it received
        self._posting: dict[tuple[str, str], int] = {}  # conversation, user → the event of their latest POST
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

    def _on_up(self, index: int, event: Event) -> None:
        self._is_up = True

    def _on_member_in(self, index: int, event: Event) -> None:
        for request in self._requests[event.conversation, event.user].values():
            request.ins += 1
        if not self._is_up:
            self._known_in[event.conversation, event.user] = index
        self._members[event.conversation].add(event.user)
        self._was_member[event.conversation, event.user] = index
        self._removed_at.pop((event.conversation, event.user), None)
        self._last_in[event.conversation, event.user] = index
        # A new member starts with everything read.
        start = len(self._latest[event.conversation])
        self._positions[event.conversation, event.user] = start
        # A mark of a message that did not exist yet may still be pending since before the removal.
        pending = {seq for seq in self._marks[event.conversation, event.user] if seq > start}
        self._marks[event.conversation, event.user] = {start, *pending}

    def _on_position(self, index: int, event: Event) -> None:
        key = event.conversation, event.user
        if event.seq < self._positions[key]:
            what = f"{event.user} had {self._positions[key]}, and now {event.seq}"
            self._fail("a read position never goes back", what, event)
        if event.seq > len(self._latest[event.conversation]):
            self._fail("a read message exists", f"{event.user} has read {event.seq}, which does not exist", event)
        if event.seq not in self._marks[key]:
            self._fail("a read position is what was asked for", f"{event.user} never asked for {event.seq}", event)
        self._positions[key] = event.seq

    def _on_member_out(self, index: int, event: Event) -> None:
        for request in self._requests[event.conversation, event.user].values():
            request.outs += 1
        self._known_in.pop((event.conversation, event.user), None)
        self._members[event.conversation].discard(event.user)
        self._was_member[event.conversation, event.user] = index

    def _on_commit(self, index: int, event: Event) -> None:
        commits = self._committed[event.conversation]
        if event.rev != len(commits) + 1:
            self._fail("rev has no gap", f"rev {event.rev} was given out after {len(commits)}", event)
        if event.id not in self._latest[event.conversation] and event.sender not in self._members[event.conversation]:
            self._fail("nothing of a removed member is stored", f"{event.client_id} as seq {event.seq}", event)
        commits[event.rev] = event
        self._latest[event.conversation][event.id] = event.rev
        self._stored_as[event.conversation, event.sender, event.client_id] = event.id

    def _on_addition_asked(self, index: int, event: Event) -> None:
        self._note_asked(event, is_removal=False)

    def _on_removal_asked(self, index: int, event: Event) -> None:
        self._note_asked(event, is_removal=True)

    def _note_asked(self, event: Event, *, is_removal: bool) -> None:
        for user in event.users:
            requests = self._requests[event.conversation, user]
            request = requests[event.request] = _Request(is_removal)
            for other in requests.values():
                if is_removal and other.is_removal and other is not request:
                    other.is_alone = request.is_alone = False

    def _on_addition_answered(self, index: int, event: Event) -> None:
        for user in event.users:
            key = event.conversation, user
            request = self._requests[key].pop(event.request)
            # A user removed since the request may have been added again by another request, still pending.
            if event.status == 200 and not request.outs and user in self._members[event.conversation]:
                self._known_in.setdefault(key, index)
                if not request.ins:
                    self._history.count("an addition of a member")

    def _on_removal_answered(self, index: int, event: Event) -> None:
        (user,) = event.users
        key = event.conversation, user
        request = self._requests[key].pop(event.request)
        # The answer must be about this removal, and it must be the last change: a later one may be unknown here.
        holds = {
            204: request.outs == 1,
            404: not request.ins and (request.is_alone or event.actor != user),  # not a member any more: same effect
            503: request.outs == 1 and request.is_alone,  # the membership is uncertain, and looked up again
        }
        if not holds.get(event.status, False) or user in self._members[event.conversation]:
            return
        if any(not other.is_removal and other.ins for other in self._requests[key].values()):
            self._history.count("an addition overtaken by a removal")
        self._removed_at[key] = event.rev
        for connection in self._connections.values():
            if (connection.user, connection.conversation) == (user, event.conversation):
                back = self._was_member[key]
                if connection.opened < index and back < index and connection.ended_at_rev is None:
                    connection.ended_at_rev = event.rev

    # --- connections ---

    def _on_open(self, index: int, event: Event) -> None:
        self._connections[event.connection] = _Connection(
            event.device, event.user, event.conversation, index, event.after, expires=event.expires
        )
        if "session" in event.data:
            connection = self._connections[event.connection]
            # A frame sent before the removal may be answered after the user was added again.
            connection.sent_ids = self._sent_on.setdefault((event.device, event.session), set())
            connection.joined = index
            connection.rev = event.after or 0
            connection.ended_at_rev = self._removed_at.get((event.conversation, event.user))
            # Changes before its resume was read come from the store, each message in its state by then.
            connection.is_replayed = True
            if event.after is None:
                connection.baseline = connection.rev = len(self._committed[event.conversation])
                self._replicas[event.device] = {}
                self._since[event.device] = connection.baseline
            else:
                self._since.setdefault(event.device, 0)
        self._place[event.device] = event.conversation
        self._owner[event.device] = event.user

    def _on_gone(self, index: int, event: Event) -> None:
        self._connections[event.connection].ended_at_rev = 0

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
            self._sent[event.device][frame["client_id"]] = frame["content"]
        elif "message_id" in frame:
            connection.sent_ids.add(frame["message_id"])
        elif frame["type"] == "read":
            key = connection.conversation, connection.user
            self._marks[key].add(frame["seq"])
            if frame["seq"] > len(self._latest[connection.conversation]):
                self._history.count("a mark of an unknown seq")
            elif frame["seq"] < self._positions[key]:
                self._history.count("a mark behind")

    def _on_frame(self, index: int, event: Event) -> None:
        frame = event.frame
        connection = self._connections[event.connection]
        stands_at = frame.get("rev", frame.get("last_rev"))
        if frame["type"] == "read":  # no rev is below its seq
            stands_at = max(position["seq"] for position in frame["positions"])
        limit = connection.ended_at_rev
        is_let_in = connection.joined < 0 and self._is_in_again(connection)
        if limit is not None and stands_at is not None and stands_at > limit and not is_let_in:
            self._fail("a removed member gets nothing", f"{connection.device} got {_brief(frame)}", event)
        if frame.get("conversation_id", connection.conversation) != connection.conversation:
            self._fail("only members get frames", f"{connection.device} got {_brief(frame)}", event)
        if frame["type"] == "system":
            self._on_system(index, event, connection, frame)
        elif connection.joined < 0:
            if frame["type"] != "error":
                self._fail("the first frame is `joined`", f"{connection.device} got {_brief(frame)}", event)
        elif frame["type"] in CHANGES:
            self._on_change(event, connection, frame)
        elif frame["type"] == "read":
            self._on_read(event, connection, frame)
        self._check_answered(event, connection, frame)
        if frame["type"] == "error" and frame["code"] == "not_a_member" and "client_id" in frame:
            self._check_stays_in(event, connection.user, connection.conversation, self._first_sent[frame["client_id"]])
        if frame["type"] == "error" and frame["code"] in {"client_id_reused", "invalid_frame", "cannot_resume"}:
            self._fail("no refusal without reason", f"{connection.device} got {_brief(frame)}", event)

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
            if sent.frames >= 0 and frame["type"] in CHANGES:
                sent.frames += 1
                # A stored message may come later, during a catch-up; the replica at the end would lack it otherwise.
                is_to_come = (connection.conversation, connection.user, sent.client_id) in self._stored_as
                if is_to_come:
                    sent.frames = 0
                elif sent.frames > MAX_BATCH:
                    self._fail("every message is answered", f"{connection.device} got no answer to {sent}", event)
                    connection.unanswered = []
                    return

    def _is_in_again(self, connection: _Connection) -> bool:
        """Returns whether its user was added again after the last answered removal, so that it may join."""
        return (connection.conversation, connection.user) not in self._removed_at

    def _on_system(self, index: int, event: Event, connection: _Connection, frame: dict[str, Any]) -> None:
        connection.active = frame["active_users"]
        if connection.joined >= 0:
            return
        connection.joined = index
        if self._is_in_again(connection):
            connection.ended_at_rev = None
        changed = self._was_member.get((connection.conversation, connection.user), -1)
        if connection.user not in self._members[connection.conversation] and changed < connection.opened:
            self._fail("only members get frames", f"{connection.device} joined and is not a member", event)
        if connection.after is None:
            connection.rev = frame["last_rev"]
            self._replicas[connection.device] = {}
            self._since[connection.device] = frame["last_rev"]
        else:
            connection.rev = connection.after
            self._since.setdefault(connection.device, 0)

    def _on_read(self, event: Event, connection: _Connection, frame: dict[str, Any]) -> None:
        for position in frame["positions"]:
            user, seq = position["user_id"], position["seq"]
            if seq < self._received.get((event.connection, user), 0):
                self._fail("a read position never goes back", f"{connection.device} got {seq} for {user}", event)
            self._received[event.connection, user] = seq
            is_member = user in self._members[connection.conversation]
            if is_member and seq > self._positions[connection.conversation, user]:
                self._fail("stored before sent", f"{connection.device} got {seq} for {user}", event)

    def _on_change(self, event: Event, connection: _Connection, frame: dict[str, Any]) -> None:
        device, rev, seq = connection.device, frame["rev"], frame["seq"]
        commit = self._committed[connection.conversation].get(rev)
        if commit is None:
            self._fail("stored before delivered", f"{device} got rev {rev}, which is not committed", event)
            return
        if commit.at > connection.expires + EXPIRY_SLACK:
            what = f"{device} got rev {rev} of {commit.at:.3f}, its token expired at {connection.expires:.0f}"
            self._fail("no connection outlives its token", what, event)
        content = "" if frame["type"] == "message_deleted" else frame["content"]
        told = (seq, frame["message_id"], content, frame["sender_id"])
        if told != (commit.seq, commit.id, "" if commit.deleted else commit.content, commit.sender):
            self._fail("delivered as stored", f"{device} got {_brief(frame)} for rev {rev}", event)
        is_answer = frame.get("client_id") in connection.sent_ids or frame["message_id"] in connection.sent_ids
        is_answer = is_answer or commit.client_id in connection.sent_ids
        if connection.baseline is not None and rev <= connection.baseline:
            if not is_answer:
                connection.rev = rev  # committed before the client had read of its addition
                connection.baseline = None
        elif rev <= connection.rev:
            if not is_answer:
                what = f"{device} on connection {event.connection} got rev {rev} after {connection.rev}"
                self._fail("no repeat", what, event)
        else:
            self._check_skipped(event, connection, rev)
            connection.rev = rev
            connection.baseline = None
        if connection.after is None and not connection.is_replayed:
            self._seen_live.add((connection.conversation, rev))
            if (connection.conversation, rev) in self._skipped_live:
                self._fail("no gap", f"{device} got rev {rev}, which others did not", event)
        known = self._replicas[device].get(seq)
        # The history that it loaded when it opened is newer than frames that were on their way then.
        if rev > self._since[device] and (known is None or known["rev"] < rev):
            self._replicas[device][seq] = frame
        client_id = frame.get("client_id")
        if client_id in self._sent[device] and frame["sender_id"] == connection.user:
            self._acknowledged[connection.conversation, connection.user, client_id] = frame

    def _check_skipped(self, event: Event, connection: _Connection, rev: int) -> None:
        for skipped in range(connection.rev + 1, rev):
            commit = self._committed[connection.conversation].get(skipped)
            is_superseded = commit is not None and self._latest[connection.conversation][commit.id] > skipped
            place = connection.conversation, skipped
            is_live = connection.after is None and not connection.is_replayed
            if connection.after is None and (not is_superseded or (is_live and place in self._seen_live)):
                self._fail("no gap", f"{connection.device} got rev {rev}, not {skipped}", event)
            elif is_live:
                # The answer to its commit was lost, and the message changed again before any delivery: skipped for all.
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

    # --- over REST ---

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
        """Compares the presence that a session was sent with the truth; it watches all users."""
        known = {event.user}.union(*(users for users in self._members.values() if event.user in users))
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

    def _on_session(self, index: int, event: Event) -> None:
        self._sessions[event.connection] = index

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
        if self._known_in.get((conversation, user), math.inf) < since:
            self._fail("a member stays in", f"a device of {user} was rejected: {event}", event)

    def _on_probed(self, index: int, event: Event) -> None:
        self._probes[event.session] = index

    def _on_missed(self, index: int, event: Event) -> None:
        if self._known_in.get((event.conversation, event.user), math.inf) < self._probes[event.session]:
            self._fail("an added user gets what follows", f"{event.device} is not in {event.conversation}", event)

    def _on_unheard(self, index: int, event: Event) -> None:
        key = event.conversation, event.user
        limit = self._removed_at.get(key)
        is_late = limit is not None and event.frame.get("rev", event.frame.get("last_rev", 0)) > limit
        if is_late or self._last_in[key] < self._sessions.get(event.removed_from, 0):  # removed, and not added since
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
            if count > 1:
                self._fail("one message for a client_id", f"{client_id} was stored {count} times")
        stored = {(row["sender"], row["client_id"]): row for row in rows}
        for (where, sender, client_id), frame in self._acknowledged.items():
            if where != conversation:
                continue
            row = stored.get((sender, client_id))
            if row is None or (row["seq"], row["id"]) != (frame["seq"], frame["message_id"]):
                self._fail("acknowledged is kept", f"{client_id} was acknowledged as seq {frame['seq']}")
        edits = Counter(
            commit.content for commit in self._committed[conversation].values() if commit.edited and not commit.deleted
        )
        for content, count in edits.items():
            if count > 1 and len(content.split()) == 2:
                self._history.count("an edit made more than once")


def _brief(frame: dict[str, Any]) -> str:
    shown = ("type", "event", "code", "seq", "rev", "last_rev", "client_id", "content")
    return " ".join(f"{name}={str(frame[name])[:40]}" for name in shown if name in frame)
