"""Shorthand for users, conversations and messages in tests of a store; `tests.support.commands` makes the commands."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from pulse_trio.model import Change, Kind, Message, MyMembership
from pulse_trio.store.base import Conversation, Created, NewConversation, Outcome, Store, User
from tests.support.commands import START, new_id, post


class People:
    """Makes users, conversations and messages in a store. Each id is new."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def user(self, username: str, *, password_hash: str | None = "hash", subject: str | None = None) -> User:
        user = User(new_id(), username)
        await self.store.create_user(user, password_hash=password_hash, subject=subject, created_at=START)
        return user

    async def users(self, *usernames: str) -> list[User]:
        return [await self.user(username) for username in usernames]

    def conversation(
        self,
        owner: User,
        *others: User,
        name: str | None = "Team",
        description: str | None = None,
        is_group: bool = True,
        created_at: datetime = START,
    ) -> NewConversation:
        member_ids = (owner.id, *(other.id for other in others))
        return NewConversation(new_id(), name, description, is_group, owner.id, member_ids, created_at)

    async def group(self, owner: User, *others: User, created_at: datetime = START) -> UUID:
        created = await self.store.create_conversation(self.conversation(owner, *others, created_at=created_at))
        assert created.is_new
        return created.conversation.id

    async def direct(self, owner: User, other: User) -> Created:
        return await self.store.create_conversation(self.conversation(owner, other, name=None, is_group=False))

    async def send(self, conversation_id: UUID, sender: User, *contents: str) -> list[Message]:
        """Stores messages in one call; all must be accepted."""
        return messages(await self.store.apply([post(conversation_id, sender, content) for content in contents]))

    async def positions(self, conversation_id: UUID, user: User) -> list[tuple[UUID, int]]:
        """Returns the members' read positions in joining order, as this user sees them."""
        page = await self.store.page_members(conversation_id, user.id, limit=1_000)
        return [(member.user.id, member.read_seq) for member in page.members]

    async def seen(self, conversation_id: UUID, user: User) -> Conversation:
        """Returns a conversation as this member sees it."""
        found = await self.store.get_conversation(conversation_id, user.id)
        assert found is not None
        return found

    async def listed(self, user: User) -> list[Conversation]:
        """Returns the user's conversations, latest activity first."""
        page = await self.store.list_conversations(user.id, limit=1_000)
        assert page.total == len(page.conversations)
        assert page.next_before is None
        return list(page.conversations)

    async def log(self, conversation_id: UUID, *, after_rev: int = 0, kinds: int = Kind.ALL) -> list[Change]:
        """Returns all changes after a rev."""
        return await self.store.changes(conversation_id, after_rev=after_rev, kinds=kinds, limit=1_000)

    async def own_log(self, user: User, *, after_rev: int = 0) -> list[MyMembership]:
        """Returns all changes of a user's own sequence after a rev."""
        return await self.store.user_changes(user.id, after_rev=after_rev, limit=1_000)


def messages(outcomes: Sequence[Outcome]) -> list[Message]:
    """Returns the messages of posts that were all accepted."""
    found = []
    for outcome in outcomes:
        assert isinstance(outcome, tuple), outcome
        (message,) = outcome
        assert isinstance(message, Message)
        found.append(message)
    return found


def seqs(outcomes: Sequence[Outcome]) -> list[int | None]:
    """Returns the seqs of posts; None for a refused one."""
    return [messages([outcome])[0].seq if isinstance(outcome, tuple) else None for outcome in outcomes]
