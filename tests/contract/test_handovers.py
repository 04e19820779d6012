"""Messages that a store takes without a task that waits, on every store: the outcomes are those of `apply`."""

import trio

from pulse_trio.store.base import NotAMember, Store, StoreRefused
from tests.contract.people import People, messages
from tests.support.commands import carry_out, changed_message, leave, post
from tests.support.handovers import Handed, hand_over


async def test_handed_messages_are_stored_in_order(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    posts = [post(group, alice, "a", client_id="1"), post(group, bob, "b"), post(group, alice, "c")]
    answer = await hand_over(store, *posts)
    assert isinstance(answer, list)
    stored = messages(answer)
    assert [(message.id, message.content, message.seq, message.rev) for message in stored] == [
        (new.id, new.content, number, number) for number, new in enumerate(posts, 1)
    ]
    assert await people.log(group) == stored
    assert await store.apply(posts) == answer


async def test_handovers_of_several_rooms_at_once(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    groups = [await people.group(alice, bob) for _ in range(20)]
    handed = [Handed(post(group, alice, f"{n}"), post(group, bob, "x")) for n, group in enumerate(groups)]
    assert all(store.apply_soon(each) for each in handed)
    for number, each in enumerate(handed):
        answer = await each.wait()
        assert isinstance(answer, list)
        assert [(message.content, message.rev) for message in messages(answer)] == [(f"{number}", 1), ("x", 2)]
        assert each.takings == 1


async def test_a_repeat_and_a_stranger_in_a_handover(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    first = await changed_message(store, post(group, alice, "a", client_id="1"))
    await carry_out(store, leave(group, bob))
    again, outside, new = post(group, alice, "a", client_id="1"), post(group, bob, "out"), post(group, alice, "b")
    answer = await hand_over(store, again, outside, new)
    assert isinstance(answer, list)
    assert answer[0] == (first,)
    assert isinstance(answer[1], NotAMember)
    assert [message.id for message in messages(answer[2:])] == [new.id]
    assert [change.rev for change in await people.log(group)] == [1, 2, 3]


async def test_a_handover_that_can_never_be_stored(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    assert isinstance(await hand_over(store, post(group, alice, "a"), post(group, alice, "\x00")), StoreRefused)
    assert await people.log(group) == []
    # The conversation may have to use `apply` next; then it is as before.
    await changed_message(store, post(group, alice, "b"))
    assert isinstance(await hand_over(store, post(group, alice, "c")), list)


async def test_a_handover_with_nothing_left_is_not_answered(store: Store, people: People) -> None:
    alice, bob = await people.users("alice", "bob")
    group = await people.group(alice, bob)
    handed = Handed(post(group, alice))
    assert store.apply_soon(handed)
    handed.posts = ()
    await hand_over(store, post(await people.group(alice, bob), alice))
    await changed_message(store, post(group, alice, "b"))
    with trio.move_on_after(0.2):
        await handed.wait()
    assert (handed.takings, handed.answers) == (1, [])
    assert len(await people.log(group)) == 1
