"""Comparison of what a client shows with what the service answers over REST."""

from typing import Any, Final

from tests.javascript_fuzz.program import Sent
from tests.support.client import Person

LOST: Final = {"not_a_member", "discarded"}
"""Codes with which a message may be rejected here: its sender was removed. It may be stored."""
PAGE: Final = 200


async def stored_messages(person: Person, conversation: str) -> list[dict[str, Any]]:
    """Returns all messages of a conversation, oldest first."""
    found: list[dict[str, Any]] = []
    while True:
        query = {"limit": PAGE, **({"before_seq": found[-1]["seq"]} if found else {})}
        page = await person.history(conversation, **query)
        found += page["messages"]
        if not page["has_more"]:
            return found[::-1]


async def truth(person: Person) -> dict[str, Any]:
    """Returns the list and the histories as the service has them: `{list, histories}`."""
    answer = await person.api.get("/api/chat/conversations", params={"limit": PAGE})
    assert answer.status_code == 200, answer.text
    bodies = answer.json()["conversations"]
    conversations = {}
    for body in bodies:
        fields = {key: body[key] for key in ("name", "description", "member_count", "read_seq", "last_seq", "last_rev")}
        last = body["last_message"]
        fields["last_message"] = None if last is None else last["content"]
        fields["unread"] = max(0, body["last_seq"] - body["read_seq"])
        if not body["has_more_users"]:
            fields["users"] = sorted(user["id"] for user in body["users"])
        conversations[body["id"]] = fields
    histories = {id_: await stored_messages(person, id_) for id_ in conversations}
    return {"list": conversations, "histories": histories}


def differences(report: dict[str, Any], right: dict[str, Any]) -> list[str]:
    """Compares a report with the truth; returns in words what differs."""
    found = []
    if not report["isIdle"]:
        found.append(f"not idle: {report['state']}, {report.get('requests')} requests, pending {report.get('pending')}")
    if not report["histories"]:
        found.append("no history is shown")
    shown, listed = report["list"], right["list"]
    if set(shown) != set(listed):
        found.append(f"the list has {sorted(shown)}, right is {sorted(listed)}")
    for conversation in set(shown) & set(listed):
        for field, value in shown[conversation].items():
            expected = listed[conversation].get(field, value)
            if value != expected:
                found.append(f"{conversation}: {field} is {value!r}, right is {expected!r}")
    for conversation, rows in report["histories"].items():
        if conversation not in listed:
            continue
        messages = right["histories"][conversation]
        first = rows[0][0] if rows else 1
        expected = [[message["seq"], message["content"]] for message in messages if message["seq"] >= first]
        if rows != expected:
            wrong = [pair for pair in zip(rows, expected, strict=False) if pair[0] != pair[1]]
            found.append(f"{conversation}: {len(rows)} messages, right are {len(expected)}; {wrong[:5]}")
    return found


def broken_promises(sent_by_key: dict[str, Sent], right: dict[str, Any]) -> list[str]:
    """Returns what was lost, doubled or out of order among the messages that a program sent, in that order."""
    found = []
    places: dict[tuple[str, str], list[int]] = {}
    for conversation, messages in right["histories"].items():
        for message in messages:
            places.setdefault((conversation, original(message["content"])), []).append(message["seq"])
    last: dict[str, int] = {}
    for key, sent in sent_by_key.items():
        seqs = places.get((sent.conversation, sent.content), [])
        if not sent.is_settled:
            found.append(f"{key} has no outcome")
        elif sent.is_removed:
            continue
        elif sent.error is None and len(seqs) != 1:
            found.append(f"{key} was acknowledged, and is stored {len(seqs)} times")
        elif sent.error is not None and (sent.error not in LOST or len(seqs) > 1):
            found.append(f"{key} was rejected with {sent.error}, and is stored {len(seqs)} times")
        if sent.error is None and seqs:
            if seqs[0] < last.get(sent.conversation, 0):
                found.append(f"{key} is stored before an earlier message")
            last[sent.conversation] = seqs[0]
    return found


def original(content: str) -> str:
    """Returns the text that a message was sent with: an edit adds to it, after a bar."""
    return content.partition("|")[0]
