"""The contract of a store: its operations and their atomicity; with its records and errors.

Every operation is atomic: all of it happens, or nothing. Every operation may raise `StoreUnavailable`; a write may then
have happened or not. Commands may be repeated with the same ids. Cancelled: like `StoreUnavailable`.

Numbers of a conversation, by an example. Alice posts "a" and "b", then edits "a", then adds Bob, then names the group:

    change         seq  rev  last_seq  last_rev  members_rev  properties_rev
    "a" posted      1    1       1         1          0             0
    "b" posted      2    2       2         2          0             0
    "a" edited      1    3       2         3          0             0
    Bob is added    -    4       2         4          4             0
    "Team"          -    5       2         5          4             5

`seq` is a message's position in the history and never changes (IMAP: UID). `rev` numbers the changes of everything that
members share; a change gives its object a new one (IMAP: MODSEQ, RFC 7162). A client that resumes after rev 2 gets "a",
Bob and the properties once, each in its current state. Both count without gaps, and every rev is taken under the lock
of the conversation's row, so what is answered is in the order of the commits. An answer about members says which
`members_rev` it is as of: of two answers the one with the higher number is the later one, whichever arrived first.

Each user has a sequence of their own, too (`users.last_rev`): it numbers the changes of their memberships, which are
additions, removals and read positions. Rows are locked in this order: the conversation, its members, users by id.

The `epoch` says which history the numbers belong to. A backup restored with last_rev 2 gives rev 3 to another change: a
client that knows rev 3 of the old epoch must reload, not resume.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Protocol, TypeAlias, TypeVar
from uuid import UUID

from pulse_trio.model import Change, Command, Message, MyMembership, Post, User
from pulse_trio.store.errors import (
    NoSuchMember,
    NoSuchMessage,
    NotAGroup,
    NotAMember,
    NotYourMessage,
    OwnerOnly,
    Refusal,
    StaleRev,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    TooManyMembers,
    UnknownUsers,
    UsernameTaken,
)
from pulse_trio.store.protections import AttemptBucket, AttemptVerdict, Protections, Ticket, UsedTicket
from pulse_trio.store.records import (
    LISTED_MEMBERS,
    SHOWN_MEMBERS,
    Account,
    Admission,
    Conversation,
    ConversationPage,
    Created,
    Head,
    MemberPage,
    Members,
    Membership,
    Memberships,
    NewConversation,
    Page,
    ReadMark,
    ReadState,
    UserPage,
)

__all__ = [
    "LISTED_MEMBERS",
    "MAX_REVISIONS_OF_MESSAGE",
    "SHOWN_MEMBERS",
    "Account",
    "Admission",
    "Answer",
    "AttemptBucket",
    "AttemptVerdict",
    "Conversation",
    "ConversationPage",
    "Created",
    "Handover",
    "Head",
    "MemberPage",
    "Members",
    "Membership",
    "Memberships",
    "Message",
    "NewConversation",
    "NoSuchMember",
    "NoSuchMessage",
    "NotAGroup",
    "NotAMember",
    "NotYourMessage",
    "Outcome",
    "OwnerOnly",
    "Page",
    "ReadMark",
    "ReadState",
    "Refusal",
    "StaleRev",
    "Store",
    "StoreError",
    "StoreRefused",
    "StoreUnavailable",
    "Ticket",
    "TooManyMembers",
    "UnknownUsers",
    "UsedTicket",
    "User",
    "UserPage",
    "UsernameTaken",
    "page_range",
]

Outcome: TypeAlias = tuple[Change, ...] | Refusal
"""The result of a command: the objects that it changed as they now are, or the reason why it was refused."""

Answer: TypeAlias = list[Outcome] | StoreError | None
"""The end of a `Handover`: an outcome for each command, or the error that `Store.apply` would raise.

None: the caller must use `Store.apply`; if some were carried out, their ids make that harmless.
"""

C_co = TypeVar("C_co", bound=Command, covariant=True)

# A store recognizes repeats of the latest 16 revisions of a message. With fewer in a call, all of them are recognized
# when a call whose answer was lost is repeated, even if another process has revised the message since.
MAX_REVISIONS_OF_MESSAGE: Final = 8


def page_range(total: int, limit: int, offset: int, before_seq: int | None, after_seq: int | None) -> tuple[int, int]:
    """Returns the first and the last seq of a page of `Store.page_messages`; an empty page has last < first.

    Seqs have no gaps, so skipping `offset` messages is a subtraction and a page is a range of `limit` seqs: reading it
    touches no other message. Example: the newest 50 of 1,000 messages are the seqs 951 to 1,000.
    """
    lowest = max(after_seq or 0, 0) + 1
    if before_seq is not None:
        last = min(before_seq - 1, total)
    elif after_seq is not None:
        last = min(lowest + limit - 1, total)
    else:
        last = total - offset
    return max(lowest, last - limit + 1), last


class Handover(Protocol[C_co]):
    """A batch that a store takes when it can: no task waits for it. Its methods are called by tasks of the store.

    They do not wait, and must not raise: they run between those of other conversations.
    """

    @property
    def conversation_id(self) -> UUID:
        """The conversation of the commands."""

    @property
    def deadline(self) -> float:
        """The time on Trio's clock at which `on_answer` has been called."""

    def take(self) -> Sequence[C_co]:
        """Returns the commands; called once at most. If there are none, `on_answer` is not called."""

    def on_answer(self, answer: Answer) -> None:
        """Takes the answer; called once.

        At the deadline it is a StoreUnavailable, and the commands may be carried out later. `take` may not have been
        called before; then it never is.
        """


class Store(Protections, Protocol):
    """The operations of a store. Lists come with the total number of entries, ignoring `limit`."""

    epoch: str
    """Identifies this history. Changes when acknowledged messages may be gone (a restored backup, a promoted standby),
    so that clients reload instead of resuming.
    """

    async def ping(self) -> None:
        """Returns once the store has answered."""

    # --- accounts ---

    async def create_user(
        self, user: User, *, password_hash: str | None, subject: str | None, created_at: datetime
    ) -> None:
        """Creates an account with a password, or with the `subject` of an identity provider.

        Raises:
            UsernameTaken: another user has the name or the `subject`.
        """

    async def find_account(self, username: str) -> Account | None:
        """Finds a user by name, ignoring case."""

    async def find_subject(self, subject: str, user_id: UUID | None) -> User | None:
        """Finds the user with this `subject` at the identity provider, or else the one with this id."""

    async def admission(self, conversation_id: UUID, subject: str, user_id: UUID | None) -> Admission | None:
        """Finds a user as `find_subject` does, and their membership of a conversation as `membership` does.

        Returns None if there is no such user. Look-ups of one moment may share a statement.
        """

    async def set_password_hash(self, user_id: UUID, password_hash: str, *, old_hash: str) -> None:
        """Replaces the password hash if it is still `old_hash`."""

    async def search_users(
        self,
        prefix: str,
        *,
        limit: int,
        offset: int = 0,
        after: str | None = None,
        max_total: int | None = None,
        by: UUID | None = None,
    ) -> UserPage:
        """Finds users whose name begins with `prefix`, ignoring case; sorted by name.

        Args:
            prefix: the beginning of the name.
            limit: most users of the page.
            offset: skips users; only without `after`.
            after: from `UserPage.next_after`; the page begins after it, whoever has registered meanwhile.
            max_total: counts no further, so that a search costs the same however many users there are.
            by: the user who searches: users have their turns.
        """

    # --- conversations and members ---

    async def create_conversation(self, new: NewConversation) -> Created:
        """Creates a conversation.

        If it is a one-to-one that the two users already have, or was created with this id before, returns the existing
        one.

        Raises:
            UnknownUsers: a member does not exist.
        """

    async def get_conversation(self, conversation_id: UUID, user_id: UUID) -> Conversation | None:
        """Returns the conversation as this user sees it; None if they are not a member."""

    async def list_conversations(
        self, user_id: UUID, *, limit: int, offset: int = 0, before: int | None = None, max_bytes: int | None = None
    ) -> ConversationPage:
        """Lists the user's conversations, latest activity first.

        Activity is numbered by the store as it commits, so no process's clock decides the order. It costs a bounded
        number of rows for each conversation of the page, whatever the groups' sizes.

        Args:
            user_id: the user.
            limit: most conversations of the page.
            offset: skips conversations; only without `before`.
            before: from `ConversationPage.next_before`; a conversation that has moved up meanwhile is not in the page.
            max_bytes: about how many bytes the page may have as JSON; it ends earlier, but never before its first
                conversation.
        """

    async def membership(self, conversation_id: UUID, user_id: UUID) -> int | None:
        """Returns the conversation's `members_rev`, as of which the user is a member; None if they are not."""

    async def memberships(
        self,
        user_id: UUID,
        among: Sequence[UUID] | None = None,
        *,
        limit: int | None = None,
        after: UUID | None = None,
    ) -> Memberships:
        """Returns the heads of the user's conversations: of all, or of those in `among`; in one snapshot.

        With a `limit`, of so many at most, in the order of their ids and those `after` an id; `among` must be None.
        """

    async def heads(self, conversation_ids: Sequence[UUID]) -> dict[UUID, Head]:
        """Returns the heads of conversations; those that do not exist are left out."""

    async def user_revs(self, user_ids: Sequence[UUID]) -> dict[UUID, int]:
        """Returns the highest rev of each user's own sequence; users that do not exist are left out."""

    async def members(self, conversation_id: UUID) -> Members:
        """Returns all members of a conversation; none, and rev 0, if it does not exist."""

    async def page_members(self, conversation_id: UUID, user_id: UUID, *, limit: int, after: int = 0) -> MemberPage:
        """Returns a page of members in the order they joined: those whose position is above `after`.

        Costs the same at every depth.

        Raises:
            NotAMember: `user_id` is not a member.
        """

    # --- changes ---

    async def apply(self, commands: Sequence[Command]) -> list[Outcome]:
        """Carries out commands in this order within each conversation; one outcome each.

        Several `Post`s, of any conversations, may share a call, and so may several revisions (`Edit`, `Delete`), at
        most `MAX_REVISIONS_OF_MESSAGE` of one message; any other command has a call of its own. A command takes one rev
        for each object that it changes, under the lock of the conversation's row, where its conditions are judged, too.
        A call is one transaction, or with many revisions several, one after the other.
        Repeating one that was carried out gives the objects as they now are, with no new rev. The outcome of a revision
        is the message as that revision left it, before the later ones of the call.

        A `Post` whose id is already stored, or whose sender has used its client_id in this conversation before, is not
        stored again: its outcome is the existing message (the id takes precedence), even if the sender has left since.
        No two of a call may have the same id, or the same sender, conversation and client_id.

        The changes of `AddMembers` are the members it added, in order of rev; of `RemoveMember` and `Leave` the former
        member and, if the owner left, the properties.

        Raises:
            StoreRefused: one of them can never be stored; none is.
        """

    def apply_soon(self, handover: Handover[Post]) -> bool:
        """Carries out the `Post`s of one conversation like `apply`, without a task that waits.

        They are taken when a transaction begins, so that it has all that was sent until then. Returns False if the
        store cannot take the handover now: use `apply`. Calls nothing of the handover before it returns.
        """

    async def changes(self, conversation_id: UUID, *, after_rev: int, kinds: int, limit: int) -> list[Change]:
        """Returns the objects of these kinds (bits of `Kind`) changed after `after_rev`, in rev order.

        Each is there once, in its current state.
        """

    async def user_changes(self, user_id: UUID, *, after_rev: int, limit: int) -> list[MyMembership]:
        """Returns the user's memberships changed after `after_rev` in their own sequence, in its order, each once."""

    # --- messages ---

    async def head(self, conversation_id: UUID) -> Head:
        """Returns the head of a conversation.

        Raises:
            NotAMember: it does not exist.
        """

    async def page_messages(
        self,
        conversation_id: UUID,
        user_id: UUID,
        *,
        limit: int,
        offset: int = 0,
        before_seq: int | None = None,
        after_seq: int | None = None,
        max_bytes: int | None = None,
    ) -> Page:
        """Returns a page of history, newest first. Costs the same at every depth.

        Args:
            conversation_id: the conversation.
            user_id: the requesting user.
            limit: most messages of the page.
            offset: skips the newest messages; only without `before_seq` and `after_seq`.
            before_seq: the page has the newest messages below it (and above `after_seq`).
            after_seq: without `before_seq`, the page has the oldest messages above it.
            max_bytes: about how many bytes the page may have as JSON; it ends earlier, but never before its first
                message in the direction of reading.

        Raises:
            NotAMember: the user is not a member.
        """

    # --- read positions and last-seen times ---

    async def mark_read(self, marks: Sequence[ReadMark]) -> list[ReadState | None]:
        """Moves read positions forward, in any conversations; returns the new states in the given order.

        A mark behind the position, or beyond the last message, moves nothing. The state is None if the user is not a
        member. A returned position may be below a valid mark if another transaction had locked the row: retry. A
        position that moves takes the next number of its user's own sequence.
        """

    async def mark_seen(self, moments: Mapping[UUID, datetime]) -> None:
        """Records when users were last seen; an earlier time than the recorded one changes nothing."""

    async def acquaintances(self, user_id: UUID, among: Sequence[UUID]) -> dict[UUID, datetime | None]:
        """Returns last-seen times of those users in `among` who share a conversation with the user, or are the user.

        The time is None for a user who was never seen.
        """

    # --- leases of processes ---

    async def take_lease(self, lease_id: UUID) -> None:
        """Creates a lease, if there is none with this id."""

    async def renew_lease(self, lease_id: UUID) -> dict[UUID, int] | None:
        """Raises the counter of a lease; returns those of all leases, or None if this one is fenced or gone.

        The counter of this one may be that of before. Once it is fenced, no renewal succeeds any more.
        """

    async def leases(self) -> list[UUID]:
        """Returns all leases, also those that are fenced."""

    async def fence_leases(self, lease_ids: Sequence[UUID]) -> None:
        """Prevents further renewals of leases."""

    async def end_leases(self, lease_ids: Sequence[UUID]) -> None:
        """Deletes leases."""
