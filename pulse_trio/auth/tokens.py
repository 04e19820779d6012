"""Who is asking: tokens (JWT, RFC 7519, checked as RFC 8725 advises) and passwords (argon2id, RFC 9106)."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import argon2
import jwt
import structlog
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from pulse_trio.clock import Clock
from pulse_trio.errors import ErrorCode, LaunchError, PulseError
from pulse_trio.ids import IdSource, parse_uuid
from pulse_trio.settings import Settings
from pulse_trio.store.base import Store, User, UsernameTaken
from pulse_trio.texts import USERNAME_MAX_CHARS, text_problem, username_from

TOKEN_MAX_CHARS: Final = 8_192  # what fits in a header line of common proxies; ours have about 250
SUBJECT_MAX_CHARS: Final = 255  # OpenID Connect Core, section 2: `sub` has at most 255 characters
LONGEST_LIFETIME: Final = 10 * 366 * 86_400  # seconds; an `exp` beyond is a mistake, or an attack
DAY: Final = 86_400  # seconds
RSA_LEAST_BITS: Final = 2_048  # RFC 7518, section 3.3

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says; times are in seconds since the epoch.

    `signed_in` is when its user showed who they are; it and `name` may be missing.
    """

    subject: str
    expires: float
    name: str | None
    signed_in: float | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose token it is, and until when: seconds since the epoch.

    `signed_in` is when the user signed in here; None if the token is another's, or does not say.
    """

    user: User
    expires: float
    signed_in: float | None = None


class Tokens:
    """Makes and checks tokens, with the one algorithm of the settings.

    Raises:
        LaunchError: the key is missing, cannot be read or does not fit the algorithm.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._algorithm = settings.algorithm
        self._clock = clock
        self._leeway = settings.token_leeway
        self._issuer = settings.token_issuer
        self._audience = settings.token_audience
        self._sign_in_seconds = settings.sign_in_days * DAY
        self.lifetime = settings.access_token_expire_minutes * 60
        self._verify_key: Any
        self._sign_key: Any
        if settings.algorithm.startswith("HS"):
            if settings.secret_key is None:
                raise LaunchError("SECRET_KEY is missing")
            self._verify_key = self._sign_key = settings.secret_key.get_secret_value()
        else:
            self._verify_key = _public_key(settings)
            self._sign_key = _private_key(settings)
            if self._sign_key is not None and self._sign_key.public_key() != self._verify_key:
                raise LaunchError("PULSE_PRIVATE_KEY does not belong to PULSE_PUBLIC_KEY")
        self._jwt = jwt.PyJWT()

    @property
    def can_issue(self) -> bool:
        """Whether this service has the key that signs tokens."""
        return self._sign_key is not None

    def issue(self, user: User) -> str:
        """A token for a user who has just signed in, for `lifetime` seconds.

        Raises:
            PulseError: tokens come from an identity provider here.
        """
        now = int(self._clock().timestamp())
        return self._sign(user, now=now, expires=now + self.lifetime, signed_in=now)

    def renew(self, identity: Identity) -> tuple[str, int]:
        """A new token for who shows one that is good, and the seconds that it is good for.

        It is of the same sign-in, and does not outlast it: a token that was stolen is of no use `PULSE_SIGN_IN_DAYS`
        after its user signed in, however often it is renewed.

        Raises:
            PulseError: tokens come from an identity provider here, this one does, or the sign-in is too long ago.
        """
        now = int(self._clock().timestamp())
        if not self.can_issue:
            raise _not_issued()
        if identity.signed_in is None:
            raise _invalid("it is not of a sign-in at this service")
        signed_in = int(identity.signed_in)
        expires = min(now + self.lifetime, signed_in + self._sign_in_seconds)
        if expires <= now:
            raise _invalid("the sign-in is too long ago; log in again")
        return self._sign(identity.user, now=now, expires=expires, signed_in=signed_in), expires - now

    def _sign(self, user: User, *, now: int, expires: int, signed_in: int) -> str:
        if not self.can_issue:
            raise _not_issued()
        claims: dict[str, Any] = {"sub": str(user.id), "iat": now, "exp": expires, "auth_time": signed_in}
        if self._issuer is not None:
            claims["iss"] = self._issuer
        if self._audience is not None:
            claims["aud"] = self._audience
        return self._jwt.encode(claims, self._sign_key, algorithm=self._algorithm)

    def verify(self, token: str) -> Claims:
        """What the token says, if its algorithm, signature and claims are good.

        Raises:
            PulseError: with a reason that says nothing of the token's content.
        """
        if len(token) > TOKEN_MAX_CHARS:
            raise _invalid("it is too long")
        try:
            payload = self._jwt.decode(
                token,
                self._verify_key,
                algorithms=[self._algorithm],
                audience=self._audience,
                issuer=self._issuer,
                # Times are checked below, on the clock that tests control.
                options={
                    "require": ["exp", "sub"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                    "verify_aud": self._audience is not None,
                },
            )
        except jwt.PyJWTError as error:
            raise _invalid(_reason(error)) from None
        except (ValueError, TypeError, RecursionError, OverflowError):
            raise _invalid("it cannot be read") from None
        now = self._clock().timestamp()
        expires = _time_claim(payload, "exp")
        if expires <= now:
            raise _invalid("it has expired")
        if expires > now + LONGEST_LIFETIME:
            raise _invalid("`exp` is too far away")
        for claim in ("iat", "nbf"):
            if payload.get(claim) is not None and _time_claim(payload, claim) > now + self._leeway:
                raise _invalid("it is not valid yet")
        subject = payload["sub"]
        if not isinstance(subject, str) or not 1 <= len(subject) <= SUBJECT_MAX_CHARS or text_problem(subject):
            raise _invalid("`sub` is not a user id")
        names = (payload.get("preferred_username"), payload.get("name"))
        name = next((name for name in names if isinstance(name, str) and name), None)
        return Claims(subject, expires, name, self._signed_in(payload, now))

    def _signed_in(self, payload: dict[str, Any], now: float) -> float | None:
        """When the user signed in (`auth_time` of OpenID Connect Core, section 2; else `iat`), if that can be told.

        A provider's `auth_time` is not ours to judge: one that is no time refuses nothing but the renewal.
        """
        claim = "auth_time" if payload.get("auth_time") is not None else "iat"
        try:
            signed_in = None if payload.get(claim) is None else _time_claim(payload, claim)
        except PulseError:
            return None
        return None if signed_in is None or signed_in > now + self._leeway else signed_in


class Authenticator:
    """Turns a token into a user."""

    def __init__(self, tokens: Tokens, store: Store, *, provision_users: bool, clock: Clock, ids: IdSource) -> None:
        self._tokens = tokens
        self._store = store
        self._provision_users = provision_users
        self._clock = clock
        self._ids = ids

    async def authenticate(self, token: str | None) -> Identity:
        """The user whose token this is.

        Raises:
            PulseError: there is no token, it is not valid, or its user does not exist.
            StoreUnavailable: the user could not be looked up.
        """
        if not token:
            raise PulseError(ErrorCode.NOT_AUTHENTICATED, "A token is needed: Authorization: Bearer TOKEN")
        claims = self._tokens.verify(token)
        user = await self._store.find_subject(claims.subject, parse_uuid(claims.subject))
        if user is None and self._provision_users:
            user = await self._provision(claims)
        if user is None:
            raise _invalid("its user does not exist")
        # A provider's token names its user in a way of its own.
        is_ours = claims.subject == str(user.id)
        return Identity(user, claims.expires, claims.signed_in if is_ours else None)

    async def _provision(self, claims: Claims) -> User | None:
        """Makes the user of an identity provider's token; a name that is taken gets a number behind it."""
        name = username_from(claims.name or "") or "user"
        for attempt in range(1, 1_000):
            suffix = "" if attempt == 1 else f"-{attempt}"
            user = User(self._ids(), name[: USERNAME_MAX_CHARS - len(suffix)].rstrip("._-") + suffix)
            try:
                await self._store.create_user(
                    user, password_hash=None, subject=claims.subject, created_at=self._clock()
                )
            except UsernameTaken:
                # Taken by somebody else, or this very subject came in on another connection.
                existing = await self._store.find_subject(claims.subject, None)
                if existing is not None:
                    return existing
            else:
                log.info("user provisioned", user_id=str(user.id))
                return user
        return None


class Passwords:
    """Hashes and checks passwords, in threads, a few at a time.

    m = 19 MiB, t = 2, p = 1 are the least that OWASP's password storage cheat sheet takes for argon2id.
    """

    def __init__(self, parallel: int) -> None:
        self._hasher = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        # Bounded by PULSE_PASSWORD_HASH_PARALLEL: each hash takes 19 MiB and a core for about 30 ms.
        self._limiter = trio.CapacityLimiter(parallel)
        # What an unknown user's password is checked against, so that it takes as long as a known one's.
        self._dummy = self._hasher.hash("no user has this password")

    async def hash(self, password: str) -> str:
        """The hash to store. Cancelled: when its thread has ended, so that no hash is computed that nobody counts."""
        return str(await self._in_thread(self._hasher.hash, password))

    async def check(self, stored: str | None, password: str) -> bool:
        """Checks a password; takes as long when `stored` is None, and is then False.

        Cancelled: as `hash`.
        """
        try:
            await self._in_thread(self._hasher.verify, self._dummy if stored is None else stored, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
        return stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    async def _in_thread(self, function: Any, *args: str) -> Any:
        return await trio.to_thread.run_sync(function, *args, limiter=self._limiter)


def bearer_token(authorization: str | None) -> str | None:
    """The token of an `Authorization` header (RFC 6750, section 2.1)."""
    if authorization is None:
        return None
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _not_issued() -> PulseError:
    return PulseError(ErrorCode.LOGIN_DISABLED, "Accounts and tokens come from this server's identity provider")


def _invalid(reason: str) -> PulseError:
    return PulseError(ErrorCode.INVALID_TOKEN, f"The token is not valid: {reason}")


def _reason(error: jwt.PyJWTError) -> str:
    match error:
        case jwt.MissingRequiredClaimError():
            return f"`{error.claim}` is missing"
        case jwt.InvalidAlgorithmError():
            return "its algorithm is not the one of this server"
        case jwt.InvalidSignatureError():
            return "its signature is wrong"
        case jwt.InvalidAudienceError():
            return "it is for another audience"
        case jwt.InvalidIssuerError():
            return "it comes from another issuer"
        case _:
            return "it cannot be read"


def _time_claim(payload: dict[str, Any], claim: str) -> float:
    """A NumericDate of RFC 7519, section 2."""
    value = payload[claim]
    try:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError
        return datetime.fromtimestamp(value, UTC).timestamp()
    except (OverflowError, ValueError, OSError):  # isfinite overflows, too, with hundreds of digits
        raise _invalid(f"`{claim}` is not a time") from None


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
    if settings.algorithm == "RS256" and isinstance(key, RSAPublicKey) and key.key_size >= RSA_LEAST_BITS:
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
    if settings.algorithm == "RS256" and isinstance(key, RSAPrivateKey) and key.key_size >= RSA_LEAST_BITS:
        return key
    if settings.algorithm == "EdDSA" and isinstance(key, Ed25519PrivateKey):
        return key
    raise LaunchError(f"PULSE_PRIVATE_KEY does not fit ALGORITHM={settings.algorithm}{_WANTED}")


_WANTED: Final = " (RS256: RSA of at least 2048 bits; EdDSA: Ed25519)"
