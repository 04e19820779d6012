"""`pulse-trio tail`: prints the events of a conversation as JSON lines, for scripts."""

import json
import re
from dataclasses import dataclass
from typing import Any, Final

import trio

from pulse_trio.client import (
    Client,
    Conversation,
    Event,
    Joined,
    Left,
    MembersChanged,
    Message,
    MessageDeleted,
    MessageEdited,
    Offline,
    Online,
    ReadPositions,
    Reset,
    Room,
    Typing,
)
from pulse_trio.clock import rfc3339
from pulse_trio.terminal.access import Access, find
from pulse_trio.terminal.exits import Exit
from pulse_trio.terminal.streams import Output

MAX_USER_IDS: Final = 100  # of users added or removed, in one line

# Characters in JSON strings that a terminal may act on; JSON escapes those below U+0020 anyway.
_UNSAFE: Final = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Range:
    """The events to print.

    Attributes:
        after: starts with the changes after this rev; None: with new ones.
        epoch: the epoch of `after`; None: the present one.
        history: number of stored messages to print first, the newest ones.
        follows: continues with live events.
        with_all: includes ephemeral events: presence, typing, read positions, the state of the connection.
    """

    after: int | None = None
    epoch: str | None = None
    history: int = 0
    follows: bool = True
    with_all: bool = False


async def tail(access: Access, name: str, events: Range) -> int:
    """Prints events until cancelled, or, without `follows`, until it has caught up."""
    output = Output(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_with, output, nursery.cancel_scope)
        async with access.open() as client:
            found = await find(client, name, creates=False)
            if events.after is None and not events.follows:
                for message in await newest(client, found, events.history):
                    await output.write(line_of(message, epoch=found.epoch))
            else:
                async with client.join(found, after=events.after, epoch=events.epoch) as room:
                    await _follow(client, room, output, events)
        nursery.cancel_scope.cancel()
    return Exit.OK


async def _end_with(output: Output, scope: trio.CancelScope) -> None:
    await output.wait_broken()
    scope.cancel()


async def newest(client: Client, conversation: Conversation, count: int) -> list[Message]:
    """Returns the newest `count` messages, oldest first, without the deleted ones among them."""
    found: list[Message] = []
    if count > 0:
        async for message in client.history(conversation):
            found.append(message)
            if len(found) == count:
                break
    return [message for message in reversed(found) if not message.is_deleted]


async def _follow(client: Client, room: Room, output: Output, events: Range) -> None:
    target = room.head_rev
    known: dict[int, int] = {}  # seq → rev of the messages printed as history
    for message in await newest(client, room.conversation, events.history):
        known[message.seq] = message.rev
        await output.write(line_of(message, epoch=room.epoch))
    while events.follows or room.rev < target or room.epoch != room.head_epoch:
        event = await room.receive()
        message_of = event.message if isinstance(event, MessageEdited | MessageDeleted) else event
        if isinstance(message_of, Message):
            if message_of.rev <= known.get(message_of.seq, 0):
                continue
        elif not events.with_all and not isinstance(event, Reset):
            continue
        line = line_of(event, epoch=room.epoch)
        if line:
            await output.write(line)
        if isinstance(event, Reset):
            target = event.last_rev
            known.clear()  # the new history reuses numbers of the lost one


def line_of(event: Event, *, epoch: str = "") -> str:
    """Formats an event as a line of JSON: a message like its frame in docs/protocol.md, others as in docs/terminal.md.

    Args:
        epoch: the epoch of a message's `rev`; a script needs both to resume.
    """
    fields = _fields(event)
    if not fields:
        return ""
    if epoch and "rev" in fields:
        fields["epoch"] = epoch
    return json_line(fields)


def json_line(fields: dict[str, Any]) -> str:
    """Formats a line of JSON without characters that a terminal acts on."""
    text = json.dumps(fields, ensure_ascii=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def _fields(event: Event) -> dict[str, Any]:
    match event:
        case Message():
            return _message("message_updated" if event.is_edited else "message", event)
        case MessageEdited(message):
            return _message("message_updated", message)
        case MessageDeleted(message):
            return _message("message_deleted", message)
        case Reset():
            return {"type": "reset", "last_seq": event.last_seq, "last_rev": event.last_rev, "epoch": event.epoch}
        case Typing() | Joined() | Left():
            kind = type(event).__name__.lower()
            return {"type": kind, "user_id": str(event.user_id), "username": event.username}
        case MembersChanged():
            user_id = {} if event.user_id is None else {"user_id": str(event.user_id)}
            fields: dict[str, Any] = {"type": event.what, **user_id, "text": event.text}
            if event.user_ids:
                user_ids = [str(user_id) for user_id in event.user_ids[:MAX_USER_IDS]]
                fields |= {"user_ids": user_ids, "user_count": event.user_count}
            return fields
        case ReadPositions():
            positions = [{"user_id": str(user_id), "seq": seq} for user_id, seq in event.positions.items()]
            return {"type": "read", "positions": positions}
        case Offline():
            return {"type": "offline", "reason": event.reason, "retry_in": round(event.retry_in, 3)}
        case Online():
            return {"type": "online"}
    return {}


def _message(kind: str, message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "type": kind,
        "content": message.content,
        "sender_id": str(message.sender_id),
        "sender_username": message.sender_username,
        "message_id": str(message.id),
        "timestamp": rfc3339(message.created_at),
        "is_edited": message.is_edited,
        "conversation_id": str(message.conversation_id),
        "seq": message.seq,
        "rev": message.rev,
        "client_id": message.client_id,
        "updated_at": rfc3339(message.updated_at),
    }
    left_out = {"message": {"updated_at"}, "message_deleted": {"content", "is_edited"}}.get(kind, set())
    return {k: v for k, v in fields.items() if k not in left_out and v is not None}
