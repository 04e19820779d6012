"""The opening of a room: looks up a conversation, and its members if their sessions must be subscribed."""

import random
from uuid import UUID

import trio

from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.session import Sessions
from pulse_trio.rooms.writer import Writer
from pulse_trio.store.base import Head, Members, Store, StoreUnavailable


async def look_up(
    conversation_id: UUID,
    store: Store,
    writer: Writer,
    *,
    sessions: Sessions | None,
    store_timeout: float,
    rand: random.Random,
) -> tuple[Head, Members]:
    """Looks up the head of a conversation, and then its members as of that head or later.

    Args:
        conversation_id: the conversation.
        store: the store.
        writer: the room's; the look-up is retried while it has commands that wait.
        sessions: those of this process: without any when the head is known, the answer has no members. None: it never
            has them.
        store_timeout: seconds after which the look-up fails.
        rand: gives the jitter of retries.

    Raises:
        NotAMember: there is no such conversation.
        StoreUnavailable: it could not be looked up.
    Cancelled: nothing has happened.
    """
    backoff = Backoff(rand)
    with trio.move_on_after(store_timeout):
        while True:
            try:
                head = await store.head(conversation_id)
                # A session may have opened while the head was looked up.
                return head, await store.members(conversation_id) if sessions else Members((), head.members_rev)
            except StoreUnavailable:
                if not writer.unsettled:
                    raise
                await backoff.wait()
    raise StoreUnavailable("the conversation could not be looked up in time")
