"""A client for Trio programs: `pip install pulse-trio[client]`, docs/python.md.

    async with open_client("http://127.0.0.1:8000", username="alice", password="…") as client:
        async with client.join(conversation_id) as room:
            await room.send("Hello!")
            async for event in room:
                ...

A frame comes in by   wire (one connection) → frame_codec → room (reconnects and resumes) → the program.
A message goes out by room → outgoing (kept until acknowledged) → wire.
Beside them stand     client and rest (REST), account (tokens), verdicts (how to reconnect after a close).
The package shares the protocol with the server, and nothing else.
"""

from pulse_trio.client.backoff import Backoff
from pulse_trio.client.client import Client, History, Members, open_client
from pulse_trio.client.errors import (
    AuthenticationFailed,
    ClientError,
    ConnectionLost,
    NotAMember,
    NotStored,
    ProtocolError,
    Refused,
)
from pulse_trio.client.network import Address, Network
from pulse_trio.client.records import (
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
    "ConnectionLost",
    "Conversation",
    "Event",
    "History",
    "Joined",
    "Left",
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
