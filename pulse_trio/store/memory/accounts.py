"""Accounts in memory."""

from datetime import datetime
from uuid import UUID

import trio

from pulse_trio.store.base import Account, User, UsernameTaken, UserPage
from pulse_trio.store.memory.state import State, StoredAccount
from pulse_trio.texts import username_key


class Accounts(State):
    """Operations of the contract on accounts."""

    async def create_user(
        self, user: User, *, password_hash: str | None, subject: str | None, created_at: datetime
    ) -> None:
        await trio.lowlevel.checkpoint()
        for other in self._accounts.values():
            if username_key(other.user.username) == username_key(user.username):
                raise UsernameTaken
            if subject is not None and other.subject == subject:
                raise UsernameTaken
        self._accounts[user.id] = StoredAccount(user, password_hash, subject)

    async def find_account(self, username: str) -> Account | None:
        await trio.lowlevel.checkpoint()
        key = username_key(username)
        for account in self._accounts.values():
            if username_key(account.user.username) == key:
                return Account(account.user, account.password_hash)
        return None

    async def find_subject(self, subject: str, user_id: UUID | None) -> User | None:
        await trio.lowlevel.checkpoint()
        for account in self._accounts.values():
            if account.subject == subject:
                return account.user
        account_by_id = None if user_id is None else self._accounts.get(user_id)
        return None if account_by_id is None else account_by_id.user

    async def set_password_hash(self, user_id: UUID, password_hash: str, *, old_hash: str) -> None:
        await trio.lowlevel.checkpoint()
        account = self._accounts.get(user_id)
        if account is not None and account.password_hash == old_hash:
            account.password_hash = password_hash

    async def search_users(
        self,
        prefix: str,
        *,
        limit: int,
        offset: int = 0,
        after: str | None = None,
        max_total: int | None = None,
        by: UUID | None = None,
    ) -> UserPage:
        await trio.lowlevel.checkpoint()
        prefix_key = username_key(prefix)
        users = {username_key(account.user.username): account.user for account in self._accounts.values()}
        keys = sorted(key for key in users if key.startswith(prefix_key))
        found = keys if after is None else [key for key in keys if key > after]
        page = found[offset : offset + limit]
        return UserPage(
            tuple(users[key] for key in page),
            total=len(keys) if max_total is None else min(len(keys), max_total),
            next_after=page[-1] if len(found) > offset + limit else None,
            is_total_exact=max_total is None or len(keys) <= max_total,
        )
