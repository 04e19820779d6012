"""Users and conversations by number: their ids, names, tokens and passwords, the same for every server. No I/O."""

import base64
import hashlib
import hmac
import json
import time
from uuid import UUID

SECRET_KEY = "the key of the benchmark, which guards nothing: 1c7e0b5f"
XMPP_DOMAIN = "localhost"
XMPP_ROOMS = "conference.localhost"


def user_id(number: int) -> str:
    """Returns the id of user 0, 1, 2 …"""
    return str(UUID(f"00000000-0000-7000-8000-{number:012x}"))


def room_id(number: int) -> str:
    """Returns the id of a conversation by its number."""
    return str(UUID(f"00000000-0000-7000-9000-{number:012x}"))


def user_name(number: int) -> str:
    """Returns the name of user 0, 1, 2 …"""
    return f"user{number}"


def password(number: int) -> str:
    """Returns the password of a user, for servers that have passwords instead of tokens."""
    return f"secret{number}"


def room_name(number: int) -> str:
    """Returns the name of a conversation, for servers that have names instead of ids."""
    return f"room{number}"


def token(number: int) -> str:
    """Returns a token of a user that is valid for a day (RFC 7519, HS256)."""
    now = int(time.time())
    claims = {"sub": user_id(number), "iat": now, "exp": now + 86_400}
    parts = [_base64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    signature = hmac.new(SECRET_KEY.encode(), b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, _base64(signature)]).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
