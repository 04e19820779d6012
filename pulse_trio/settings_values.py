"""Rules for values of settings that bounds cannot state: keys, tokens and origins."""

from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, SecretStr
from pydantic_settings import NoDecode

# RFC 7518, section 3.2: a key is at least as long as its algorithm's hash.
MIN_SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
MIN_SECRET_VARIETY: Final = 8  # different characters
MIN_METRICS_TOKEN_CHARS: Final = 20

_PLACEHOLDERS: Final = (
    "secret",
    "secretkey",
    "changeme",
    "password",
    "yoursecretkey",
    "default",
    "test",
    "insecure",
)


def check_secret(secret: str, algorithm: str = "HS256") -> None:
    """Rejects a signing key that can be guessed.

    Raises:
        ValueError: it is shorter than the algorithm's hash, or a well-known placeholder; does not show it.
    """
    minimum = MIN_SECRET_BYTES[algorithm]
    try:
        size = len(secret.encode())
    except UnicodeEncodeError:  # its text would quote the key
        raise ValueError("SECRET_KEY must be text in UTF-8") from None
    if size < minimum:
        raise ValueError(
            f"SECRET_KEY is too short: {algorithm} needs at least {minimum} random bytes, "
            "for example from: openssl rand -base64 48"
        )
    letters = "".join(character for character in secret.lower() if character.isalnum())
    is_placeholder = letters != "" and any(letters.replace(word, "") == "" for word in _PLACEHOLDERS)
    if len(set(secret)) < MIN_SECRET_VARIETY or is_placeholder:
        raise ValueError(
            "SECRET_KEY is a placeholder or repeats itself: give random bytes, for example from: "
            "openssl rand -base64 48"
        )


def _check_metrics_token(token: SecretStr) -> SecretStr:
    text = token.get_secret_value()
    if len(text) < MIN_METRICS_TOKEN_CHARS or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(
            f"it must have at least {MIN_METRICS_TOKEN_CHARS} characters, printable ASCII without blanks, for "
            "example from: openssl rand -hex 24"
        )
    return token


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        scheme, separator, rest = origin.partition("://")
        is_host = rest != "" and not any(c in "/*?#@\\" or c.isspace() for c in rest)
        if scheme.lower() not in {"http", "https"} or not separator or not is_host:
            raise ValueError("each must be like https://app.example, with no path and no *")
    return tuple(origin.lower() for origin in origins)


MetricsToken = Annotated[SecretStr, AfterValidator(_check_metrics_token)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split), AfterValidator(_check_origins)]
