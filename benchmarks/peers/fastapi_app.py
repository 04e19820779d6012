"""The specification's own stack: FastAPI, uvicorn, SQLAlchemy asyncio on asyncpg, PyJWT, a connection manager.

Written to be fast within that design: a frame is encoded once for the whole room, token and membership are checked only
when a connection opens, and a message costs one INSERT and one COMMIT. With REDIS_URL it runs in several processes.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

import jwt
from fastapi import Depends, FastAPI, HTTPException, Query, WebSocket, WebSocketDisconnect
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict
from sqlalchemy import DateTime, ForeignKey, Index, Uuid, func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.peers.fastapi_manager import ConnectionManager, RedisManager

SECRET_KEY = os.environ["SECRET_KEY"]
ALGORITHM = "HS256"

engine = create_async_engine(os.environ["SQLALCHEMY_URL"], pool_size=10, max_overflow=10)
SessionLocal = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: DateTime(timezone=True)}  # noqa: RUF012  # as SQLAlchemy documents it


class User(Base):
    __tablename__ = "users"
    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True)
    username: Mapped[str] = mapped_column(unique=True)


class Conversation(Base):
    __tablename__ = "conversations"
    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True)
    name: Mapped[str | None]
    description: Mapped[str | None]
    is_group: Mapped[bool]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class ConversationUser(Base):
    __tablename__ = "conversation_users"
    conversation_id: Mapped[str] = mapped_column(Uuid(as_uuid=False), ForeignKey("conversations.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(Uuid(as_uuid=False), ForeignKey("users.id"), primary_key=True, index=True)


class Message(Base):
    __tablename__ = "messages"
    __table_args__ = (Index("messages_page", "conversation_id", "created_at"),)
    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True)
    conversation_id: Mapped[str] = mapped_column(Uuid(as_uuid=False), ForeignKey("conversations.id"))
    sender_id: Mapped[str] = mapped_column(Uuid(as_uuid=False), ForeignKey("users.id"))
    content: Mapped[str]
    is_edited: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


REDIS_URL = os.environ.get("REDIS_URL")
manager = ConnectionManager() if REDIS_URL is None else RedisManager(REDIS_URL)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.execute(select(func.pg_advisory_xact_lock(1)))  # one of several processes after the other
        await connection.run_sync(Base.metadata.create_all)
    await manager.open()
    yield
    await manager.close()
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


def verify_token(token: str) -> str | None:
    try:
        return str(jwt.decode(token, SECRET_KEY, algorithms=[ALGORITHM])["sub"])
    except (jwt.PyJWTError, KeyError):
        return None


async def is_member(session: AsyncSession, conversation_id: str, user_id: str) -> bool:
    found = await session.execute(
        select(ConversationUser.user_id).where(
            ConversationUser.conversation_id == conversation_id, ConversationUser.user_id == user_id
        )
    )
    return found.scalar_one_or_none() is not None


@app.websocket("/api/chat/ws/{conversation_id}")
async def websocket_endpoint(websocket: WebSocket, conversation_id: str, token: str) -> None:
    user_id = verify_token(token)
    if user_id is None:
        await websocket.close(code=1008)
        return
    async with SessionLocal() as session:
        user = await session.get(User, user_id)
        allowed = user is not None and await is_member(session, conversation_id, user_id)
        await session.commit()  # returns the database connection to the pool while the socket waits
        if user is None or not allowed:
            await websocket.close(code=1008)
            return
        username = user.username
        await websocket.accept()
        await manager.connect(conversation_id, user_id, websocket)
        try:
            await notify_presence(conversation_id, user_id, f"User {username} joined the conversation")
            while True:
                await receive_one(session, websocket, conversation_id, user_id, username)
        except WebSocketDisconnect:
            pass
        finally:
            if await manager.disconnect(conversation_id, user_id, websocket):
                await notify_presence(conversation_id, user_id, f"User {username} left the conversation")


async def notify_presence(conversation_id: str, user_id: str, content: str) -> None:
    active = sorted(await manager.get_active_users(conversation_id))
    await manager.broadcast(
        conversation_id, {"type": "system", "content": content, "sender_id": user_id, "active_users": active}
    )


async def receive_one(
    session: AsyncSession, websocket: WebSocket, conversation_id: str, user_id: str, username: str
) -> None:
    data = json.loads(await websocket.receive_text())
    kind = data.get("type")
    if kind == "message":
        content = data.get("content", "")
        if not content.strip():
            await websocket.send_json({"type": "error", "content": "Message content cannot be empty"})
            return
        now = datetime.now(UTC)
        message = Message(
            id=str(uuid4()),
            conversation_id=conversation_id,
            sender_id=user_id,
            content=content,
            is_edited=False,
            created_at=now,
            updated_at=now,
        )
        session.add(message)
        await session.commit()
        await manager.broadcast(
            conversation_id,
            {
                "type": "message",
                "content": message.content,
                "sender_id": user_id,
                "sender_username": username,
                "message_id": message.id,
                "timestamp": now.isoformat(),
                "is_edited": message.is_edited,
            },
        )
    elif kind == "typing":
        await manager.broadcast(
            conversation_id,
            {"type": "typing", "sender_id": user_id, "sender_username": username},
            exclude_user_id=user_id,
        )


class MessageOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: str
    conversation_id: str
    sender_id: str
    sender_username: str
    content: str
    is_edited: bool
    created_at: datetime
    updated_at: datetime


class MessagePage(BaseModel):
    messages: list[MessageOut]
    limit: int
    offset: int


async def get_session() -> AsyncIterator[AsyncSession]:
    async with SessionLocal() as session:
        yield session


def current_user_id(credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> str:
    user_id = verify_token(credentials.credentials)
    if user_id is None:
        raise HTTPException(401)
    return user_id


@app.get("/api/chat/conversations/{conversation_id}/messages")
async def get_messages(
    conversation_id: str,
    user_id: Annotated[str, Depends(current_user_id)],
    session: Annotated[AsyncSession, Depends(get_session)],
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> MessagePage:
    if not await is_member(session, conversation_id, user_id):
        raise HTTPException(403)
    rows = await session.execute(
        select(Message, User.username)
        .join(User, User.id == Message.sender_id)
        .where(Message.conversation_id == conversation_id)
        .order_by(Message.created_at.desc())
        .limit(limit)
        .offset(offset)
    )
    messages = [
        MessageOut(
            id=message.id,
            conversation_id=message.conversation_id,
            sender_id=message.sender_id,
            sender_username=username,
            content=message.content,
            is_edited=message.is_edited,
            created_at=message.created_at,
            updated_at=message.updated_at,
        )
        for message, username in rows
    ]
    return MessagePage(messages=messages, limit=limit, offset=offset)
