"""A short run of the fuzz, and tests that its oracle finds what is wrong."""

from collections.abc import Iterator
from typing import Any

import pytest
import trio

from tests.javascript_fuzz.clients import javascript_clients
from tests.javascript_fuzz.oracle import broken_promises, differences
from tests.javascript_fuzz.program import Sent
from tests.javascript_fuzz.round import Round
from tests.javascript_fuzz.service import Service
from tests.support.bad_network import WEIGHTS, fate_of

LISTED = {"name": "Team", "member_count": 2, "read_seq": 1, "last_seq": 2}
MESSAGES = [{"seq": 1, "content": "page 1|3"}, {"seq": 2, "content": "page 2"}]
TRUTH: dict[str, Any] = {"list": {"a": LISTED}, "histories": {"a": MESSAGES}}
REPORT: dict[str, Any] = {
    "isIdle": True,
    "state": "online",
    "list": {"a": {"name": "Team", "read_seq": 1}},
    "histories": {"a": [[1, "page 1|3"], [2, "page 2"]], "b": [[1, "of a conversation that the user left"]]},
}


@pytest.fixture
def service(database: str) -> Iterator[Service]:
    """A service with low limits."""
    service = Service(database)
    yield service
    service.stop()


@pytest.mark.parametrize("seed", [1, 2])
async def test_clients_show_what_the_service_has(service: Service, seed: int) -> None:
    with trio.fail_after(240):
        await service.wait_ready()
        result = await Round(service, javascript_clients(), seed).run(seconds=8)
    assert result.violations == []
    for name in ("page", "store"):
        assert result.counters[f"{name}: messages"] > 5, result.counters
        assert result.counters[f"{name}: histories"] > 0, result.counters
    assert sum(count for name, count in result.counters.items() if name.startswith("connection")) > 10


def test_the_fates_of_connections_repeat_and_all_occur() -> None:
    fates = [fate_of(7, number) for number in range(500)]
    assert fates == [fate_of(7, number) for number in range(500)]
    assert {fate.kind for fate in fates} == set(WEIGHTS)
    assert fates != [fate_of(8, number) for number in range(500)]


def changed(**changes: Any) -> dict[str, Any]:
    return {**REPORT, **changes}


@pytest.mark.parametrize(
    ("report", "part"),
    [
        (changed(isIdle=False), "not idle"),
        (changed(histories={}), "no history"),
        (changed(list={}), "the list has"),
        (changed(list={"a": {"name": "Old", "read_seq": 1}}), "name is 'Old'"),
        (changed(histories={"a": [[1, "page 1"], [2, "page 2"]]}), "page 1|3"),
        (changed(histories={"a": [[1, "page 1|3"]]}), "1 messages, right are 2"),
        (changed(histories={"a": []}), "0 messages, right are 2"),
        (changed(histories={"a": [[1, "page 1|3"], [2, "page 2"], [3, "lost"]]}), "3 messages, right are 2"),
    ],
)
def test_the_oracle_finds_what_a_client_shows_wrong(report: dict[str, Any], part: str) -> None:
    assert differences(REPORT, TRUTH) == []
    (found,) = differences(report, TRUTH)
    assert part in found


@pytest.mark.parametrize(
    ("sent", "part"),
    [
        ({"k": Sent("a", "page 1", is_settled=False)}, "no outcome"),
        ({"k": Sent("a", "lost", is_settled=True)}, "stored 0 times"),
        ({"k": Sent("a", "page 1", is_settled=True, error="network")}, "rejected with network"),
        ({"k": Sent("a", "page 2", is_settled=True), "l": Sent("a", "page 1", is_settled=True)}, "before an earlier"),
    ],
)
def test_the_oracle_finds_lost_messages(sent: dict[str, Sent], part: str) -> None:
    right = {"k": Sent("a", "page 1", is_settled=True), "l": Sent("a", "page 2", is_settled=True)}
    assert broken_promises(right, TRUTH) == []
    (found,) = broken_promises(sent, TRUTH)
    assert part in found


def test_the_oracle_finds_doubled_messages() -> None:
    twice = {**TRUTH, "histories": {"a": [*MESSAGES, {"seq": 3, "content": "page 1"}]}}
    for error in (None, "not_a_member"):
        (found,) = broken_promises({"k": Sent("a", "page 1", is_settled=True, error=error)}, twice)
        assert "stored 2 times" in found
