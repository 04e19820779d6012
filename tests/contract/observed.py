"""Operations whose results are kept, to judge them together with what the store then holds.

Shares no code with the stores. Every check raises an AssertionError that names the promise.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar
from uuid import UUID

from pulse_trio.model import Change, Command, Kind, Member, Message, MyMembership, Properties
from pulse_trio.store.base import (
    Created,
    NewConversation,
    Outcome,
    ReadMark,
    ReadState,
    Refusal,
    Store,
    StoreUnavailable,
    User,
)

PAGES: Final = (1, 2, 256)  # limits of the walks
ALL: Final = 10_000
ATTEMPTS: Final = 10  # of a command that the store could not carry out because a row was busy

T = TypeVar("T")


class Observed:
    """A store's operations on conversations, observed.

    Args:
        store: the store.
        everybody: all users.
    """

    def __init__(self, store: Store, everybody: Sequence[User]) -> None:
        self.store = store
        self._everybody = everybody
        self._created: dict[UUID, NewConversation] = {}
        self._changes: dict[UUID, dict[int, Change]] = defaultdict(dict)  # conversation → rev → change
        self._user_revs: dict[UUID, set[int]] = defaultdict(set)  # user → numbers given to additions and removals
        self._read_revs: dict[UUID, set[int]] = defaultdict(set)  # user → numbers answered to marks
        self._member_revs: dict[tuple[UUID, int], Member] = {}  # user, number → addition or removal

    async def create(self, new: NewConversation) -> Created:
        created = await self.store.create_conversation(new)
        if created.is_new:
            self._created[new.id] = new
            for membership in created.memberships:
                self._note_user_rev(membership.user_id, membership.user_rev)
        return created

    async def apply(self, command: Command) -> Outcome:
        (outcome,) = await _retried(lambda: self.store.apply([command]))
        if not isinstance(outcome, Refusal):
            for change in outcome:
                self._note(change)
        return outcome

    async def mark_read(self, mark: ReadMark) -> ReadState | None:
        (state,) = await _retried(lambda: self.store.mark_read([mark]))
        if state is not None:
            self._read_revs[mark.user_id].add(state.user_rev)
        return state

    def _note(self, change: Change) -> None:
        plain: Change = change
        if isinstance(change, Member):
            if change.user_rev:
                self._note_user_rev(change.user_id, change.user_rev)
                self._member_revs[change.user_id, change.user_rev] = change
            plain = replace(change, user_rev=0, member_count=0)  # as of now or later
        known = self._changes[change.conversation_id].setdefault(change.rev, plain)
        assert known == plain, f"a rev is given to one change only: {known}, {plain}"

    def _note_user_rev(self, user_id: UUID, user_rev: int) -> None:
        assert user_rev not in self._user_revs[user_id], f"number {user_rev} of {user_id} was given out twice"
        self._user_revs[user_id].add(user_rev)

    async def check(self) -> None:
        """Checks every conversation and every user's own sequence; nothing must be running."""
        for conversation_id in self._created:
            await self._check_conversation(conversation_id)
        for user in self._everybody:
            await self._check_user(user)

    async def _check_conversation(self, conversation_id: UUID) -> None:
        store = self.store
        head = await store.head(conversation_id)
        members = await store.members(conversation_id)
        log = await store.changes(conversation_id, after_rev=0, kinds=Kind.ALL, limit=ALL)
        given = self._changes[conversation_id]
        assert sorted(given) == list(range(1, head.last_rev + 1)), "revs have neither holes nor repeats over all kinds"
        self._replay(conversation_id, members.ids)

        revs = [change.rev for change in log]
        assert revs == sorted(set(revs)), "the log is in the order of rev"
        assert max(revs, default=0) == head.last_rev, "the last change is in the log"
        for change in log:
            plain = replace(change, member_count=0) if isinstance(change, Member) else change
            assert plain == given[change.rev], "the log has what the command was answered"
        keys = [_key(change) for change in log]
        assert len(set(keys)) == len(keys), "each object is in the log once"
        latest = {_key(given[rev]): rev for rev in sorted(given)}
        assert dict(zip(keys, revs, strict=True)) == latest, "each object is in the log with its latest change"

        by_kind = {
            Kind.MESSAGE: head.message_rev,
            Kind.MEMBER: head.members_rev,
            Kind.CONVERSATION: head.properties_rev,
        }
        for kind, rev in by_kind.items():
            assert max((change.rev for change in log if change.kind == kind), default=0) == rev, f"kind {kind}: {head}"
        assert members.rev == head.members_rev
        for limit in PAGES:
            assert await self._walk(conversation_id, Kind.ALL, limit) == log, f"pages of {limit}"
        for kinds in range(Kind.ALL):
            expected = [change for change in log if change.kind & kinds]
            assert await self._walk(conversation_id, kinds, 2) == expected, f"kinds {kinds}"
        await self._check_members(conversation_id, log)
        await self._check_messages(conversation_id, log)

    def _replay(self, conversation_id: UUID, now: tuple[UUID, ...]) -> None:
        """Carries out the changes again in the order of rev: each actor must have been a member."""
        new = self._created[conversation_id]
        members = dict.fromkeys(new.member_ids)
        owner_id = new.owner_id
        seq = 0
        for _, change in sorted(self._changes[conversation_id].items()):
            match change:
                case Message():
                    if not change.is_deleted:
                        assert change.sender_id in members, f"nothing of a removed member is stored: {change}"
                    if not (change.is_edited or change.is_deleted):
                        seq += 1
                        assert change.seq == seq, "seqs have no holes, and rise with revs"
                case Member():
                    assert change.actor_id in members, f"who adds or removes is a member: {change}"
                    assert change.is_member != (change.user_id in members), f"a change changes something: {change}"
                    if change.is_member:
                        members[change.user_id] = None
                    else:
                        assert owner_id == change.actor_id or change.user_id == change.actor_id
                        del members[change.user_id]
                case Properties():
                    assert change.owner_id in members, "the owner is a member"
                    if change.owner_id != owner_id:
                        assert change.owner_id == next(iter(members)), "the longest-standing member becomes the owner"
                    owner_id = change.owner_id
        assert now == tuple(members), "the members are those of the log, in joining order"

    async def _check_members(self, conversation_id: UUID, log: list[Change]) -> None:
        members = await self.store.members(conversation_id)
        logged = [change for change in log if isinstance(change, Member)]
        for change in logged:
            assert change.is_member == (change.user_id in members.ids), (
                f"tombstone and member exclude each other: {change}"
            )
            assert change.member_count == len(members.ids)
        for user in self._everybody:
            seen = await self.store.get_conversation(conversation_id, user.id)
            assert (seen is not None) == (user.id in members.ids)
            assert await self.store.membership(conversation_id, user.id) == (members.rev if seen else None)
            if seen is not None:
                page = await self.store.page_members(conversation_id, user.id, limit=ALL)
                assert tuple(member.user.id for member in page.members) == members.ids
                assert {seen.member_count, page.total} == {len(members.ids)}, "counts are right"
                assert seen.owner_id in members.ids

    async def _check_messages(self, conversation_id: UUID, log: list[Change]) -> None:
        head = await self.store.head(conversation_id)
        (*_, reader) = (await self.store.members(conversation_id)).ids or (None,)
        logged = sorted((change for change in log if isinstance(change, Message)), key=lambda message: message.seq)
        assert [message.seq for message in logged] == list(range(1, head.last_seq + 1)), "seqs have no holes"
        if reader is not None:
            page = await self.store.page_messages(conversation_id, reader, limit=ALL)
            assert (list(page.messages), page.total) == (logged[::-1], head.last_seq)

    async def _check_user(self, user: User) -> None:
        memberships = await self.store.memberships(user.id)
        own = await self.store.user_changes(user.id, after_rev=0, limit=ALL)
        numbers = [membership.user_rev for membership in own]
        assert numbers == sorted(set(numbers)), "a user's own log is in its order"
        assert max(numbers, default=0) == memberships.user_rev
        given = self._user_revs[user.id] | self._read_revs[user.id]
        assert sorted(given) == list(range(1, memberships.user_rev + 1)), "no number is left out"
        assert len({membership.conversation_id for membership in own}) == len(own), "each conversation is there once"
        assert {each.conversation_id for each in own if each.is_member} == set(memberships.heads)
        for limit in PAGES:
            assert await self._walk_own(user, limit) == own, f"pages of {limit}"
        for membership in own:
            seen = await self.store.get_conversation(membership.conversation_id, user.id)
            assert membership.read_seq == (0 if seen is None else seen.read_seq)
            assert seen is None or seen.read_seq <= seen.head.last_seq
        # What came and went in one conversation has the same order in the user's own sequence.
        own_changes = sorted((key[1], change) for key, change in self._member_revs.items() if key[0] == user.id)
        revs: dict[UUID, int] = defaultdict(int)
        for _, change in own_changes:
            assert change.rev > revs[change.conversation_id], "a user's own order is that of the conversation"
            revs[change.conversation_id] = change.rev

    async def _walk(self, conversation_id: UUID, kinds: int, limit: int) -> list[Change]:
        found: list[Change] = []
        after_rev = 0
        while page := await self.store.changes(conversation_id, after_rev=after_rev, kinds=kinds, limit=limit):
            assert len(page) <= limit
            found += page
            after_rev = page[-1].rev
        return found

    async def _walk_own(self, user: User, limit: int) -> list[MyMembership]:
        found: list[MyMembership] = []
        after_rev = 0
        while page := await self.store.user_changes(user.id, after_rev=after_rev, limit=limit):
            assert len(page) <= limit
            found += page
            after_rev = page[-1].user_rev
        return found


def _key(change: Change) -> tuple[int, UUID]:
    """Returns the identity of a change's object within its conversation."""
    match change:
        case Message():
            return change.kind, change.id
        case Member():
            return change.kind, change.user_id
        case Properties():
            return change.kind, change.conversation_id


async def _retried(operation: Callable[[], Awaitable[T]]) -> T:
    """Repeats an operation while the store is busy, which the contract allows for all of them."""
    for _ in range(ATTEMPTS - 1):
        try:
            return await operation()
        except StoreUnavailable:
            pass
    return await operation()
