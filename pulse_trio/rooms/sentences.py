"""Sentences of `system` frames about members and names, for people."""

from collections.abc import Sequence
from typing import Final

from pulse_trio.model import Command, Member

MAX_NAMES_SHOWN: Final = 3  # in the sentence about users who were added


def added_sentence(members: Sequence[Member], command: Command | None) -> str:
    """Returns the sentence about users who were added, without listing hundreds of them."""
    names = [member.username for member in members[:MAX_NAMES_SHOWN]]
    rest = len(members) - len(names)
    if len(members) == 1:
        who = f"User {names[0]} was"
    else:
        who = f"Users {', '.join(names)} and {rest} more were" if rest else f"Users {', '.join(names)} were"
    return f"{who} added{_by(command)}"


def removed_sentence(member: Member, command: Command | None) -> str:
    """Returns the sentence about a user who left or was removed."""
    if member.actor_id == member.user_id:
        return f"User {member.username} left the group"
    return f"User {member.username} was removed{_by(command)}"


def renamed_sentence(command: Command | None) -> str:
    """Returns the sentence about a new name or description."""
    if command is None or command.actor_username is None:
        return "The conversation was renamed"
    return f"User {command.actor_username} renamed the conversation"


def _by(command: Command | None) -> str:
    return "" if command is None or command.actor_username is None else f" by {command.actor_username}"
