"""A client for Trio programs: `pip install pulse-trio[client]`, docs/python.md.

    async with open_client("http://127.0.0.1:8000", username="alice", password="…") as client:
        async with client.join(conversation_id) as room:
            await room.send("Hello!")
            async for event in room:
                ...

A frame comes in by   wire (one connection) → frame_codec → room_connections (reconnects and resumes) → unread → room.
A message goes out by room → outgoing (kept until acknowledged) → room_connections → wire.
A connection updates  progress (revs, gaps) and roster (users); verdicts say how to reconnect after a close.
Beside them stand     client, requests and rest (REST), pages and whole_lists (of lists), account (tokens).
The package shares the protocol with the server, and nothing else.
"""

from pulse_trio.client.backoff import Backoff
from pulse_trio.client.client import Client, open_client
from pulse_trio.client.errors import (
    AuthenticationFailed,
    ClientError,
    Conflict,
    ConnectionLost,
    NotAMember,
    NotStored,
    ProtocolError,
    Refused,
)
from pulse_trio.client.network import Address, Network
from pulse_trio.client.pages import History, Members
from pulse_trio.client.records import (
    Conversation,
    Event,
    GroupDetails,
    Joined,
    Left,
    Member,
    MembersChanged,
    Message,
    MessageDeleted,
    MessageEdited,
    Offline,
    Online,
    Presence,
    ReadPositions,
    Reset,
    Typing,
    User,
    Warned,
)
from pulse_trio.client.room import Room

__all__ = [
    "Address",
    "AuthenticationFailed",
    "Backoff",
    "Client",
    "ClientError",
    "Conflict",
    "ConnectionLost",
    "Conversation",
    "Event",
    "GroupDetails",
    "History",
    "Joined",
    "Left",
    "Member",
    "Members",
    "MembersChanged",
    "Message",
    "MessageDeleted",
    "MessageEdited",
    "Network",
    "NotAMember",
    "NotStored",
    "Offline",
    "Online",
    "Presence",
    "ProtocolError",
    "ReadPositions",
    "Refused",
    "Reset",
    "Room",
    "Typing",
    "User",
    "Warned",
    "open_client",
]
