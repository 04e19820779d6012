"""Tokens, keys and a clock for the tests of auth."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import SecretStr

from pulse_trio.auth.tokens import Tokens
from pulse_trio.settings import Settings
from pulse_trio.store.base import User

SECRET = "K7#pq-vB2!x_Lm9Zt4&wRs8*Yd3@Nf6%" * 2
START = datetime(2026, 2, 4, 10, 30, tzinfo=UTC)
NOW = int(START.timestamp())
ALICE = User(UUID("0198c5b6-f8a3-7c1e-9d2e-4b5a6c7d8e9f"), "alice")

RSA_KEY = generate_private_key(65_537, 2_048)
OTHER_RSA_KEY = generate_private_key(65_537, 2_048)
ED_KEY = Ed25519PrivateKey.generate()


class FakeClock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def public_pem(key: RSAPrivateKey | Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key: RSAPrivateKey | Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def make_tokens(clock: Callable[[], datetime] | None = None, **settings: Any) -> Tokens:
    settings = {"secret_key": SecretStr(SECRET), **settings}
    return Tokens(Settings.model_construct(**settings), clock or FakeClock())


def claims(**changes: Any) -> dict[str, Any]:
    """Returns valid claims with these changes; None removes one."""
    payload = {"sub": str(ALICE.id), "iat": NOW, "exp": NOW + 3_600, **changes}
    return {name: value for name, value in payload.items() if value is not None}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(header: Any, payload: Any, key: str = SECRET, digest: str = "sha256") -> str:
    """Signs a token with HMAC, whatever its header says; text stays as it is."""
    parts = [b64((part if isinstance(part, str) else json.dumps(part)).encode()) for part in (header, payload)]
    signed = ".".join(parts)
    return f"{signed}.{b64(hmac.new(key.encode(), signed.encode(), getattr(hashlib, digest)).digest())}"


def good(**changes: Any) -> str:
    return forge({"alg": "HS256", "typ": "JWT"}, claims(**changes))
