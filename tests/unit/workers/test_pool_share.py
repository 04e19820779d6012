"""The connections of PostgreSQL are shared out among workers, or the start is refused."""

import pytest

from pulse_trio.database.pool_share import MIN_SHARE, OWN_CONNECTIONS, PEOPLE, PoolShare, needed_sessions, share_out
from pulse_trio.errors import LaunchError

ALONE = PoolShare(10, 5)


@pytest.mark.parametrize("workers", [2, 3, 4, 8, 40])
@pytest.mark.parametrize("allowed", [20, 47, 97, 200, 497])
def test_all_workers_fit_whatever_is_allowed(allowed: int, workers: int) -> None:
    try:
        share = share_out(allowed, ALONE, workers)
    except LaunchError:
        assert needed_sessions(PoolShare(MIN_SHARE - 1, 1), workers) > allowed
        return
    assert workers * (share.main + share.messages + OWN_CONNECTIONS) + PEOPLE <= allowed
    assert share.messages >= 1
    assert share.main + share.messages >= MIN_SHARE
    assert share.main <= ALONE.main
    assert share.messages <= ALONE.messages
    assert (share == ALONE) == (needed_sessions(ALONE, workers) <= allowed)


def test_a_pool_of_few_is_shared_as_it_is() -> None:
    assert share_out(47, PoolShare(1, 5), 4) == PoolShare(1, 5)


def test_the_refusal_says_what_would_do() -> None:
    with pytest.raises(LaunchError, match="allows 22 connections, too few for 2 workers") as caught:
        share_out(22, ALONE, 2)
    assert "so that 23 are free" in str(caught.value)
    assert "run at most 1 with PULSE_WORKERS" in str(caught.value)
    assert share_out(23, ALONE, 2) == PoolShare(3, 1)
