"""The keys that sign and verify tokens, read from the settings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from pulse_trio.errors import LaunchError
from pulse_trio.settings import Settings

MIN_RSA_BITS: Final = 2_048  # RFC 7518, section 3.3

_WANTED: Final = f" (RS256: RSA of at least {MIN_RSA_BITS} bits; EdDSA: Ed25519)"


@dataclass(frozen=True, slots=True)
class Keys:
    """The key that verifies tokens, and the one that signs them; `sign` is None where a provider issues them."""

    verify: Any = field(repr=False)
    sign: Any = field(repr=False)


def load_keys(settings: Settings) -> Keys:
    """Reads the keys of the settings.

    Raises:
        LaunchError: a key is missing, cannot be read or does not fit the algorithm.
    """
    if settings.algorithm.startswith("HS"):
        if settings.secret_key is None:
            raise LaunchError("SECRET_KEY is missing")
        secret = settings.secret_key.get_secret_value()
        return Keys(verify=secret, sign=secret)
    public, private = _public_key(settings), _private_key(settings)
    if private is not None and private.public_key() != public:
        raise LaunchError("PULSE_PRIVATE_KEY does not belong to PULSE_PUBLIC_KEY")
    return Keys(verify=public, sign=private)


def _pem(value: str, setting: str) -> bytes:
    if "-----BEGIN" in value:
        return value.encode()
    try:
        return Path(value).read_bytes()
    except OSError as error:
        raise LaunchError(f"{setting}: the file cannot be read: {error.strerror}") from None


def _public_key(settings: Settings) -> RSAPublicKey | Ed25519PublicKey:
    assert settings.public_key is not None
    try:
        key = load_pem_public_key(_pem(settings.public_key, "PULSE_PUBLIC_KEY"))
    except ValueError:
        raise LaunchError("PULSE_PUBLIC_KEY is not a public key in PEM form") from None
    if settings.algorithm == "RS256" and isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return key
    if settings.algorithm == "EdDSA" and isinstance(key, Ed25519PublicKey):
        return key
    raise LaunchError(f"PULSE_PUBLIC_KEY does not fit ALGORITHM={settings.algorithm}{_WANTED}")


def _private_key(settings: Settings) -> RSAPrivateKey | Ed25519PrivateKey | None:
    if settings.private_key is None:
        return None
    try:
        key = load_pem_private_key(_pem(settings.private_key.get_secret_value(), "PULSE_PRIVATE_KEY"), None)
    except (ValueError, TypeError):
        raise LaunchError("PULSE_PRIVATE_KEY is not a private key in PEM form without password") from None
    if settings.algorithm == "RS256" and isinstance(key, RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
        return key
    if settings.algorithm == "EdDSA" and isinstance(key, Ed25519PrivateKey):
        return key
    raise LaunchError(f"PULSE_PRIVATE_KEY does not fit ALGORITHM={settings.algorithm}{_WANTED}")
