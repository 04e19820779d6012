"""The metrics of several workers in one answer."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from prometheus_client.parser import text_string_to_metric_families

from pulse_trio.edge.operators.prometheus import join_families, split_families
from pulse_trio.edge.siblings import ANSWER_SECONDS, Family, Siblings

PLAIN = """\
# HELP a_total One.
# TYPE a_total counter
a_total{worker="0"} 1.0
# HELP b Two # HELP.
# TYPE b gauge
b 2.0
"""


def listener(folder: Path, slot: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(Siblings.path(folder, slot)))
    sock.listen()
    return sock


@asynccontextmanager
async def answering(folder: Path, slot: int, count: int) -> AsyncIterator[Siblings]:
    """A worker that answers with its slot and what it was asked."""
    made = Siblings(folder, slot, count, listener(folder, slot))

    async def families(accept: str) -> list[Family]:
        return [("family", f"head of {accept}\n", f"from {slot}\n")]

    async with trio.open_nursery() as nursery:
        await nursery.start(made.serve, families)
        yield made
        nursery.cancel_scope.cancel()


def test_families_are_split_and_joined_without_a_change() -> None:
    families = split_families(PLAIN)
    assert [name for name, _, _ in families] == ["a_total", "b"]
    assert "".join(head + body for _, head, body in families) == PLAIN
    assert split_families(PLAIN + "# EOF\n") == families


def test_each_family_is_described_once_and_has_the_series_of_all() -> None:
    one = [("a", "# HELP a A.\n# TYPE a gauge\n", 'a{worker="0"} 1.0\n')]
    two = [("a", "# HELP a A.\n# TYPE a gauge\n", 'a{worker="1"} 2.0\n')]
    text = join_families({0: one, 1: two, 2: None}, "")
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert [sample.value for sample in found["a"].samples] == [1, 2]
    up = {sample.labels["worker"]: sample.value for sample in found["pulse_process_up"].samples}
    assert up == {"0": 1, "1": 1, "2": 0}
    open_metrics = join_families({0: one}, "application/openmetrics-text; version=1.0.0")
    assert open_metrics.endswith("# EOF\n")
    assert open_metrics.count("# EOF") == 1


async def test_a_worker_asks_all_others_at_once(tmp_path: Path) -> None:
    with trio.fail_after(10):
        async with answering(tmp_path, 0, 3) as asking, answering(tmp_path, 1, 3), answering(tmp_path, 2, 3):
            found = await asking.ask("text/plain")
    assert found == {slot: [("family", "head of text/plain\n", f"from {slot}\n")] for slot in (1, 2)}


async def test_one_that_stands_still_costs_a_second_and_one_that_is_gone_nothing(tmp_path: Path) -> None:
    with trio.fail_after(10), listener(tmp_path, 1), listener(tmp_path, 3):
        async with answering(tmp_path, 0, 5) as asking, answering(tmp_path, 2, 5):
            began = trio.current_time()
            found = await asking.ask("")
            took = trio.current_time() - began
    assert {slot for slot, families in found.items() if families is None} == {1, 3, 4}
    assert found[2] is not None
    assert ANSWER_SECONDS <= took < ANSWER_SECONDS * 2 + 2


async def test_an_answer_that_is_no_list_of_families_is_none(tmp_path: Path) -> None:
    async def lie(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(json.dumps({"no": "list"}).encode())

    with trio.fail_after(10):
        async with answering(tmp_path, 0, 2) as asking, trio.open_nursery() as nursery:
            found = listener(tmp_path, 1)
            found.setblocking(False)
            liar = trio.SocketListener(trio.socket.from_stdlib_socket(found))
            nursery.start_soon(trio.serve_listeners, lie, [liar])
            assert await asking.ask("") == {1: None}
            nursery.cancel_scope.cancel()
