"""Passwords: their bounds, and hashes made in threads (argon2id, RFC 9106)."""

from typing import Any, Final

import argon2
import trio

MAX_PASSWORD_CHARS: Final = 256  # a passphrase fits; a megabyte to hash does not


class Passwords:
    """Hashes and verifies passwords in threads, a few at a time.

    m = 19 MiB, t = 2, p = 1 are the minimum for argon2id in OWASP's password storage cheat sheet.
    """

    def __init__(self, parallel: int) -> None:
        self._hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        # Bounded by PULSE_PASSWORD_HASH_PARALLEL: each hash takes 19 MiB and a core for about 30 ms.
        self._limiter = trio.CapacityLimiter(parallel)
        # An unknown user's password is verified against this, so that the answer takes as long as a known user's.
        self._dummy = self._hasher.hash("no user has this password")

    async def hash(self, password: str) -> str:
        """Returns the hash to store.

        Cancelled: when its thread has ended, so that every running hash is counted.
        """
        return str(await self._run_in_thread(self._hasher.hash, password))

    async def check(self, stored: str | None, password: str) -> bool:
        """Compares a password with a stored hash; False, after the same time, when `stored` is None.

        Cancelled: as `hash`.
        """
        try:
            await self._run_in_thread(self._hasher.verify, self._dummy if stored is None else stored, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
        return stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Returns whether a hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    async def _run_in_thread(self, function: Any, *args: str) -> Any:
        return await trio.to_thread.run_sync(function, *args, limiter=self._limiter)
