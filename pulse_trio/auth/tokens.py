"""Tokens: JSON Web Tokens (RFC 7519), checked as RFC 8725 advises."""

import base64
import binascii
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import jwt

from pulse_trio import strict_json
from pulse_trio.auth.keys import load_keys
from pulse_trio.clock import Clock
from pulse_trio.errors import ErrorCode, LaunchError, PulseError
from pulse_trio.settings import Settings
from pulse_trio.store.base import User
from pulse_trio.texts import text_problem

MAX_TOKEN_CHARS: Final = 8_192  # what fits in a header line of common proxies; ours have about 250
MAX_SUBJECT_CHARS: Final = 255  # OpenID Connect Core, section 2: `sub` has at most 255 characters
MAX_LIFETIME: Final = 10 * 366 * 86_400  # seconds; an `exp` beyond is a mistake, or an attack
DAY: Final = 86_400  # seconds

_TYPES: Final = {"jwt", "at+jwt", "application/jwt", "application/at+jwt"}  # RFC 7519, 5.1; RFC 9068, section 2.1
_BEARER: Final = "bearer"  # Keycloak writes the use of a token as a claim: `Bearer`, `ID`, `Refresh`
_UNREAD_HEADERS: Final = ("cty", "zip")  # another token inside, and compression: neither is read here
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of a valid token; times are in seconds since the epoch.

    Attributes:
        subject: identifies the user to the issuer.
        expires: the end of the token's life.
        name: a name for the user, if the token has one.
        signed_in: the time of the login that the token comes from, if the token has it.
    """

    subject: str
    expires: float
    name: str | None
    signed_in: float | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """The user of a valid token; times are in seconds since the epoch.

    Attributes:
        user: the user.
        expires: the end of the token's life.
        signed_in: the time of the user's login at this service; None for a token of an identity provider.
    """

    user: User
    expires: float
    signed_in: float | None = None


class Tokens:
    """Issues and verifies tokens, with the one algorithm of the settings.

    Raises:
        LaunchError: the key is missing, cannot be read or does not fit the algorithm.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._algorithm = settings.algorithm
        self._clock = clock
        self._leeway = settings.token_leeway
        self._issuer = settings.token_issuer
        self._audience = settings.token_audience
        self._allows_any_audience = settings.allow_any_audience
        self._sign_in_seconds = settings.sign_in_days * DAY
        self.lifetime = settings.access_token_expire_minutes * 60
        self._keys = load_keys(settings)
        self._jwt = jwt.PyJWT()
        self._verifier = jwt.get_algorithm_by_name(settings.algorithm)
        try:
            self._verify_key: Any = self._verifier.prepare_key(self._keys.verify)
        except jwt.InvalidKeyError:
            raise LaunchError(
                f"SECRET_KEY does not fit ALGORITHM={settings.algorithm}: it is a key in PEM form"
            ) from None

    @property
    def can_issue(self) -> bool:
        """True if this service has the key that signs tokens."""
        return self._keys.sign is not None

    def issue(self, user: User) -> str:
        """Returns a token for a user who has just logged in; it is valid for `lifetime` seconds.

        Raises:
            PulseError: tokens come from an identity provider.
        """
        now = int(self._clock().timestamp())
        return self._sign(user, now=now, expires=now + self.lifetime, signed_in=now)

    def renew(self, identity: Identity) -> tuple[str, int]:
        """Returns a new token for a user with a valid one, and the seconds of its life.

        The new token belongs to the same login and does not outlast it: `PULSE_SIGN_IN_DAYS` after the login a
        stolen token is worthless, however often it was renewed.

        Raises:
            PulseError: tokens come from an identity provider, this one does, or the login is too long ago.
        """
        now = int(self._clock().timestamp())
        if not self.can_issue:
            raise PulseError(ErrorCode.LOGIN_DISABLED)
        if identity.signed_in is None:
            raise invalid_token("it does not come from a login at this service")
        signed_in = int(identity.signed_in)
        expires = min(now + self.lifetime, signed_in + self._sign_in_seconds)
        if expires <= now:
            raise invalid_token("the login is too long ago; log in again")
        return self._sign(identity.user, now=now, expires=expires, signed_in=signed_in), expires - now

    def _sign(self, user: User, *, now: int, expires: int, signed_in: int) -> str:
        if not self.can_issue:
            raise PulseError(ErrorCode.LOGIN_DISABLED)
        claims: dict[str, Any] = {"sub": str(user.id), "iat": now, "exp": expires, "auth_time": signed_in}
        if self._issuer is not None:
            claims["iss"] = self._issuer
        if self._audience is not None:
            claims["aud"] = self._audience
        return self._jwt.encode(claims, self._keys.sign, algorithm=self._algorithm)

    def verify(self, token: str) -> Claims:
        """Returns the claims of a token after checking its algorithm, signature and claims.

        Raises:
            PulseError: the token is not valid; the reason reveals nothing of its content.
        """
        if len(token) > MAX_TOKEN_CHARS:
            raise invalid_token("it is too long")
        payload = self._read(token)
        now = self._clock().timestamp()
        expires = _time_claim(payload, "exp")
        if expires <= now:
            raise invalid_token("it has expired (`exp`)")
        if expires > now + MAX_LIFETIME:
            raise invalid_token("`exp` is too far away")
        for claim in ("iat", "nbf"):
            if payload.get(claim) is not None and _time_claim(payload, claim) > now + self._leeway:
                raise invalid_token(f"it is not valid yet (`{claim}`)")
        subject = payload["sub"]
        if not isinstance(subject, str) or not 1 <= len(subject) <= MAX_SUBJECT_CHARS or text_problem(subject):
            raise invalid_token("`sub` is not a user id")
        names = (payload.get("preferred_username"), payload.get("name"))
        name = next((name for name in names if isinstance(name, str) and name), None)
        return Claims(subject, expires, name, self._signed_in(payload, now))

    def _read(self, token: str) -> dict[str, Any]:
        """Returns the claims of a token that is signed with our key, in the form of an access token for this service.

        A token is decoded once, and more strictly than the JWT library does, so that it has one text and one meaning;
        the library's part is the signature.

        Raises:
            PulseError: a part is not base64url in its only form (RFC 7515, section 2) or not strict JSON, the header
                demands what is not understood here, the algorithm or the signature is wrong, or the token is of another
                kind, or was issued by or for somebody else (RFC 7519, section 4.1).
        """
        signed, _, signature = token.rpartition(".")
        segments = signed.split(".")
        if len(segments) != 2:
            raise invalid_token("it cannot be read")
        header, payload, found = map(_decode, (*segments, signature))
        try:
            head, claims = strict_json.loads(header), strict_json.loads(payload)
        except strict_json.InvalidJSON:
            raise invalid_token("it cannot be read") from None
        if not isinstance(head, dict) or not isinstance(claims, dict):
            raise invalid_token("it cannot be read")
        self._check_header(head)
        if not self._verifier.verify(signed.encode(), self._verify_key, found):
            raise invalid_token("its signature is wrong")
        self._check_claims(claims)
        return claims

    def _check_header(self, head: dict[str, Any]) -> None:
        for name in _UNREAD_HEADERS:
            if name in head:
                raise invalid_token(f"its header has `{name}`")
        if "crit" in head or head.get("b64", True) is not True or not isinstance(head.get("kid", ""), str):
            raise invalid_token("it cannot be read")  # RFC 7515, sections 4.1.4 and 4.1.11; RFC 7797
        kind = head.get("typ", "JWT")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise invalid_token("`typ` of its header is not that of an access token")
        if head.get("alg") != self._algorithm:
            raise invalid_token("its algorithm is not the one of this server")

    def _check_claims(self, claims: dict[str, Any]) -> None:
        """Checks all claims but times, which `verify` compares with the clock of this service."""
        use = claims.get("typ", _BEARER)
        if not isinstance(use, str) or use.lower() != _BEARER:
            raise invalid_token("`typ` is not that of an access token")
        for name in ("exp", "sub"):
            if claims.get(name) is None:
                raise invalid_token(f"`{name}` is missing")
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise invalid_token("it comes from another issuer (`iss`)")
        if self._audience is not None:
            audiences = claims.get("aud")
            listed = audiences if isinstance(audiences, list) else [audiences]
            if self._audience not in listed or not all(isinstance(audience, str) for audience in listed):
                raise invalid_token("it is for another audience (`aud`)")
        elif "aud" in claims and not self._allows_any_audience:
            raise invalid_token("`aud` names another audience, and this server has none (PULSE_TOKEN_AUDIENCE)")
        if not isinstance(claims.get("jti", ""), str):
            raise invalid_token("`jti` is not a text")

    def _signed_in(self, payload: dict[str, Any], now: float) -> float | None:
        """Returns the time of the login, if known: `auth_time` (OpenID Connect Core, section 2), else `iat`.

        A malformed `auth_time` of a provider prevents only the renewal.
        """
        claim = "auth_time" if payload.get("auth_time") is not None else "iat"
        try:
            signed_in = None if payload.get(claim) is None else _time_claim(payload, claim)
        except PulseError:
            return None
        return None if signed_in is None or signed_in > now + self._leeway else signed_in


def bearer_token(authorization: str | None) -> str | None:
    """Returns the token of an `Authorization` header (RFC 6750, section 2.1), or None for another scheme."""
    if authorization is None:
        return None
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def invalid_token(reason: str) -> PulseError:
    """Makes the error for a token that is not valid."""
    return PulseError(ErrorCode.INVALID_TOKEN, f"The token is not valid: {reason}")


def _decode(segment: str) -> bytes:
    """Decodes a part of a token. Raises PulseError if another text would be read as the same bytes."""
    if _SEGMENT.fullmatch(segment):
        try:
            data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        except binascii.Error:
            pass
        else:
            if base64.urlsafe_b64encode(data).rstrip(b"=") == segment.encode():
                return data
    raise invalid_token("it cannot be read")


def _time_claim(payload: dict[str, Any], claim: str) -> float:
    """Returns a NumericDate (RFC 7519, section 2). Raises PulseError for a value that is none."""
    value = payload[claim]
    try:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError
        return datetime.fromtimestamp(value, UTC).timestamp()
    except (OverflowError, ValueError, OSError):  # isfinite, too, overflows with hundreds of digits
        raise invalid_token(f"`{claim}` is not a time") from None
