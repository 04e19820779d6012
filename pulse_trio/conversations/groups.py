"""Conversations and their members: create, add, remove, rename.

Each change is one statement of the store, and what follows from it in the rooms. Both are shielded together: a caller
who hangs up in between must not leave rooms that know nothing of a committed change. If the answer about members is
lost, the store is asked later whether it was committed (`MemberUpdates.recheck_later`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import trio

from pulse_trio.conversations.core import Core
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.store.base import (
    Conversation,
    NewConversation,
    NotAGroup,
    NotAMember,
    StoreUnavailable,
    TooManyMembers,
    User,
)

MAX_NAMES_SHOWN: Final = 3  # in the sentence about users who were added
REMOVED: Final = "removed from the conversation"  # the reason in close frames


async def create(
    core: Core, owner: User, other_ids: Sequence[UUID], *, is_group: bool, name: str | None, description: str | None
) -> tuple[Conversation, bool]:
    """Creates a conversation; returns it as its owner sees it, and True.

    Two users have one one-to-one conversation: if it exists, it is returned instead, with False.

    Args:
        core: the running service.
        owner: the user who creates it, and a member.
        other_ids: the other members, each once and without the owner; exactly one if it is not a group.
        is_group: tells a group from a one-to-one conversation.
        name: its name, or None.
        description: its description, or None.

    Raises:
        TooManyMembers: more than `PULSE_MAX_GROUP_MEMBERS`.
        UnknownUsers: some of the members do not exist.
        StoreUnavailable: it may be created or not.
    Cancelled: never between the store and the rooms.
    """
    if len(other_ids) + 1 > core.settings.max_group_members:
        raise TooManyMembers
    new = NewConversation(
        id=core.ids(),
        name=name,
        description=description,
        is_group=is_group,
        owner_id=owner.id,
        member_ids=(owner.id, *other_ids),
        created_at=core.clock(),
    )
    with (
        core.hub.members.changing(new.id, new.member_ids),
        _recheck_lost_additions(core, new.id, new.member_ids),
        _shielded_change(core),
    ):
        conversation, is_new = await core.store.create_conversation(new)
        if is_new or not conversation.head.last_rev:  # perhaps the answer to its creation was lost
            await core.hub.members.add_users(conversation.id, new.member_ids, conversation.head.members_version)
    return conversation, is_new


async def update(core: Core, conversation_id: UUID, actor: User, changes: Mapping[str, str | None]) -> Conversation:
    """Changes the `name` and the `description` of a group; returns the conversation as it now is.

    Args:
        core: the running service.
        conversation_id: the group.
        actor: a member of it.
        changes: the new values, those of them that change. Without any, the group keeps the time of its last activity.

    Raises:
        NotAMember: the actor is not in the conversation, or it does not exist.
        NotAGroup: it is a one-to-one conversation.
        StoreUnavailable: it may be changed or not.
    Cancelled: never between the store and the rooms.
    """
    if not changes:
        found = await get(core, conversation_id, actor)
        if not found.is_group:
            raise NotAGroup
        return found
    with _shielded_change(core):
        changed = await core.store.rename(conversation_id, actor.id, dict(changes), now=core.clock())
        core.hub.rooms.announce(conversation_id, "renamed", f"User {actor.username} renamed the conversation", actor.id)
    return changed


async def add_members(core: Core, conversation_id: UUID, actor: User, user_ids: Sequence[UUID]) -> Conversation:
    """Adds users to a group; members among them stay. Returns the conversation as it now is.

    Args:
        core: the running service.
        conversation_id: the group.
        actor: a member of it.
        user_ids: the users, each once.

    Raises:
        NotAMember: the actor is not in the conversation, or it does not exist.
        NotAGroup: it is a one-to-one conversation.
        UnknownUsers: some of the users do not exist.
        TooManyMembers: there would be more than `PULSE_MAX_GROUP_MEMBERS`.
        StoreUnavailable: they may be added or not.
    Cancelled: never between the store and the rooms.
    """
    with (
        core.hub.members.changing(conversation_id, user_ids),
        _recheck_lost_additions(core, conversation_id, user_ids),
        _shielded_change(core),
    ):
        added = await core.store.add_members(
            conversation_id, actor.id, user_ids, limit=core.settings.max_group_members, now=core.clock()
        )
        # Also those who were members before: the answer to their addition may have been lost.
        newcomer_ids = {newcomer.id for newcomer in added.users}
        current = set(
            await core.hub.members.add_users(conversation_id, user_ids, added.version, newcomers=newcomer_ids)
        )
        newcomers = [newcomer for newcomer in added.users if newcomer.id in current]
        if newcomers:
            ids = [newcomer.id for newcomer in newcomers]
            core.hub.rooms.announce(
                conversation_id, "added", f"{_named(newcomers)} added by {actor.username}", ids[0], ids
            )
    return await get(core, conversation_id, actor)


async def remove_member(core: Core, conversation_id: UUID, actor: User, user_id: UUID) -> None:
    """Removes a user from a group: themselves, or another one by its owner.

    When it returns, nothing of the conversation is delivered to the user any more.

    Raises:
        NotAMember: the actor is not in the conversation, or it does not exist.
        NotAGroup: it is a one-to-one conversation.
        OwnerOnly: the actor is not the owner, and the user is another one.
        PulseError: the user is not a member.
        StoreUnavailable: they may be removed or not; their connections are closed.
    Cancelled: never between the store and the rooms.
    """
    try:
        with core.hub.members.changing(conversation_id), _shielded_change(core):
            removed = await core.store.remove_member(conversation_id, actor.id, user_id, now=core.clock())
            # Also without a user: perhaps the answer to an earlier removal was lost.
            is_current = core.hub.members.remove_user(conversation_id, user_id, removed.version, REMOVED)
            leaver = removed.user
            if leaver is None:
                raise no_such_member()
            if is_current:
                how = "left the group" if leaver.id == actor.id else f"was removed by {actor.username}"
                core.hub.rooms.announce(
                    conversation_id, "removed", f"User {leaver.username} {how}", leaver.id, [leaver.id]
                )
    except StoreUnavailable:
        core.hub.members.reconnect_user(conversation_id, user_id)  # their membership is looked up when they come back
        core.hub.members.recheck_later(conversation_id, removed=[user_id])
        raise


async def get(core: Core, conversation_id: UUID, user: User) -> Conversation:
    """Returns a conversation as one of its members sees it.

    Raises:
        NotAMember: the user is not in the conversation, or it does not exist.
        StoreUnavailable: it could not be looked up.
    """
    found = await core.store.get_conversation(conversation_id, user.id)
    if found is None:
        raise NotAMember
    return found


async def active_users(core: Core, conversation_id: UUID, user: User) -> list[UUID]:
    """Lists the users that are connected to a conversation, in the order they came, for one of its members.

    Raises:
        NotAMember: the user is not in the conversation, or it does not exist.
        StoreUnavailable: the membership could not be looked up.
    """
    await require_member(core, conversation_id, user)
    return [UUID(user_id) for user_id in core.hub.get_active_users(conversation_id)]


async def require_member(core: Core, conversation_id: UUID, user: User) -> None:
    """Checks a membership before the room opens, so that strangers cannot open rooms.

    Raises:
        NotAMember: the user is not in the conversation, or it does not exist.
        StoreUnavailable: the membership could not be looked up.
    """
    if await core.store.membership(conversation_id, user.id) is None:
        raise NotAMember


def no_such_member() -> PulseError:
    """Returns the error for a user who is not a member of the group."""
    return PulseError(ErrorCode.NOT_FOUND, "There is no such member")


@contextmanager
def _shielded_change(core: Core) -> Iterator[None]:
    """Shields a change of the store and what follows from it, for at most `PULSE_STORE_TIMEOUT` seconds.

    Raises:
        StoreUnavailable: it took longer; it may be done or not.
    """
    try:
        with trio.fail_after(core.settings.store_timeout, shield=True):
            yield
    except trio.TooSlowError:
        raise StoreUnavailable("a change took too long") from None


@contextmanager
def _recheck_lost_additions(core: Core, conversation_id: UUID, user_ids: Sequence[UUID]) -> Iterator[None]:
    """Wraps an addition of users: if its answer is lost, whether it was committed is looked up later."""
    try:
        yield
    except StoreUnavailable:
        core.hub.members.recheck_later(conversation_id, added=user_ids)
        raise


def _named(users: Sequence[User]) -> str:
    """Names users for a sentence, without listing hundreds of them."""
    if len(users) == 1:
        return f"User {users[0].username} was"
    names = [user.username for user in users[:MAX_NAMES_SHOWN]]
    rest = len(users) - len(names)
    return f"Users {', '.join(names)} and {rest} more were" if rest else f"Users {', '.join(names)} were"
