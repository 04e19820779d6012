"""Sentences of `system` frames about members and names, for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pulse_trio.model import Command, Member, SetProperties

MAX_NAMES_SHOWN: Final = 3  # in the sentence about users who were added


@dataclass(frozen=True, slots=True)
class Act:
    """A command, as far as sentences about its changes need it: another process may have carried it out.

    Attributes:
        actor_username: the name of the user who asked for it, if it is known.
        is_renaming: it sets the properties of a conversation.
    """

    actor_username: str | None
    is_renaming: bool


def act_of(command: Command) -> Act:
    """Returns the act of a command."""
    return Act(command.actor_username, is_renaming=isinstance(command, SetProperties))


def added_sentence(members: Sequence[Member], act: Act | None) -> str:
    """Returns the sentence about users who were added, without listing hundreds of them."""
    names = [member.username for member in members[:MAX_NAMES_SHOWN]]
    rest = len(members) - len(names)
    if len(members) == 1:
        who = f"User {names[0]} was"
    else:
        who = f"Users {', '.join(names)} and {rest} more were" if rest else f"Users {', '.join(names)} were"
    return f"{who} added{_by(act)}"


def removed_sentence(member: Member, act: Act | None) -> str:
    """Returns the sentence about a user who left or was removed."""
    if member.actor_id == member.user_id:
        return f"User {member.username} left the group"
    return f"User {member.username} was removed{_by(act)}"


def renamed_sentence(act: Act | None) -> str:
    """Returns the sentence about a new name or description."""
    if act is None or act.actor_username is None:
        return "The conversation was renamed"
    return f"User {act.actor_username} renamed the conversation"


def _by(act: Act | None) -> str:
    return "" if act is None or act.actor_username is None else f" by {act.actor_username}"
