"""Django Channels on uvicorn, which is faster than Daphne, with the in-memory layer. It only fans out."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="benchmark",
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 100_000}}},
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402


class ChatConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    async def connect(self) -> None:
        self.group = str(self.scope["url_route"]["kwargs"]["conversation_id"])
        self.user_id = str(uuid4())
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.send(text_data='{"type":"system","content":"joined"}')

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive(self, text_data: str) -> None:
        frame = json.loads(text_data)
        reply = {"type": frame["type"], "sender_id": self.user_id, "sender_username": "bench"}
        skipped = self.channel_name
        if frame["type"] == "message":
            skipped = ""
            now = datetime.now(UTC).isoformat()
            reply = {**reply, "message_id": str(uuid4()), "timestamp": now, "is_edited": False}
            reply["content"] = frame["content"]
        text = json.dumps(reply, separators=(",", ":"))
        await self.channel_layer.group_send(self.group, {"type": "chat.frame", "text": text, "skipped": skipped})

    async def chat_frame(self, event: dict[str, Any]) -> None:
        if event["skipped"] != self.channel_name:
            await self.send(text_data=event["text"])


app = ProtocolTypeRouter({"websocket": URLRouter([path("api/chat/ws/<uuid:conversation_id>", ChatConsumer.as_asgi())])})
