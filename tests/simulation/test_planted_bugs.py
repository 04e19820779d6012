"""The simulation can fail: bugs are planted in the service, and the checker names the promise that each breaks.

Some of them are faults that the service once had: a session that lost what was committed after its first frame,
messages of a removed member, answers that overtook each other, an addition whose answer was lost, a room that opened
with members as they were before. A query that grows with the square of its data cannot be seen here: the store is in
memory.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import trio
from hypercorn.config import Config

from pulse_trio.auth.tokens import Identity
from pulse_trio.conversations import messages
from pulse_trio.conversations.core import Core
from pulse_trio.edge.websocket.reader import Reader
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.model import AddMembers, Change, Command, Kind, Member, Message, MyMembership, Post, User
from pulse_trio.protocol import ConversationRemovedFrame, SessionFrame, encode
from pulse_trio.rooms import feed as feeds
from pulse_trio.rooms import opening, user_feeds
from pulse_trio.rooms.catch_up import CatchUp
from pulse_trio.rooms.change_frames import encode_changes, encode_run, message_frame
from pulse_trio.rooms.connection import Connection
from pulse_trio.rooms.feed import Feed
from pulse_trio.rooms.hold import Hold
from pulse_trio.rooms.hub import Hub
from pulse_trio.rooms.inbox import Inbox, Submission
from pulse_trio.rooms.lobby import Lobby
from pulse_trio.rooms.presence import Presence
from pulse_trio.rooms.room import Room
from pulse_trio.rooms.senders import SubscriptionSender, WaitingSender
from pulse_trio.rooms.session import Session
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.rooms.user_feeds import UserFeeds
from pulse_trio.rooms.watches import Watches
from pulse_trio.rooms.writer import Writer
from pulse_trio.store.base import Head, MemberPage, Members, ReadMark, ReadState, StoreUnavailable
from pulse_trio.store.memory import MemoryStore
from tests.simulation import clients, faults
from tests.simulation.faults import FaultyStore
from tests.simulation.plan import Plan
from tests.simulation.run import simulate
from tests.simulation.shrink import promise_of, shrink

SEEDS = 60  # seeds in which each must be found: in most runs other events hide some of them
# Tried first: seeds that find these soon.
QUICK = {
    "seq_hole": 2,
    "lost_batch_on_retry": 27,
    "off_by_one_at_resume": 2,
    "live_frame_missed_at_the_join_point": 3,
    "edit_missed_by_a_resuming_client": 2,
    "resend_stored_again": 2,
    "join_not_stopped_by_removal": 26,
    "resend_of_a_removed_user_answered": 56,
    "session_resumed_one_too_late": 4,
    "expired_token_kept": 2,
    "client_id_of_a_post_lost": 2,
    "room_ends_under_a_new_connection": 21,
    "dead_peer_kept": 13,
    "watched_after_the_last_shared_conversation": 2,
    "room_that_failed_kept": 2,
    "session_greeted_before_it_is_subscribed": 10,
    "session_sends_before_its_first_frame": 2,
    "out_of_date_addition_applied": 8,
    "addition_with_a_lost_answer_not_sent": 77,
    "message_of_a_removed_member_stored": 4,
    "read_position_not_delivered_to_other_sessions": 2,
    "page_with_a_member_twice": 2,
    "frame_of_a_kind_that_was_not_asked_for": 2,
    "wrong_prev_me_rev": 9,
    "edit_of_another_rev_stored": 35,
    "handed_batch_released_over_a_gap": 182,
    "answer_to_a_handover_forgotten": 2,
    "timed_out_handover_not_rechecked": 3,
}

PLANS = {
    "lost_batch_on_retry": Plan(fault_rate=0.2),
    "addition_with_a_lost_answer_not_sent": Plan(fault_rate=0.2),
    "dead_peer_kept": Plan(often="vanish"),
    "session_greeted_before_it_is_subscribed": Plan(without=frozenset({"features"})),
    "timed_out_handover_not_rechecked": Plan(without=frozenset({"posters", "rivals", "namers"}), fault_rate=0.2),
    "answer_to_a_handover_forgotten": Plan(fault_rate=0.2),
    "handed_batches_exchanged": Plan(often="burst"),
}
"""Runs in which these are more likely."""

Patch = pytest.MonkeyPatch


def guess(new: Post, feed: Feed) -> Message:
    """Returns a message as it may be stored."""
    return Message(
        id=new.id,
        conversation_id=new.conversation_id,
        sender_id=new.actor_id,
        sender_username="",
        content=new.content,
        is_edited=False,
        is_deleted=False,
        created_at=new.at,
        updated_at=new.at,
        seq=feed.last_seq + 1,
        rev=feed.last_rev + 1,
        client_id=new.client_id,
    )


def deliver_before_store(patch: Patch) -> None:
    store_batch = Writer._store_batch

    async def wrong(self: Writer, batch: list[Submission]) -> None:
        feed: Feed = self._release.__self__  # type: ignore[attr-defined]
        if isinstance(batch[0].command, Post):
            await feed._deliver([guess(batch[0].command, feed)])
        await store_batch(self, batch)

    patch.setattr(Writer, "_store_batch", wrong)


def seq_hole(patch: Patch) -> None:
    post = MemoryStore._post

    def wrong(self: MemoryStore, command: Post) -> Message:
        stored = self._conversations[command.conversation_id].messages
        before = len(stored)
        message = post(self, command)
        if len(stored) == before + 1 == 5:
            message = stored[-1] = replace(message, seq=message.seq + 1)
        return message

    patch.setattr(MemoryStore, "_post", wrong)


def rev_hole(patch: Patch) -> None:
    post = MemoryStore._post

    def wrong(self: MemoryStore, command: Post) -> Message:
        conversation = self._conversations[command.conversation_id]
        if len(conversation.messages) == 5:
            conversation.last_rev += 1
        return post(self, command)

    patch.setattr(MemoryStore, "_post", wrong)


def lost_batch_on_retry(patch: Patch) -> None:
    store_batch = Writer._store_batch

    class Lost(Exception):
        pass

    class Once:
        def __init__(self, store: Any) -> None:
            self.store = store

        async def apply(self, commands: Sequence[Command]) -> Any:
            try:
                return await self.store.apply(commands)
            except StoreUnavailable:
                raise Lost from None

        def apply_soon(self, handover: object) -> bool:
            return False

    async def wrong(self: Writer, batch: list[Submission], attempt: Any = None) -> None:
        if not isinstance(self._store, Once):
            self._store = Once(self._store)  # type: ignore[assignment]
        if attempt is not None and isinstance(attempt.answer, StoreUnavailable):
            return
        with contextlib.suppress(Lost):
            await store_batch(self, batch, attempt)

    patch.setattr(Writer, "_store_batch", wrong)
    patch.setattr(clients, "RESEND_AFTER", 1e9)  # a resend would hide it


def off_by_one_at_resume(patch: Patch) -> None:
    catch_up = CatchUp.send_page

    async def wrong(self: CatchUp, subscription: Subscription) -> None:
        if subscription.cursor < subscription.target:
            subscription.cursor += 1
        await catch_up(self, subscription)

    patch.setattr(CatchUp, "send_page", wrong)


def edit_missed_by_a_resuming_client(patch: Patch) -> None:
    changes = MemoryStore.changes

    async def wrong(self: MemoryStore, conversation_id: UUID, *, limit: int, **which: Any) -> list[Change]:
        found = await changes(self, conversation_id, limit=10**9, **which)
        return [change for change in found if not getattr(change, "is_edited", False)][:limit]

    patch.setattr(MemoryStore, "changes", wrong)


def live_frame_missed_at_the_join_point(patch: Patch) -> None:
    async def wrong(self: CatchUp, subscription: Subscription) -> None:
        end, mask = subscription.target, subscription.mask
        while subscription.cursor < end:
            page = await self.read_page(subscription.conversation_id, subscription.cursor, mask & Kind.ALL)
            part = [change for change in page if change.rev <= end]
            if not part:
                break
            frames = [frame for _, frame in encode_changes(part, mask, subscription.cursor)]
            await subscription.connection.send_now(frames, subscription)
            subscription.cursor = part[-1].rev
        subscription.is_live = True

    patch.setattr(CatchUp, "send_page", wrong)


def double_broadcast_on_resend(patch: Patch) -> None:
    release = Feed.release

    async def wrong(self: Feed, stored: Any) -> None:
        known = self.last_rev
        await release(self, stored)
        for _, (message, *_others) in stored:
            if isinstance(message, Message) and message.rev <= known:
                for mask, subscriptions in self._audience.snapshot():
                    for subscription in subscriptions:
                        subscription.deliver(encode_changes([message], mask, known)[0][1])

    patch.setattr(Feed, "release", wrong)


def resend_stored_again(patch: Patch) -> None:
    post = MemoryStore._post

    def wrong(self: MemoryStore, command: Post) -> Message:
        self._resendable.clear()
        return post(self, command)

    patch.setattr(MemoryStore, "_post", wrong)


def member_not_removed_on_removal(patch: Patch) -> None:
    patch.setattr(Room, "_expel", lambda *_: None)


def join_not_stopped_by_removal(patch: Patch) -> None:
    connect = Hub.connect

    async def wrong(self: Hub, *arguments: Any, member_rev: int | None = None, **options: Any) -> Subscription:
        return await connect(self, *arguments, **options)  # an old answer about the membership is taken for a new one

    patch.setattr(Hub, "connect", wrong)


def room_leak(patch: Patch) -> None:
    patch.setattr(Hold, "__exit__", lambda self, *_: self._on_released())


def left_not_sent(patch: Patch) -> None:
    leave = Presence.leave

    def wrong(self: Presence, user: User) -> bool:
        leave(self, user)
        return False

    patch.setattr(Presence, "leave", wrong)


def connection_not_left(patch: Patch) -> None:
    patch.setattr(Hub, "disconnect", lambda *_: None)


def session_stays_in_the_room_after_removal(patch: Patch) -> None:
    def wrong(self: Room, member: Member) -> None:
        for subscription in self._audience.of_user(member.user_id):
            if subscription.connection.is_session:
                subscription.connection.deliver(encode(ConversationRemovedFrame(conversation_id=self.conversation_id)))
            else:
                subscription.connection.close(4403, "removed")  # type: ignore[arg-type]
                self.leave(subscription)

    patch.setattr(Room, "_expel", wrong)


def resend_of_a_removed_user_answered(patch: Patch) -> None:
    def wrong(self: SubscriptionSender, changes: Sequence[Change], *, is_news: bool) -> None:
        for change in changes if not is_news else ():
            assert isinstance(change, Message)
            self.subscription.connection.deliver(encode(message_frame(change, 0)))

    patch.setattr(SubscriptionSender, "stored", wrong)


def session_resumed_one_too_late(patch: Patch) -> None:
    resume = Session.resume

    def wrong(
        self: Session, conversation_id: UUID, rev: int, last_rev: int, member_rev: int, *, may_repeat: bool = False
    ) -> None:
        resume(self, conversation_id, min(rev + 1, last_rev), last_rev, member_rev, may_repeat=may_repeat)

    patch.setattr(Session, "resume", wrong)


def session_live_before_it_has_caught_up(patch: Patch) -> None:
    def wrong(self: Subscription) -> None:
        self.is_live = True

    patch.setattr(Subscription, "start", wrong)


def expired_token_kept(patch: Patch) -> None:
    def wrong(self: Reader, identity: Identity) -> int:
        return 1

    patch.setattr(Reader, "_accept_token", wrong)
    patch.setattr(Reader, "is_expired", lambda _: False)


def client_id_of_a_post_lost(patch: Patch) -> None:
    post = messages.post

    async def wrong(core: Core, where: UUID, sender: User, content: str, _: str | None) -> tuple[Message, bool]:
        return await post(core, where, sender, content, None)

    patch.setattr(messages, "post", wrong)


def post_answered_before_it_is_stored(patch: Patch) -> None:
    apply = Room.apply

    async def wrong(self: Room, command: Command, client_id: str | None = None) -> Sequence[Change]:
        if not isinstance(command, Post):
            return await apply(self, command, client_id)
        await self._writer.submit(command, WaitingSender(), client_id)
        return [guess(command, self.feed)]

    patch.setattr(Room, "apply", wrong)


def room_ends_under_a_new_connection(patch: Patch) -> None:
    init = Room.__init__

    def wrong(self: Room, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        self._linger = 0.4  # so that it often ends

    patch.setattr(Room, "__init__", wrong)
    patch.setattr(Room, "_is_used", lambda _: False)


def dead_peer_kept(patch: Patch) -> None:
    from_toml = Config.from_toml

    def wrong(path: str) -> Config:
        config = from_toml(path)
        config.read_timeout = None
        return config

    patch.setattr(Config, "from_toml", wrong)


def read_position_goes_back(patch: Patch) -> None:
    mark_read = MemoryStore.mark_read

    async def wrong(self: MemoryStore, marks: Sequence[ReadMark]) -> list[ReadState | None]:
        for mark in marks:
            conversation = self._conversations[mark.conversation_id]
            if mark.user_id in conversation.members and mark.seq <= len(conversation.messages):
                conversation.members[mark.user_id].read_seq = mark.seq - 1
        return await mark_read(self, marks)

    patch.setattr(MemoryStore, "mark_read", wrong)


def offline_not_sent(patch: Patch) -> None:
    def wrong(self: Watches, user_id: UUID, moment: Any) -> None:
        if user_id in self._online._since:
            note(self, user_id, moment)

    note = Watches.record_change
    patch.setattr(Watches, "record_change", wrong)


def watched_after_the_last_shared_conversation(patch: Patch) -> None:
    async def wrong(self: MemoryStore, _user_id: UUID, among: Any) -> Any:
        return dict.fromkeys(among)

    patch.setattr(MemoryStore, "acquaintances", wrong)


def room_that_failed_kept(patch: Patch) -> None:
    async def wrong(self: Room) -> None:
        with contextlib.suppress(Exception):
            await self._writer.run()

    patch.setattr(Room, "_run_writer", wrong)


def session_greeted_before_it_is_subscribed(patch: Patch) -> None:
    subscribe, greet = Lobby._subscribe, Connection._greet
    greeted: set[Connection] = set()

    async def wrong(self: Lobby, session: Session) -> int:
        connection = session.connection
        if not connection.features.are_asked:
            greeted.add(connection)
            user, epoch = session.user, self._store.epoch
            frame = SessionFrame(user_id=user.id, username=user.username, epoch=epoch)
            connection._write_nowait(encode(frame).wire)
        return await subscribe(self, session)

    async def no_greeting(self: Connection) -> None:
        if self not in greeted:
            await greet(self)
        elif self._released is not None:
            await self._released.wait()
            self.greeting = self._released = None
            self._pending -= 1

    patch.setattr(Lobby, "_subscribe", wrong)
    patch.setattr(Connection, "_greet", no_greeting)


def session_sends_before_its_first_frame(patch: Patch) -> None:
    greet = Connection._greet

    async def wrong(self: Connection) -> None:
        self.release()
        await greet(self)

    patch.setattr(Connection, "_greet", wrong)


def out_of_date_addition_applied(patch: Patch) -> None:
    apply = Hub.apply

    async def wrong(self: Hub, command: Command, client_id: str | None = None) -> Sequence[Change]:
        changes = await apply(self, command, client_id)
        if isinstance(command, AddMembers):
            await trio.sleep(0.3)  # the answer comes after that of a later removal
            room = self.rooms.get(command.conversation_id)
            if room is not None:
                for member in (change for change in changes if isinstance(change, Member)):
                    room._admit(member, many=False)
        return changes

    patch.setattr(Hub, "apply", wrong)


def out_of_date_removal_applied(patch: Patch) -> None:
    apply = Hub.apply

    async def wrong(self: Hub, command: Command, client_id: str | None = None) -> Sequence[Change]:
        changes = await apply(self, command, client_id)
        removed = [change for change in changes if isinstance(change, Member) and not change.is_member]
        if removed:
            await trio.sleep(0.3)  # the answer comes after that of a later addition
            room = self.rooms.get(command.conversation_id)
            if room is not None:
                room._expel(replace(removed[0], rev=room.feed.last_rev + 1))
        return changes

    patch.setattr(Hub, "apply", wrong)


def addition_with_a_lost_answer_not_sent(patch: Patch) -> None:
    apply_members = Room.apply_members

    def wrong(self: Room, members: Sequence[Member]) -> None:
        apply_members(self, [member for member in members if member.user_rev or not member.is_member])

    patch.setattr(Room, "apply_members", wrong)
    patch.setattr(faults, "WRITE_FAULTS", ("lose",) * 12)


def message_of_a_removed_member_stored(patch: Patch) -> None:
    post = MemoryStore._post

    def wrong(self: MemoryStore, command: Post) -> Message:
        conversation = self._conversations[command.conversation_id]
        former = conversation.former.get(command.actor_id)
        if former is not None:
            conversation.members[command.actor_id] = former
        try:
            return post(self, command)
        finally:
            if former is not None:
                del conversation.members[command.actor_id]

    patch.setattr(MemoryStore, "_post", wrong)


def room_opens_with_earlier_members(patch: Patch) -> None:
    look_up = opening.look_up
    known: dict[UUID, tuple[UUID, ...]] = {}

    async def wrong(conversation_id: UUID, *arguments: Any, **options: Any) -> tuple[Head, Members]:
        head, members = await look_up(conversation_id, *arguments, **options)
        ids = known.setdefault(conversation_id, members.ids) or members.ids
        return head, Members(ids, members.rev)

    patch.setattr(opening, "look_up", wrong)


def rev_that_nobody_hears_of(patch: Patch) -> None:
    deliver = Feed._deliver_in_order

    async def wrong(self: Feed, news: Sequence[Change], command: Command | None) -> None:
        heard = [change for change in news if change.rev % 4]
        if heard:
            await deliver(self, heard, command)
        if news:
            self.last_rev = max(self.last_rev, news[-1].rev)

    patch.setattr(Feed, "_deliver_in_order", wrong)


def removal_takes_effect_too_late(patch: Patch) -> None:
    expel = Room._expel

    def wrong(self: Room, member: Member) -> None:
        async def later() -> None:
            await trio.sleep(0.3)
            expel(self, member)

        assert self._nursery is not None
        self._nursery.start_soon(later)

    patch.setattr(Room, "_expel", wrong)


def addition_delivered_twice(patch: Patch) -> None:
    deliver_run = Feed._deliver_run

    async def wrong(self: Feed, run: Sequence[Change], kind: int, command: Command | None) -> None:
        before = dict(self.last_revs)
        await deliver_run(self, run, kind, command)
        for mask, subscriptions in self._audience.snapshot():
            if mask & kind == Kind.MEMBER and self.last_rev == run[-1].rev:
                prev_rev = max(rev for each, rev in before.items() if each & mask)
                for subscription in subscriptions:
                    if subscription.is_live:
                        subscription.deliver(encode_changes(run, mask, prev_rev)[0][1])

    patch.setattr(Feed, "_deliver_run", wrong)


def read_position_not_delivered_to_other_sessions(patch: Patch) -> None:
    apply = UserFeeds.apply

    def wrong(self: UserFeeds, change: MyMembership) -> None:
        if not change.is_member or not change.read_seq:
            apply(self, change)

    patch.setattr(UserFeeds, "apply", wrong)


def page_with_a_member_twice(patch: Patch) -> None:
    page_members = MemoryStore.page_members

    async def wrong(
        self: MemoryStore, conversation_id: UUID, user_id: UUID, *, limit: int, after: int = 0
    ) -> MemberPage:
        return await page_members(self, conversation_id, user_id, limit=limit + 1, after=max(after - 1, 0))

    patch.setattr(MemoryStore, "page_members", wrong)


def frame_of_a_kind_that_was_not_asked_for(patch: Patch) -> None:
    enter = Room._enter

    def wrong(self: Room, subscription: Subscription) -> bool:
        subscription.mask |= Kind.MEMBER
        return enter(self, subscription)

    patch.setattr(Room, "_enter", wrong)


def wrong_prev_rev(patch: Patch) -> None:
    def wrong(run: Sequence[Change], mask: int, prev_rev: int) -> Any:
        return encode_run(run, mask, max(prev_rev - 1, 0))

    patch.setattr(feeds, "encode_run", wrong)


def wrong_prev_me_rev(patch: Patch) -> None:
    encode_membership = user_feeds._encode

    def wrong(change: MyMembership, prev_rev: int) -> Any:
        return encode_membership(change, prev_rev - 1)

    patch.setattr(user_feeds, "_encode", wrong)


def own_sequence_resumed_one_too_late(patch: Patch) -> None:
    resume = UserFeeds.resume

    def wrong(self: UserFeeds, session: Session, user_rev: int) -> None:
        resume(self, session, min(user_rev + 1, session.me.cursor))

    patch.setattr(UserFeeds, "resume", wrong)


def edit_of_another_rev_stored(patch: Patch) -> None:
    revise = MemoryStore._revise

    def wrong(self: MemoryStore, command: Any) -> Message:
        return revise(self, replace(command, if_rev=None) if hasattr(command, "if_rev") else command)

    patch.setattr(MemoryStore, "_revise", wrong)


# --- the short way of new messages ---


def handed_batch_released_before_its_answer(patch: Patch) -> None:
    take = Writer.take

    def wrong(self: Writer, way: Any) -> Sequence[Post]:
        posts = take(self, way)
        feed: Feed = self._release.__self__  # type: ignore[attr-defined]
        if posts:
            self._release_now([(way.batch[0], (guess(posts[0], feed),))])
        return posts

    patch.setattr(Writer, "take", wrong)


def handed_batch_released_twice(patch: Patch) -> None:
    release_now = Feed.release_now

    def wrong(self: Feed, stored: Any) -> bool:
        known = self.last_rev
        if not release_now(self, stored):
            return False
        for mask, subscriptions in self._audience.snapshot():
            for subscription in subscriptions:
                if subscription.is_live:
                    subscription.deliver(encode_changes(stored[0][1], mask, known)[0][1])
        return True

    patch.setattr(Feed, "release_now", wrong)


def handed_batch_released_over_a_gap(patch: Patch) -> None:
    release_now = Feed.release_now

    def wrong(self: Feed, stored: Any) -> bool:
        first: Message = stored[0][1][0]
        if first.rev > self.last_rev:
            self.last_rev = first.rev - 1
        return release_now(self, stored)

    patch.setattr(Feed, "release_now", wrong)


def late_answer_released_after_the_deadline(patch: Patch) -> None:
    """The writer trusts every answer, and the store answers a second time, when the transaction has ended."""
    on_answer = Writer.on_answer

    def wrong(self: Writer, way: Any) -> None:
        self._short_way = way
        on_answer(self, way)

    async def commit_later(self: FaultyStore, commands: Sequence[Command]) -> None:
        handover = handed.get(commands[0].id)
        self.applying += 1
        try:
            await self._wait(1)
            outcomes = await self._commit(commands)
            if handover is not None:
                handover.on_answer(outcomes)
        except StoreUnavailable:
            pass
        finally:
            self.applying -= 1

    handed: dict[UUID, Any] = {}
    take = Writer.take

    def remember(self: Writer, way: Any) -> Sequence[Post]:
        posts = take(self, way)
        handed.update(dict.fromkeys([post.id for post in posts], way))
        return posts

    patch.setattr(Writer, "on_answer", wrong)
    patch.setattr(Writer, "take", remember)
    patch.setattr(FaultyStore, "_commit_later", commit_later)


def handed_batches_exchanged(patch: Patch) -> None:
    take_batch = Inbox.take_batch

    def wrong(self: Inbox) -> list[Submission]:
        batch = take_batch(self)
        if len(batch) > 1 and isinstance(batch[0].command, Post):
            self._window.extendleft(reversed(batch[:-1]))
            return batch[-1:]
        return batch

    patch.setattr(Inbox, "take_batch", wrong)


def timed_out_handover_not_rechecked(patch: Patch) -> None:
    take = clients.Device._take

    def give_up(self: clients.Device, frame: dict[str, Any]) -> None:
        take(self, frame)
        if frame["type"] == "error" and frame["code"] == "not_stored":
            self.pending.pop(frame.get("client_id", ""), None)

    async def wrong(self: Writer) -> None:
        way = self._left
        assert way is not None
        if isinstance(way.answer, StoreUnavailable):
            self._left = None
            for submission in way.batch:
                submission.sender.refuse(PulseError(ErrorCode.NOT_STORED), submission.client_id)
            self._settle_batch(way.batch)
        else:
            await store_left(self)

    store_left = Writer._store_left
    patch.setattr(Writer, "_store_left", wrong)
    patch.setattr(clients.Device, "_take", give_up)  # a resend would show what was committed
    patch.setattr(faults, "OUTLASTS", 3.0)


def answer_to_a_handover_forgotten(patch: Patch) -> None:
    """A batch whose answer is an error is dropped: its senders wait for ever."""

    async def wrong(self: Writer) -> None:
        way = self._left
        assert way is not None
        if isinstance(way.answer, StoreUnavailable):
            self._left = None
        else:
            await store_left(self)

    store_left = Writer._store_left
    patch.setattr(Writer, "_store_left", wrong)


BUGS: list[tuple[Callable[[Patch], None], set[str]]] = [
    (deliver_before_store, {"stored before delivered"}),
    (seq_hole, {"seq has no gap"}),
    (rev_hole, {"rev has no gap"}),
    (lost_batch_on_retry, {"every message is answered"}),
    (off_by_one_at_resume, {"no gap at resume"}),
    (edit_missed_by_a_resuming_client, {"no gap at resume", "all end with the same history"}),
    (live_frame_missed_at_the_join_point, {"no gap at resume"}),
    (double_broadcast_on_resend, {"no repeat"}),
    (resend_stored_again, {"one message for a client_id"}),
    (member_not_removed_on_removal, {"a removed member gets nothing"}),
    (join_not_stopped_by_removal, {"a removed member gets nothing"}),
    (room_leak, {"nothing leaks"}),
    (left_not_sent, {"presence converges"}),
    (connection_not_left, {"presence converges", "nothing leaks"}),
    (session_stays_in_the_room_after_removal, {"a removed member gets nothing"}),
    (resend_of_a_removed_user_answered, {"a removed member gets nothing"}),
    (session_resumed_one_too_late, {"no gap at resume"}),
    (session_live_before_it_has_caught_up, {"no gap at resume"}),
    (expired_token_kept, {"no connection outlives its token"}),
    (client_id_of_a_post_lost, {"stored before delivered"}),
    (post_answered_before_it_is_stored, {"stored before delivered"}),
    (room_ends_under_a_new_connection, {"everything ends well"}),
    (dead_peer_kept, {"nothing leaks"}),
    (read_position_goes_back, {"a read position never goes back"}),
    (offline_not_sent, {"online status converges"}),
    (watched_after_the_last_shared_conversation, {"online status converges"}),
    (room_that_failed_kept, {"everything ends well"}),
    (session_greeted_before_it_is_subscribed, {"no gap"}),
    (session_sends_before_its_first_frame, {"only `session` comes first"}),
    (out_of_date_addition_applied, {"a removed member gets nothing"}),
    (out_of_date_removal_applied, {"a member stays in"}),
    (addition_with_a_lost_answer_not_sent, {"an added user gets what follows"}),
    (message_of_a_removed_member_stored, {"nothing of a removed member is stored"}),
    (room_opens_with_earlier_members, {"a removed member gets nothing"}),
    (rev_that_nobody_hears_of, {"every rev is heard of"}),
    (removal_takes_effect_too_late, {"a removed member gets nothing"}),
    (addition_delivered_twice, {"no repeat"}),
    (read_position_not_delivered_to_other_sessions, {"memberships converge"}),
    (page_with_a_member_twice, {"a page repeats nothing"}),
    (frame_of_a_kind_that_was_not_asked_for, {"only what was asked for"}),
    (wrong_prev_rev, {"a right prev_rev"}),
    (wrong_prev_me_rev, {"a right prev_me_rev"}),
    (own_sequence_resumed_one_too_late, {"a right prev_me_rev"}),
    (edit_of_another_rev_stored, {"no edit of another rev"}),
    (handed_batch_released_before_its_answer, {"stored before delivered"}),
    (handed_batch_released_twice, {"no repeat"}),
    (handed_batch_released_over_a_gap, {"no gap"}),
    (late_answer_released_after_the_deadline, {"no fault inside"}),
    (handed_batches_exchanged, {"a connection's messages keep their order"}),
    (timed_out_handover_not_rechecked, {"every rev is heard of"}),
    (answer_to_a_handover_forgotten, {"nothing leaks"}),
]


@pytest.mark.parametrize(("plant", "promises"), BUGS, ids=[plant.__name__ for plant, _ in BUGS])
def test_planted_bug_is_named(plant: Callable[[Patch], None], promises: set[str], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    named: set[str] = set()
    plan = PLANS.get(plant.__name__, Plan()).less("processes")
    for seed in (QUICK.get(plant.__name__, 1), *range(1, SEEDS + 1)):
        named |= {violation.partition(":")[0] for violation in simulate(seed, plan).violations}
        if promises <= named:
            return
    pytest.fail(f"in {SEEDS} seeds only {sorted(named)}")


def test_a_failing_run_is_made_smaller(monkeypatch: Patch) -> None:
    member_not_removed_on_removal(monkeypatch)
    short = Plan(seconds=4.0).less("processes")
    failed = next(result for seed in range(1, SEEDS) if (result := simulate(seed, short)).violations)
    least = shrink(failed)
    assert promise_of(least) == promise_of(failed)
    assert {"faults", "restarts"} < least.plan.without, "the bug needs neither"
    assert "rivals" not in least.plan.without, "nobody would be removed"
    assert len(least.history.events) < len(failed.history.events)
    assert simulate(least.seed, least.plan).violations == least.violations
    assert least.plan.options() in least.report()
