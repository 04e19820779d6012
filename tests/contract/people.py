"""Shorthand for users, conversations and messages in tests of a store."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from pulse_trio.ids import IdSource
from pulse_trio.store.base import Conversation, Message, NewConversation, NewMessage, Revision, Store, User

START = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """Returns the time that many seconds after START."""
    return START + timedelta(seconds=seconds)


class People:
    """Makes users, conversations and messages in a store. Each id is new."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.new_id = IdSource()

    async def user(self, username: str, *, password_hash: str | None = "hash", subject: str | None = None) -> User:
        user = User(self.new_id(), username)
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
        return NewConversation(self.new_id(), name, description, is_group, owner.id, member_ids, created_at)

    async def group(self, owner: User, *others: User, created_at: datetime = START) -> UUID:
        made, created = await self.store.create_conversation(self.conversation(owner, *others, created_at=created_at))
        assert created
        return made.id

    async def direct(self, owner: User, other: User) -> tuple[Conversation, bool]:
        return await self.store.create_conversation(self.conversation(owner, other, name=None, is_group=False))

    def message(
        self,
        conversation_id: UUID,
        sender: User,
        content: str = "hello",
        *,
        client_id: str | None = None,
        created_at: datetime = START,
    ) -> NewMessage:
        return NewMessage(self.new_id(), conversation_id, sender.id, content, client_id, created_at)

    async def send(self, conversation_id: UUID, sender: User, *contents: str) -> list[Message]:
        """Stores messages in one batch; all must be accepted."""
        stored = await self.store.append([self.message(conversation_id, sender, content) for content in contents])
        return [message for message in stored if message is not None]

    async def positions(self, conversation_id: UUID, user: User) -> list[tuple[UUID, int]]:
        """Returns the members' read positions in joining order, as this user sees them."""
        page = await self.store.page_members(conversation_id, user.id, limit=1_000)
        return [(member.user.id, member.read_seq) for member in page.members]

    def revision(self, message: Message, actor: User, content: str | None, *, made_at: datetime = START) -> Revision:
        return Revision(self.new_id(), message.conversation_id, message.id, actor.id, content, made_at)


def seqs(messages: Sequence[Message | None]) -> list[int | None]:
    return [None if message is None else message.seq for message in messages]
