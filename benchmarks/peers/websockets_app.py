"""The `websockets` library on uvloop: `broadcast` of text encoded once. It only fans out."""

import asyncio
import json
import os
import signal
from collections import defaultdict
from datetime import UTC, datetime
from uuid import uuid4

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

rooms: dict[str, set[ServerConnection]] = defaultdict(set)


async def converse(connection: ServerConnection) -> None:
    assert connection.request is not None
    path = connection.request.path.partition("?")[0]
    room = rooms[path]
    room.add(connection)
    user_id = str(uuid4())
    try:
        await connection.send('{"type":"system","content":"joined"}')
        async for data in connection:
            frame = json.loads(data)
            reply = {"type": frame["type"], "sender_id": user_id, "sender_username": "bench"}
            if frame["type"] == "typing":
                broadcast(room - {connection}, json.dumps(reply, separators=(",", ":")).encode(), text=True)
                continue
            now = datetime.now(UTC).isoformat()
            reply = {**reply, "message_id": str(uuid4()), "timestamp": now, "is_edited": False}
            reply["content"] = frame["content"]
            broadcast(room, json.dumps(reply, separators=(",", ":")).encode(), text=True)
    finally:
        room.discard(connection)


async def main() -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    async with serve(converse, "127.0.0.1", int(os.environ["PORT"]), compression=None, backlog=2048):
        await stop.wait()


uvloop.run(main())
