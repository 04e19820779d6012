"""The users of a room, as its frames name them: usernames, who is connected, who was added or removed."""

from typing import Final
from uuid import UUID

from msgspec import UnsetType

from pulse_trio.client.errors import ProtocolError
from pulse_trio.client.records import (
    Conversation,
    Event,
    GroupDetails,
    Joined,
    Left,
    Member,
    MembersChanged,
    User,
)
from pulse_trio.protocol import ConversationFrame, MemberFrame, PresenceFrame, SystemFrame

MAX_NAMES_SHOWN: Final = 3  # in the sentence about several users


class Roster:
    """Applies frames about users, and makes their events.

    Attributes:
        active: the connected users.
    """

    def __init__(self, conversation: Conversation, user: User) -> None:
        self.active: frozenset[UUID] = frozenset()
        self._user = user
        self._names = {member.id: member.username for member in (*conversation.users, user)}
        self._name = conversation.name
        self._description = conversation.description
        self._owner_id = conversation.owner_id

    def name_of(self, user_id: UUID) -> str:
        """Returns the username of a user, or their id if it is not known."""
        return self._names.get(user_id) or str(user_id)

    def learn(self, user_id: UUID, username: str) -> None:
        """Keeps a username."""
        self._names[user_id] = username

    def take_active(self, frame: SystemFrame) -> None:
        """Applies the list of connected users, if the frame has one."""
        if not isinstance(frame.active_users, UnsetType):
            self.active = frozenset(frame.active_users)

    def system(self, frame: SystemFrame) -> list[Event]:
        """Applies a `system` frame after the first."""
        self.take_active(frame)
        who = frame.sender_id
        match frame.event:
            case "joined":
                self.active |= {who}
                return [] if who == self._user.id else [Joined(who, self.name_of(who))]
            case "left":
                self.active -= {who}
                return [Left(who, self.name_of(who))]
            case "added" | "removed":
                user_ids = (who,) if isinstance(frame.user_ids, UnsetType) else tuple(frame.user_ids)
                count = len(user_ids) if isinstance(frame.user_count, UnsetType) else frame.user_count
                return [MembersChanged(frame.event, who, frame.content, user_ids, count)]
            case "renamed":
                return [MembersChanged(frame.event, who, frame.content)]
        return []

    def presence(self, frame: PresenceFrame) -> list[Event]:
        """Applies a `presence` frame."""
        self._names.update({user.user_id: user.username for user in (*frame.joined, *frame.left)})
        came = {user.user_id for user in frame.joined}
        went = {user.user_id for user in frame.left}
        self.active = (self.active | came) - went
        joined = [Joined(user.user_id, user.username) for user in frame.joined if user.user_id != self._user.id]
        return [*joined, *(Left(user.user_id, user.username) for user in frame.left)]

    def members(self, frame: MemberFrame, after: int) -> list[Event]:
        """Applies a `member` frame: an event for those who were added, and one for those who were removed.

        Args:
            frame: may begin with entries that came before, in a page of what was missed.
            after: the rev up to which they did.

        Raises:
            ProtocolError: it has no newer entry.
        """
        groups: dict[bool, list[Member]] = {}  # in the order of their first entries
        for entry in frame.members:
            if entry.rev > after:
                self.learn(entry.user_id, entry.username)
                member = Member(entry.user_id, entry.username, entry.is_member, entry.rev, entry.actor_id)
                groups.setdefault(entry.is_member, []).append(member)
        if not groups:
            raise ProtocolError("a `member` frame has no entry of its `rev`")
        return [self._changed(members, frame.member_count) for members in groups.values()]

    def _changed(self, members: list[Member], member_count: int) -> MembersChanged:
        first = members[0]
        user_ids = tuple(member.user_id for member in members)
        if first.is_member:
            what, text = "added", f"{_named(members)} added{self._by(members)}"
        elif len(members) == 1 and first.actor_id == first.user_id:
            what, text = "removed", f"User {first.username} left the group"
        else:
            what, text = "removed", f"{_named(members)} removed{self._by(members)}"
        return MembersChanged(what, first.user_id, text, user_ids, len(user_ids), tuple(members), member_count)

    def _by(self, members: list[Member]) -> str:
        """Names the user who added or removed all of these, if there is one and their name is known."""
        actors = {member.actor_id for member in members}
        actor = actors.pop() if len(actors) == 1 else None
        return f" by {self._names[actor]}" if actor in self._names else ""

    def conversation(self, frame: ConversationFrame) -> list[Event]:
        """Applies a `conversation` frame: an event for a new owner, and one for a new name or description.

        If neither differs from what the room knows, it is told as renamed: the change came before the room was opened.
        """
        details = GroupDetails(frame.name, frame.description, frame.owner_id, frame.rev, frame.actor_id)
        has_new_owner = frame.owner_id != self._owner_id
        is_renamed = (frame.name, frame.description) != (self._name, self._description)
        self._name, self._description, self._owner_id = frame.name, frame.description, frame.owner_id
        events: list[Event] = []
        if has_new_owner:
            text = f"User {self.name_of(frame.owner_id)} is now the owner"
            events.append(MembersChanged("new_owner", frame.owner_id, text, details=details))
        if is_renamed or not has_new_owner:
            actor = self._names.get(frame.actor_id) if frame.actor_id is not None else None
            text = f"User {actor} renamed the conversation" if actor else "The conversation was renamed"
            events.append(MembersChanged("renamed", frame.actor_id, text, details=details))
        return events


def _named(members: list[Member]) -> str:
    """Begins a sentence about users, without listing hundreds of them."""
    if len(members) == 1:
        return f"User {members[0].username} was"
    names = ", ".join(member.username for member in members[:MAX_NAMES_SHOWN])
    rest = len(members) - MAX_NAMES_SHOWN
    return f"Users {names} and {rest} more were" if rest > 0 else f"Users {names} were"
