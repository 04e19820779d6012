"""The size of pages: what an entry takes as JSON, and how many entries of a page fit into a number of bytes.

Texts count as JSON writes them: a control character of one byte takes six there.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from pulse_trio.model import Message
from pulse_trio.store.records import Conversation, Page

MESSAGE_BYTES: Final = 450  # of a message beside its texts: the names of its fields, ids, times and numbers
CONVERSATION_BYTES: Final = 650  # of a conversation beside its texts, members and last message
USER_BYTES: Final = 60  # of a user beside the name


def message_bytes(message: Message) -> int:
    """Returns about how many bytes a message takes."""
    return MESSAGE_BYTES + sum(map(_text_bytes, (message.content, message.sender_username, message.client_id)))


def conversation_bytes(conversation: Conversation) -> int:
    """Returns about how many bytes a conversation takes, with its members and its last message."""
    last = conversation.last_message
    texts = _text_bytes(conversation.name) + _text_bytes(conversation.description)
    users = sum(USER_BYTES + _text_bytes(user.username) for user in conversation.members)
    return CONVERSATION_BYTES + texts + users + (0 if last is None else message_bytes(last))


def count_fitting(sizes: Iterable[int], max_bytes: int | None) -> int:
    """Returns how many entries fit, from the first one on; the first always does. None is no limit."""
    count = size = 0
    for entry in sizes:
        size += entry
        if max_bytes is not None and size > max_bytes and count:
            break
        count += 1
    return count


def message_page(
    found: Sequence[Message], total: int, *, before_seq: int | None, after_seq: int | None, max_bytes: int | None
) -> Page:
    """Makes the page of history from the messages found for it, newest first; see `Store.page_messages`."""
    is_upward = after_seq is not None and before_seq is None
    if is_upward:
        fitting = found[len(found) - count_fitting(map(message_bytes, reversed(found)), max_bytes) :]
        has_more = bool(fitting) and fitting[0].seq < total
    else:
        fitting = found[: count_fitting(map(message_bytes, found), max_bytes)]
        has_more = bool(fitting) and fitting[-1].seq > max(after_seq or 0, 0) + 1
    return Page(tuple(fitting), total, has_more)


def _text_bytes(text: str | None) -> int:
    return 0 if text is None else len(msgspec.json.encode(text))
