"""`pulse-trio list`: lists the conversations of a user, for people and for scripts."""

from pulse_trio.client import Conversation, User
from pulse_trio.terminal.access import Access, name_of, title
from pulse_trio.terminal.exits import Exit
from pulse_trio.terminal.streams import Output
from pulse_trio.terminal.tail import json_line


async def listing(access: Access, *, as_json: bool) -> int:
    """Prints a line for each conversation, most recent activity first."""
    async with access.open() as client:
        found = await client.conversations(limit=None)
        me = client.user
    line = _json if as_json else _line
    await Output(1).write("".join(line(conversation, me) for conversation in found))
    return Exit.OK


def _line(conversation: Conversation, me: User) -> str:
    unread = f"  ({conversation.unread_count} unread)" if conversation.unread_count else ""
    return f"{conversation.id}  {title(conversation, me)}{unread}\n"


def _json(conversation: Conversation, me: User) -> str:
    fields = {
        "id": str(conversation.id),
        "title": name_of(conversation, me),
        "is_group": conversation.is_group,
        "members": [user.username for user in conversation.users],
        "member_count": conversation.member_count,
        "last_seq": conversation.last_seq,
        "last_rev": conversation.last_rev,
        "epoch": conversation.epoch,
        "unread_count": conversation.unread_count,
    }
    return json_line(fields)
