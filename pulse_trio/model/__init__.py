"""The model: what users ask for (commands) and what became of it (changes). No I/O.

Example: bob asks for `Post(content="hello")`. The store answers with one change, the stored `Message` with its `seq`
and `rev`. Every change that the members of a conversation share takes the next `rev` of the conversation, whatever its
kind, so all of them have one order. A change is an object as it now is: a message that was edited twice is one.
"""

from pulse_trio.model.changes import Change, Kind, Member, Message, Properties, highest_rev
from pulse_trio.model.commands import (
    AddMembers,
    Command,
    Delete,
    Edit,
    Leave,
    Post,
    RemoveMember,
    SetProperties,
    text_chars,
)
from pulse_trio.model.features import FEATURED, NO_FEATURES, Features
from pulse_trio.model.users import MyMembership, User

__all__ = [
    "FEATURED",
    "NO_FEATURES",
    "AddMembers",
    "Change",
    "Command",
    "Delete",
    "Edit",
    "Features",
    "Kind",
    "Leave",
    "Member",
    "Message",
    "MyMembership",
    "Post",
    "Properties",
    "RemoveMember",
    "SetProperties",
    "User",
    "highest_rev",
    "text_chars",
]
