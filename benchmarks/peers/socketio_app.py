"""python-socketio on uvicorn, with its own room manager. It only fans out."""

import logging
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import socketio

logging.getLogger("engineio").setLevel(logging.ERROR)
server = socketio.AsyncServer(async_mode="asgi", transports=["websocket"], http_compression=False)
app = socketio.ASGIApp(server)
users: dict[str, tuple[str, str]] = {}


@server.event
async def connect(sid: str, environ: dict[str, Any], auth: dict[str, str]) -> None:
    users[sid] = (str(uuid4()), auth["conversation_id"])
    await server.enter_room(sid, auth["conversation_id"])


@server.event
async def disconnect(sid: str, reason: str) -> None:
    users.pop(sid, None)


@server.event
async def message(sid: str, frame: dict[str, str]) -> None:
    user_id, room = users[sid]
    sent = {
        "type": "message",
        "content": frame["content"],
        "sender_id": user_id,
        "sender_username": "bench",
        "message_id": str(uuid4()),
        "timestamp": datetime.now(UTC).isoformat(),
        "is_edited": False,
    }
    await server.emit("message", sent, room=room)


@server.event
async def typing(sid: str, frame: dict[str, str]) -> None:
    user_id, room = users[sid]
    sent = {"type": "typing", "sender_id": user_id, "sender_username": "bench"}
    await server.emit("typing", sent, room=room, skip_sid=sid)
