"""The connection managers of the specification's stack: of one process, and of several with Redis pub/sub.

With Redis, a frame is encoded once and published once, to the channel of its conversation. Every process with a
connection in it is subscribed, the sender's own too, and sends the text on as it is. So all connections see one order.
Who is connected is counted in a hash of Redis, one for each conversation.
"""

import asyncio
import json
import logging
from collections import defaultdict
from typing import Any

from fastapi import WebSocket
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

logger = logging.getLogger(__name__)


class ConnectionManager:
    """The connections of each conversation."""

    def __init__(self) -> None:
        self.connections: dict[str, dict[str, set[WebSocket]]] = defaultdict(dict)

    async def open(self) -> None:
        """Begins to receive what other processes send."""

    async def close(self) -> None:
        """Ends what `open` began."""

    async def connect(self, conversation_id: str, user_id: str, websocket: WebSocket) -> None:
        self.connections[conversation_id].setdefault(user_id, set()).add(websocket)

    async def disconnect(self, conversation_id: str, user_id: str, websocket: WebSocket) -> bool:
        """Removes a connection; returns True if it was the last of its user."""
        room = self.connections[conversation_id]
        mine = room.get(user_id, set())
        mine.discard(websocket)
        if mine:
            return False
        room.pop(user_id, None)
        if not room:
            del self.connections[conversation_id]
        return True

    async def get_active_users(self, conversation_id: str) -> set[str]:
        return set(self.connections.get(conversation_id, ()))

    async def broadcast(
        self, conversation_id: str, message: dict[str, Any], exclude_user_id: str | None = None
    ) -> None:
        text = json.dumps(message, separators=(",", ":"), ensure_ascii=False)
        await self.send(conversation_id, text, exclude_user_id)

    async def send(self, conversation_id: str, text: str, exclude_user_id: str | None) -> None:
        """Sends a frame to the connections of this process."""
        sockets = [
            websocket
            for user_id, mine in self.connections.get(conversation_id, {}).items()
            if user_id != exclude_user_id
            for websocket in mine
        ]
        for websocket in sockets:
            try:
                await websocket.send_text(text)
            except Exception as error:
                logger.warning("Failed to send: %s", error)


class RedisManager(ConnectionManager):
    """Connections that are spread over several processes.

    A published text is the id of the user who does not get it, or nothing, a line break, and the frame.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._redis: Redis = Redis.from_url(url, decode_responses=True)
        self._pubsub: PubSub = self._redis.pubsub(ignore_subscribe_messages=True)
        self._lock = asyncio.Lock()  # subscribing and unsubscribing keep the order of coming and going
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._pubsub.subscribe("opened")  # `listen` needs a subscription
        self._reader = asyncio.create_task(self._read())

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        await self._pubsub.aclose()
        await self._redis.aclose()

    async def _read(self) -> None:
        async for published in self._pubsub.listen():
            excluded, _, text = published["data"].partition("\n")
            await self.send(published["channel"], text, excluded or None)

    async def connect(self, conversation_id: str, user_id: str, websocket: WebSocket) -> None:
        async with self._lock:
            if conversation_id not in self.connections:
                await self._pubsub.subscribe(conversation_id)
            await super().connect(conversation_id, user_id, websocket)
        await self._redis.hincrby(f"active:{conversation_id}", user_id, 1)

    async def disconnect(self, conversation_id: str, user_id: str, websocket: WebSocket) -> bool:
        async with self._lock:
            await super().disconnect(conversation_id, user_id, websocket)
            if conversation_id not in self.connections:
                await self._pubsub.unsubscribe(conversation_id)
        if await self._redis.hincrby(f"active:{conversation_id}", user_id, -1) > 0:
            return False
        await self._redis.hdel(f"active:{conversation_id}", user_id)
        return True

    async def get_active_users(self, conversation_id: str) -> set[str]:
        return set(await self._redis.hkeys(f"active:{conversation_id}"))

    async def broadcast(
        self, conversation_id: str, message: dict[str, Any], exclude_user_id: str | None = None
    ) -> None:
        text = json.dumps(message, separators=(",", ":"), ensure_ascii=False)
        await self._redis.publish(conversation_id, f"{exclude_user_id or ''}\n{text}")
