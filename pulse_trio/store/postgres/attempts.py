"""Limited attempts in PostgreSQL: all processes take tokens from the same buckets."""

from collections.abc import Sequence
from typing import Final

from pulse_trio.store.postgres.callers import Caller
from pulse_trio.store.postgres.connected import Connected
from pulse_trio.store.protections import MAX_ATTEMPT_BUCKETS, MAX_REFILL, AttemptBucket, AttemptVerdict

# Locks the buckets in the order of their keys, so that two attempts cannot deadlock, and inserts those that are full.
# A row is locked although WHERE is false; it gets no new version.
_LOCK: Final = """
    INSERT INTO attempt_buckets (key, missing, counted_at)
    SELECT key, 0, clock_timestamp() FROM unnest(%s::bytea[]) AS asked (key) ORDER BY key
    ON CONFLICT (key) DO UPDATE SET missing = 0 WHERE false
"""
# Sees what earlier holders of the locks have done, as a statement of its own. Tokens come back with time; a clock that
# was set back brings none. Part 0 must give, and one of the others.
_TAKE: Final = """
    WITH moment AS MATERIALIZED (SELECT clock_timestamp() AS at), level AS MATERIALIZED (
        SELECT asked.*, moment.at,
            greatest(0, b.missing - greatest(0, extract(epoch FROM moment.at - b.counted_at)) * asked.rate) AS missing
        FROM unnest(%(keys)s::bytea[], %(parts)s::int[], %(rates)s::float8[], %(bursts)s::float8[])
            AS asked (key, part, rate, burst)
        JOIN attempt_buckets b ON b.key = asked.key CROSS JOIN moment
    ), part AS MATERIALIZED (
        SELECT part, max(greatest(0, missing + 1 - burst - 1e-9) / rate) AS wait FROM level GROUP BY part
    ), verdict AS MATERIALIZED (
        SELECT coalesce(bool_and(wait = 0) FILTER (WHERE part = 0), true)
            AND coalesce(bool_or(wait = 0) FILTER (WHERE part > 0), true) AS is_accepted
        FROM part
    ), taken AS (
        UPDATE attempt_buckets b SET missing = level.missing + 1, counted_at = level.at
        FROM level JOIN part ON part.part = level.part
        WHERE b.key = level.key AND part.wait = 0 AND (SELECT is_accepted FROM verdict)
    )
    SELECT part.part, part.wait, verdict.is_accepted FROM part CROSS JOIN verdict
"""
# The rows of a rejected attempt are not kept: they cost the attacker no password hash.
_DROP_FULL: Final = "DELETE FROM attempt_buckets WHERE key = ANY(%s) AND missing = 0"
# The levels are those of the locked rows, as they are after the wait for their locks.
_GIVE_BACK: Final = """
    WITH locked AS MATERIALIZED (
        SELECT b.key, b.missing, b.counted_at, asked.rate
        FROM attempt_buckets b JOIN unnest(%(keys)s::bytea[], %(rates)s::float8[]) AS asked (key, rate)
            ON asked.key = b.key
        ORDER BY b.key FOR UPDATE OF b
    ), moment AS MATERIALIZED (SELECT clock_timestamp() AS at), level AS MATERIALIZED (
        SELECT key, moment.at,
            missing - greatest(0, extract(epoch FROM moment.at - counted_at)) * rate - 1 AS missing
        FROM locked CROSS JOIN moment
    ), dropped AS (
        DELETE FROM attempt_buckets b USING level WHERE b.key = level.key AND level.missing <= 0
    )
    UPDATE attempt_buckets b SET missing = level.missing, counted_at = level.at
    FROM level WHERE b.key = level.key AND level.missing > 0
"""
_FORGET: Final = """
    WITH stale AS MATERIALIZED (
        SELECT key FROM attempt_buckets
        WHERE counted_at <= greatest(
            clock_timestamp() - %s * interval '1 second',
            (SELECT counted_at FROM attempt_buckets ORDER BY counted_at DESC OFFSET %s LIMIT 1)
        ) FOR UPDATE SKIP LOCKED
    )
    DELETE FROM attempt_buckets b USING stale WHERE b.key = stale.key
"""


class Attempts(Connected):
    """Operations of the contract on limited attempts; one round trip each, two for a rejected one."""

    max_attempt_buckets = MAX_ATTEMPT_BUCKETS

    async def take_tokens(self, groups: Sequence[Sequence[AttemptBucket]]) -> AttemptVerdict:
        if not any(groups):
            return AttemptVerdict(tuple(range(len(groups))), (0.0,) * len(groups))
        values = _values(groups)
        keys = values["keys"]
        async with self.connection(Caller.CHANGES, keys[0]) as connection:
            async with connection.pipeline():  # one transaction and one round trip
                await connection.execute(_LOCK, (keys,), prepare=True)
                cursor = await connection.execute(_TAKE, values, prepare=True)
            rows = await cursor.fetchall()
            is_accepted = rows[0][2]
            if not is_accepted:
                await connection.execute(_DROP_FULL, (keys,))
        found = {part: wait for part, wait, _ in rows}
        waits = tuple(found.get(part, 0.0) for part in range(len(groups)))
        return AttemptVerdict(tuple(part for part, wait in enumerate(waits) if not wait and is_accepted), waits)

    async def give_back_tokens(self, buckets: Sequence[AttemptBucket]) -> None:
        if not buckets:
            return
        values = _values([buckets])
        async with self.connection(Caller.CHANGES, values["keys"][0]) as connection:
            await connection.execute(_GIVE_BACK, values, prepare=True)

    async def forget_attempts(self) -> None:
        """Removes buckets that are full again, and those beyond the bound that were used longest ago."""
        async with self.connection(Caller.CHANGES) as connection:
            await connection.execute(_FORGET, (MAX_REFILL, self.max_attempt_buckets))


def _values(groups: Sequence[Sequence[AttemptBucket]]) -> dict[str, list[object]]:
    """Returns the buckets of groups as parameters of statements; a part is the index of a group."""
    asked = [(part, bucket) for part, group in enumerate(groups) for bucket in group]
    return {
        "keys": [bucket.key for _, bucket in asked],
        "parts": [part for part, _ in asked],
        "rates": [bucket.rate for _, bucket in asked],
        "bursts": [bucket.burst for _, bucket in asked],
    }
