"""Conversations and their members: create, add, remove, rename.

A change of a conversation is a command for its room, whose writer carries it out and whose feed delivers it; a caller
who hangs up changes nothing about that. A creation, for which there is no room yet, is shielded together with its
notifications. If its answer is lost, the store is asked later whether it was committed.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

import trio

from pulse_trio.conversations.core import Core
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.model import AddMembers, Change, Command, Leave, Member, RemoveMember, SetProperties, User
from pulse_trio.rooms.backoff import Backoff
from pulse_trio.store.base import (
    Conversation,
    Created,
    NewConversation,
    NoSuchMember,
    NotAGroup,
    NotAMember,
    StoreUnavailable,
    TooManyMembers,
)


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
    Cancelled: it may be done or not; if it is, the rooms know of it.
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
    try:
        with trio.fail_after(core.settings.store_timeout, shield=True):
            created = await _create(core, new)
            is_new = created.is_new or created.conversation.id == new.id  # else the answer to the first try was lost
            if is_new:
                await core.hub.members.notify_created(created.conversation.id, new.member_ids, created.memberships)
    except (StoreUnavailable, trio.TooSlowError):
        core.hub.members.recheck_creation(new.id, new.member_ids)
        raise StoreUnavailable("the creation has no answer") from None
    return created.conversation, is_new


async def _create(core: Core, new: NewConversation) -> Created:
    """Creates a conversation; retries while the store is away, as the same id makes that harmless."""
    backoff = Backoff(core.hub.random)
    while True:
        try:
            return await core.store.create_conversation(new)
        except StoreUnavailable:
            await backoff.wait()


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
    Cancelled: it may be done or not; if it is, the rooms know of it.
    """
    if not changes:
        found = await get(core, conversation_id, actor)
        if not found.is_group:
            raise NotAGroup
        return found
    await require_member(core, conversation_id, actor)
    await _apply(
        core,
        SetProperties(
            id=core.ids(),
            conversation_id=conversation_id,
            actor_id=actor.id,
            at=core.clock(),
            actor_username=actor.username,
            values=changes,
        ),
    )
    return await get(core, conversation_id, actor)


async def add_members(
    core: Core, conversation_id: UUID, actor: User, user_ids: Sequence[UUID]
) -> tuple[Conversation, list[UUID]]:
    """Adds users to a group; members among them stay.

    Returns the conversation as it now is, and the users who were added: those of the given ones who were not in it.

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
    Cancelled: it may be done or not; if it is, the rooms know of it.
    """
    await require_member(core, conversation_id, actor)
    changes = await _apply(
        core,
        AddMembers(
            id=core.ids(),
            conversation_id=conversation_id,
            actor_id=actor.id,
            at=core.clock(),
            actor_username=actor.username,
            user_ids=tuple(user_ids),
            limit=core.settings.max_group_members,
        ),
    )
    added = [change.user_id for change in changes if isinstance(change, Member)]
    return await get(core, conversation_id, actor), added


async def remove_member(core: Core, conversation_id: UUID, actor: User, user_id: UUID) -> None:
    """Removes a user from a group: themselves, or another one by its owner.

    When it returns, nothing of the conversation is delivered to the user any more.

    Raises:
        NotAMember: the actor is not in the conversation, or it does not exist.
        NotAGroup: it is a one-to-one conversation.
        OwnerOnly: the actor is not the owner, and the user is another one.
        PulseError: the user is not a member.
        StoreUnavailable: they may be removed or not; if they are, they get nothing that is stored after it.
    Cancelled: it may be done or not; if it is, the rooms know of it.
    """
    await require_member(core, conversation_id, actor)
    command: Leave | RemoveMember
    if user_id == actor.id:
        command = Leave(
            id=core.ids(),
            conversation_id=conversation_id,
            actor_id=actor.id,
            at=core.clock(),
            actor_username=actor.username,
        )
    else:
        command = RemoveMember(
            id=core.ids(),
            conversation_id=conversation_id,
            actor_id=actor.id,
            at=core.clock(),
            actor_username=actor.username,
            user_id=user_id,
        )
    try:
        await _apply(core, command)
    except NoSuchMember:
        raise no_such_member() from None


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
    return await core.hub.active_users(conversation_id)


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


async def _apply(core: Core, command: Command) -> Sequence[Change]:
    """Carries out a command.

    Raises:
        Refusal: the store refused it.
        StoreUnavailable: it may be carried out or not.
    """
    try:
        return await core.hub.apply(command)
    except PulseError as error:
        if error.code is ErrorCode.NOT_STORED:  # whose sentence is about messages
            raise StoreUnavailable("the change has no answer") from None
        raise
