"""A short round of chaos; `make fuzz-cluster` plays it on each engine, and longer ones."""

import os
import random

import pytest

from tests.cluster_chaos.round import Round, Size
from tests.support.cluster import Cluster
from tests.support.cluster_processes import ENGINES

SIZE = Size(seconds=12, clients=40, users=16, rooms=6)


# One is enough beside all other tests: a round keeps a core busy for half a minute.
LONG = pytest.mark.skipif("PULSE_TEST_CLUSTER_CHAOS" not in os.environ, reason="part of `make fuzz-cluster`")


@pytest.mark.parametrize("engine", [pytest.param(each, marks=() if each == "postgres" else LONG) for each in ENGINES])
def test_a_cluster_keeps_its_promises_while_it_is_broken(engine: str, cluster: Cluster) -> None:
    seed = random.SystemRandom().randrange(10**6)
    records = Round(seed, cluster, engine, SIZE).play()
    command = f"python -m tests.cluster_chaos --rounds 1 --engine {engine} --start {seed}"
    assert not records.violations, (command, records.violations[:10])
    assert not {"acknowledged", "stored", "act kill", "act stop"} - set(records.counters), "never happened"
