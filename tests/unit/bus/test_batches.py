"""The text of a batch, and the queue before it."""

import json
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulse_trio.bus.batches import ENVELOPE_BYTES, MAX_NUMBER, MAX_QUEUED_BYTES, Outgoing, UnknownVersion, decode

PUBLISHER = UUID("0198c0de-0000-7000-8000-000000000001")
LIMIT = 300  # bytes of a payload


def new_queue() -> Outgoing:
    return Outgoing(PUBLISHER, LIMIT)


@given(st.lists(st.text(max_size=40), min_size=1, max_size=60))
def test_batches_hold_all_items_in_order_within_the_limit(texts: list[str]) -> None:
    queue = new_queue()
    items = [json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass") for text in texts]
    items = [item for item in items if len(item) <= queue.max_item_bytes]
    for item in items:
        assert queue.add(item)
    found: list[bytes] = []
    number = 0
    while queue:
        payload, count = queue.take_batch()
        assert len(payload) <= LIMIT
        batch = decode(payload)
        assert batch.k is not None
        number += 1
        assert (batch.p, batch.n, len(batch.k)) == (str(PUBLISHER), number, count)
        found += map(bytes, batch.k)
    assert found == items


def test_an_item_of_the_greatest_length_fits_with_the_greatest_number() -> None:
    queue = new_queue()
    queue._number = MAX_NUMBER - 1
    queue.add(b"1" * queue.max_item_bytes)
    payload, _ = queue.take_batch()
    assert len(payload) == LIMIT
    assert decode(payload).n == MAX_NUMBER


def test_a_batch_is_filled_before_the_next_one_begins() -> None:
    queue = new_queue()
    size = (LIMIT - ENVELOPE_BYTES - 2) // 3  # three with two commas fill it
    for _ in range(4):
        queue.add(b"1" * size)
    assert [queue.take_batch()[1], queue.take_batch()[1]] == [3, 1]


def test_a_heartbeat_says_the_latest_number_and_has_no_items() -> None:
    queue = new_queue()
    first = decode(queue.heartbeat())
    assert (first.p, first.n, first.k) == (str(PUBLISHER), 0, None)
    queue.add(b"1")
    queue.take_batch()
    heartbeat = decode(queue.heartbeat())
    assert (heartbeat.n, heartbeat.k) == (1, None)


def test_dropped_items_skip_one_number_however_many_they_are() -> None:
    queue = new_queue()
    queue.note_drop()
    queue.note_drop()
    assert decode(queue.heartbeat()).n == 1
    queue.add(b"1")
    queue.add(b"2")
    assert queue.drop_all() == 2
    assert not queue
    queue.add(b"3")
    payload, _ = queue.take_batch()
    assert decode(payload).n == 3
    assert decode(queue.heartbeat()).n == 3


def test_dropping_nothing_skips_no_number() -> None:
    queue = new_queue()
    assert queue.drop_all() == 0
    assert decode(queue.heartbeat()).n == 0


@pytest.mark.parametrize("size", [1, 100])
def test_a_full_queue_refuses_until_something_is_taken(size: int) -> None:
    queue = new_queue()
    added = 0
    while queue.add(b"1" * size):
        added += 1
    assert size * added < MAX_QUEUED_BYTES <= (size + 64) * (added + 1)
    taken = queue.take_batch()[1]
    assert [queue.add(b"1" * size) for _ in range(taken + 1)] == [True] * taken + [False]
    assert queue.drop_all() == added
    assert queue.add(b"1" * size)


def test_another_publisher_begins_at_one_and_keeps_the_queue() -> None:
    queue = new_queue()
    queue.add(b"1")
    queue.take_batch()
    queue.add(b"2")
    other = UUID(int=7)
    queue.restart(other)
    batch = decode(queue.take_batch()[0])
    assert (batch.p, batch.n, batch.k) == (str(other), 1, [msgspec.Raw(b"2")])


@pytest.mark.parametrize("rest", ["", ',"p":7', ',"p":"x","n":1,"k":[1]', ',"n":"abc"'])
def test_another_version_is_told_apart(rest: str) -> None:
    with pytest.raises(UnknownVersion):
        decode(f'{{"v":2{rest}}}'.encode())


MALFORMED = [
    b"",
    b"x",
    b"[]",
    b"null",
    b'{"v":1}',
    b'{"v":"1","p":"a","n":1}',
    b'{"v":1,"p":"a","n":-1}',
    b'{"v":1,"p":"a","n":1.5}',
    b'{"v":1,"p":"a","n":9223372036854775808}',
    b'{"v":1,"p":"0123456789012345678901234567890123456","n":1}',
    b'{"v":1,"p":"a","n":1,"k":7}',
    b'{"v":1,"p":"a","n":1,"k":[1,]}',
    b'{"v":1,"p":"\xff","n":1}',
    b'{"v":1,"p":"a","n":1,"k":[1]',
]


@pytest.mark.parametrize("payload", MALFORMED)
def test_malformed_payloads_are_refused(payload: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
        decode(payload)
