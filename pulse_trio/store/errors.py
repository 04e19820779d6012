"""Errors of a store's operations."""

from collections.abc import Sequence
from uuid import UUID


class StoreError(Exception):
    """An operation of the store failed."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or does not answer; a retry may succeed."""


class StoreRefused(StoreError):
    """The store can never accept this value; a retry fails as well."""


class UsernameTaken(StoreError):
    """Another user has this name, or one that differs only in case or Unicode form."""


class UnknownUsers(StoreError):
    """Some of the given users do not exist.

    Args:
        ids: the unknown ones, in the given order.
    """

    def __init__(self, ids: Sequence[UUID]) -> None:
        super().__init__(f"{len(ids)} unknown users")
        self.ids = ids


class TooManyMembers(StoreError):
    """The group would exceed the given limit of members."""


class NotAMember(StoreError):
    """The conversation does not exist, or the user is not a member; the store does not reveal which."""


class NotAGroup(StoreError):
    """The members and the name of a one-to-one conversation cannot change."""


class OwnerOnly(StoreError):
    """Only the owner of the group may do this."""


class NoSuchMessage(StoreError):
    """The message does not exist in this conversation, or has been deleted."""


class NotYourMessage(StoreError):
    """Only the sender may edit a message; only the sender and the conversation's owner may delete it."""
