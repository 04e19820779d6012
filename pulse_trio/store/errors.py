"""Errors of a store's operations."""

from collections.abc import Sequence
from uuid import UUID

from pulse_trio.model import Message


class StoreError(Exception):
    """An operation of the store failed."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or does not answer; a retry may succeed."""


class StoreRefused(StoreError):
    """The store can never accept this value; a retry fails as well."""


class UsernameTaken(StoreError):
    """Another user has this name, or one that differs only in case or Unicode form."""


class Refusal(StoreError):
    """A command, or a question, that this user may not ask or that makes no sense now. Nothing was changed."""


class UnknownUsers(Refusal):
    """Some of the given users do not exist.

    Args:
        ids: the unknown ones, in the given order.
    """

    def __init__(self, ids: Sequence[UUID]) -> None:
        super().__init__(f"{len(ids)} unknown users")
        self.ids = ids


class TooManyMembers(Refusal):
    """The group would exceed the given limit of members."""


class NotAMember(Refusal):
    """The conversation does not exist, or the user is not a member; the store does not reveal which."""


class NotAGroup(Refusal):
    """The members and the name of a one-to-one conversation cannot change."""


class OwnerOnly(Refusal):
    """Only the owner of the group may do this."""


class NoSuchMessage(Refusal):
    """The message does not exist in this conversation, or has been deleted."""


class NotYourMessage(Refusal):
    """Only the sender may edit a message; only the sender and the conversation's owner may delete it."""


class NoSuchMember(Refusal):
    """The user to remove is not a member of the group."""


class StaleRev(Refusal):
    """The message has another rev than the one that the edit asks for.

    Args:
        current: the message as it now is.
    """

    def __init__(self, current: Message) -> None:
        super().__init__(f"the message has rev {current.rev}")
        self.current = current
