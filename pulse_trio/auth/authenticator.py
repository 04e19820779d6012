"""The user of a token; users of an identity provider are created at their first request."""

from typing import Final
from uuid import UUID

import structlog
import trio

from pulse_trio.auth.tokens import Claims, Identity, Tokens, invalid_token
from pulse_trio.clock import Clock
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import IdSource, parse_uuid
from pulse_trio.store.base import Store, User, UsernameTaken
from pulse_trio.texts import MAX_USERNAME_CHARS, username_from

MAX_NAME_ATTEMPTS: Final = 1_000  # alice, alice-2, … alice-999: then the request is refused

MAX_REMEMBERED: Final = 10_000  # subjects: an entry has some 500 bytes
REMEMBERED_SECONDS: Final = 300.0  # then a user is looked up again: 10,000 active users are 33 look-ups a second

log = structlog.get_logger(__name__)


class Authenticator:
    """Turns a token into a user.

    The user of a token is looked up and then remembered for REMEMBERED_SECONDS, because each request needs one. In this
    version no operation renames, deletes or revokes a user; whatever does so must call `on_user_changed` in every
    process. A change by other means, such as SQL, is known everywhere after REMEMBERED_SECONDS. Users who were not
    found are looked up each time, and memberships are never remembered.
    """

    def __init__(self, tokens: Tokens, store: Store, *, provision_users: bool, clock: Clock, ids: IdSource) -> None:
        self._tokens = tokens
        self._store = store
        self._provision_users = provision_users
        self._clock = clock
        self._ids = ids
        # By the subject of their tokens, with the time of the look-up, the oldest first.
        self._remembered: dict[str, tuple[User, float]] = {}
        self._subjects: dict[UUID, set[str]] = {}  # user → their subjects in `_remembered`: at most two
        self._changes = 0  # counts calls of `on_user_changed`

    def on_user_changed(self, user_id: UUID | None) -> None:
        """Forgets a user, because they were renamed, deleted or revoked, in whichever process; None: all users.

        Look-ups that began before are not remembered. It may be called for users whom nobody remembers, and again.
        """
        self._changes += 1
        if user_id is None:
            self._remembered.clear()
            self._subjects.clear()
        else:
            for subject in self._subjects.pop(user_id, ()):
                del self._remembered[subject]

    async def authenticate(self, token: str | None) -> Identity:
        """Returns the user of a token, and the end of the token's life.

        Raises:
            PulseError: the token is missing or not valid, or its user does not exist.
            StoreUnavailable: the user could not be looked up.
        """
        if not token:
            raise PulseError(ErrorCode.NOT_AUTHENTICATED)
        claims = self._tokens.verify(token)
        user, since = self._remembered.get(claims.subject, (None, 0.0))
        if user is not None and trio.current_time() < since + REMEMBERED_SECONDS:
            return _identity(claims, user)
        changes, began = self._changes, trio.current_time()
        user = await self._find(claims)
        self._remember(claims.subject, user, changes, began)
        return _identity(claims, user)

    async def admit(self, token: str | None, conversation_id: UUID) -> tuple[Identity, int | None]:
        """Like `authenticate`, and looks up the membership of a conversation at the same time.

        Returns the identity, and the rev of the members as of which the user is one of them; None if they are not.
        """
        if not token:
            raise PulseError(ErrorCode.NOT_AUTHENTICATED)
        claims = self._tokens.verify(token)
        changes, began = self._changes, trio.current_time()
        found = await self._store.admission(conversation_id, claims.subject, _id_of(claims))
        user = await self._find(claims) if found is None else found.user
        self._remember(claims.subject, user, changes, began)
        if found is not None:
            return _identity(claims, user), found.members_rev
        return _identity(claims, user), await self._store.membership(conversation_id, user.id)

    def _remember(self, subject: str, user: User, changes: int, began: float) -> None:
        """Remembers a look-up, unless somebody has changed since it began."""
        if changes != self._changes:
            return
        self._forget(subject)
        self._remembered[subject] = user, began
        self._subjects.setdefault(user.id, set()).add(subject)
        if len(self._remembered) > MAX_REMEMBERED:
            self._forget(next(iter(self._remembered)))

    def _forget(self, subject: str) -> None:
        if subject in self._remembered:
            user, _ = self._remembered.pop(subject)
            subjects = self._subjects[user.id]
            subjects.discard(subject)
            if not subjects:
                del self._subjects[user.id]

    async def _find(self, claims: Claims) -> User:
        """Finds the user of a token, or creates one of an identity provider. Raises PulseError if there is none."""
        user = await self._store.find_subject(claims.subject, _id_of(claims))
        if user is None and self._provision_users:
            user = await self._provision(claims)
        if user is None:
            raise invalid_token("its user does not exist")
        return user

    async def _provision(self, claims: Claims) -> User | None:
        """Creates the user of an identity provider's token; a taken name gets a number at its end."""
        name = username_from(claims.name or "") or "user"
        for attempt in range(1, MAX_NAME_ATTEMPTS):
            suffix = "" if attempt == 1 else f"-{attempt}"
            user = User(self._ids(), name[: MAX_USERNAME_CHARS - len(suffix)].rstrip("._-") + suffix)
            try:
                await self._store.create_user(
                    user, password_hash=None, subject=claims.subject, created_at=self._clock()
                )
            except UsernameTaken:
                # Another user has the name, or another connection has just created this very subject.
                existing = await self._store.find_subject(claims.subject, None)
                if existing is not None:
                    return existing
            else:
                log.info("user provisioned", user_id=str(user.id))
                return user
        return None


def _identity(claims: Claims, user: User) -> Identity:
    # A provider's token names its user by the provider's subject, not by our id.
    is_ours = claims.subject == str(user.id)
    return Identity(user, claims.expires, claims.signed_in if is_ours else None)


def _id_of(claims: Claims) -> UUID | None:
    """Returns the id that a subject is, if it is one in its only form, which is not in capitals."""
    user_id = parse_uuid(claims.subject)
    return user_id if str(user_id) == claims.subject else None
