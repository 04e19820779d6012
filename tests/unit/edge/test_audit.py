"""Security events: a line each, samples under attack, and a count of what is left out."""

from typing import Any

import structlog
from trio.testing import MockClock

from pulse_trio.edge.audit import EVENT_BURST, SOURCE_BURST, Audit, SecurityEvent


def lines(audit: Audit, *sources: str, event: SecurityEvent = SecurityEvent.LOGIN_FAILED) -> list[Any]:
    with structlog.testing.capture_logs() as found:
        for source in sources:
            audit.record(event, source, address=source, code=None)
    return found


async def test_an_event_has_a_line_with_its_values(mock_clock: MockClock) -> None:
    assert lines(Audit(), "192.0.2.7") == [
        {"event": "login failed", "kind": "security", "address": "192.0.2.7", "log_level": "warning"}
    ]


async def test_a_source_that_repeats_itself_is_sampled_and_counted(mock_clock: MockClock) -> None:
    audit = Audit()
    assert len(lines(audit, *["192.0.2.7"] * 100)) == SOURCE_BURST
    assert lines(audit, "192.0.2.8")[0]["suppressed"] == 100 - SOURCE_BURST, "another source is seen"
    assert "suppressed" not in lines(audit, "192.0.2.8")[0]
    assert lines(audit, "192.0.2.7", event=SecurityEvent.LOGIN), "another event is seen"
    mock_clock.jump(5)
    assert len(lines(audit, "192.0.2.7", "192.0.2.7")) == 1


async def test_an_attack_from_many_sources_is_sampled(mock_clock: MockClock) -> None:
    assert len(lines(Audit(), *map(str, range(10_000)))) == EVENT_BURST


async def test_a_digest_is_the_same_for_one_name_and_differs_between_processes() -> None:
    audit = Audit()
    assert audit.digest("Ada") == audit.digest("ada")
    assert audit.digest("ada") != audit.digest("bob")
    assert audit.digest("ada") != Audit().digest("ada")
