"""Every setting: its environment variable, default, bounds and unit.

The variables of the specification have their own names (`DATABASE_URL`, `SECRET_KEY`, `ALGORITHM`,
`ACCESS_TOKEN_EXPIRE_MINUTES`); all others begin with `PULSE_`. `docs/operations.md` lists them, and a
test holds that list to this module.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pulse_trio.errors import LaunchError
from pulse_trio.settings_errors import describe, unknown

# RFC 7518, section 3.2: a key has at least the size of its algorithm's hash.
MIN_SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}

TOKEN_LEAST_CHARS = 20

_WEAK_SECRETS = {
    "secret",
    "secretkey",
    "changeme",
    "password",
    "yoursecretkey",
    "default",
    "test",
    "insecure",
}


class Settings(BaseSettings):
    """All settings, read from the environment once, at start."""

    model_config = SettingsConfigDict(
        extra="ignore", populate_by_name=True, frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    # --- the specification's own ---
    database_url: SecretStr | None = Field(
        None,
        validation_alias="DATABASE_URL",
        description="A PostgreSQL (14 or newer) of your own, as a URL or a libpq connection string; "
        "without it an embedded one runs in the data folder.",
    )
    secret_key: SecretStr | None = Field(
        None,
        validation_alias="SECRET_KEY",
        description="Signs and checks tokens (HS256/384/512), at least 32 bytes (HS384: 48, HS512: 64). Required with "
        "`DATABASE_URL`; with the embedded PostgreSQL one is made and kept in the data folder.",
    )
    algorithm: Literal["HS256", "HS384", "HS512", "RS256", "EdDSA"] = Field(
        "HS256",
        validation_alias="ALGORITHM",
        description="The only algorithm a token may have.",
    )
    access_token_expire_minutes: int = Field(
        60,
        ge=1,
        le=525_600,
        validation_alias="ACCESS_TOKEN_EXPIRE_MINUTES",
        description="Lifetime of the tokens that login gives out, in minutes.",
    )
    sign_in_days: int = Field(
        30,
        ge=1,
        le=3_650,
        validation_alias="PULSE_SIGN_IN_DAYS",
        description="How long after a login its token can be renewed, in days; no renewed token lasts beyond.",
    )

    # --- tokens of an identity provider ---
    public_key: str | None = Field(
        None,
        validation_alias="PULSE_PUBLIC_KEY",
        description="The public key for RS256 and EdDSA: PEM text, or the path of a PEM file.",
    )
    private_key: SecretStr | None = Field(
        None,
        validation_alias="PULSE_PRIVATE_KEY",
        description="The private key for RS256 and EdDSA (PEM text or path), if this service is to give "
        "out tokens itself; without it register and login are off.",
    )
    token_issuer: str | None = Field(
        None, validation_alias="PULSE_TOKEN_ISSUER", description="If set, a token's `iss` must be this."
    )
    token_audience: str | None = Field(
        None, validation_alias="PULSE_TOKEN_AUDIENCE", description="If set, a token's `aud` must name this."
    )
    token_leeway: int = Field(
        5,
        ge=0,
        le=30,
        validation_alias="PULSE_TOKEN_LEEWAY",
        description="How far the clock of a token's issuer may be ahead (`iat`, `nbf`), in seconds.",
    )
    provision_users: bool = Field(
        False,
        validation_alias="PULSE_PROVISION_USERS",
        description="Make a user from the first valid token of an unknown `sub`.",
    )

    token_in_url: bool = Field(
        True,
        validation_alias="PULSE_TOKEN_IN_URL",
        description="Take a token in the URL of a WebSocket (`?token=`), where proxies may log it. Without it clients "
        "use a ticket, a header or a subprotocol entry.",
    )
    ticket_seconds: int = Field(
        30,
        ge=1,
        le=300,
        validation_alias="PULSE_TICKET_SECONDS",
        description="How long a ticket for a WebSocket is good, in seconds.",
    )

    # --- where things are ---
    data_dir: Path | None = Field(
        None,
        validation_alias="PULSE_DATA_DIR",
        description="Folder of the embedded PostgreSQL and the signing key. Default: `pulse-trio` in the "
        "user's data folder, `/var/lib/pulse-trio` for root.",
    )
    postgres_bin: Path | None = Field(
        None,
        validation_alias="PULSE_POSTGRES_BIN",
        description="Folder of PostgreSQL's programs, for the embedded server and for backup and restore, instead of "
        "the packaged ones.",
    )

    web_client: bool = Field(
        True,
        validation_alias="PULSE_WEB_CLIENT",
        description="Serve the web client at `/`. The JavaScript library at `/pulse-client.js` is served in any case.",
    )

    # --- who may connect ---
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        validation_alias="PULSE_ALLOWED_ORIGINS",
        description="Further origins whose pages may use the service (REST by CORS, and WebSocket), "
        "separated by commas, such as `https://app.example`. The page's own origin is always allowed.",
    )
    max_content_chars: int = Field(
        4_000,
        ge=1,
        le=100_000,
        validation_alias="PULSE_MAX_CONTENT_CHARS",
        description="Longest message, in characters (Unicode code points).",
    )
    max_frame_bytes: int = Field(
        65_536,
        ge=1_024,
        le=16_777_216,
        validation_alias="PULSE_MAX_FRAME_BYTES",
        description="Largest WebSocket message a client may send, in bytes; a larger one closes with 1009.",
    )
    max_body_bytes: int = Field(
        65_536,
        ge=1_024,
        le=16_777_216,
        validation_alias="PULSE_MAX_BODY_BYTES",
        description="Largest REST request body, in bytes.",
    )
    body_timeout: float = Field(
        10.0,
        gt=0,
        le=300,
        validation_alias="PULSE_BODY_TIMEOUT",
        description="How long a client may take to send a request body, in seconds.",
    )
    max_group_members: int = Field(
        5_000,
        ge=2,
        le=100_000,
        validation_alias="PULSE_MAX_GROUP_MEMBERS",
        description="Most members of a group.",
    )

    # --- flood limits ---
    frames_per_second: int = Field(
        100,
        ge=0,
        le=1_000_000,
        validation_alias="PULSE_FRAMES_PER_SECOND",
        description="Frames a second that a connection may send in the long run; 0 is no limit.",
    )
    frames_burst: int = Field(
        1_000,
        ge=1,
        le=10_000_000,
        validation_alias="PULSE_FRAMES_BURST",
        description="Frames that a connection may send at once. Beyond it they are refused with `rate_limited`, and "
        "after so many more it is closed with 4429.",
    )
    foreign_frame_cost: int = Field(
        20,
        ge=1,
        le=1_000_000,
        validation_alias="PULSE_FOREIGN_FRAME_COST",
        description="Frames that a session's frame counts as when it is about a conversation that is not the user's "
        "and the database had to be asked.",
    )
    bytes_per_second: int = Field(
        262_144,
        ge=0,
        le=1_073_741_824,
        validation_alias="PULSE_BYTES_PER_SECOND",
        description="Bytes of frames a second that a connection may send in the long run; 0 is no limit.",
    )
    bytes_burst: int = Field(
        1_048_576,
        ge=1_024,
        le=1_073_741_824,
        validation_alias="PULSE_BYTES_BURST",
        description="Bytes of frames that a connection may send at once, as `PULSE_FRAMES_BURST`; at least "
        "`PULSE_MAX_FRAME_BYTES`.",
    )
    connections_per_user: int = Field(
        100,
        ge=0,
        le=100_000,
        validation_alias="PULSE_CONNECTIONS_PER_USER",
        description="WebSocket connections that one user may have open; 0 is no limit.",
    )
    pieces_per_second: int = Field(
        500,
        ge=0,
        le=1_000_000,
        validation_alias="PULSE_PIECES_PER_SECOND",
        description="WebSocket frames a second that are no whole message (pings, pongs, pieces of messages) that a "
        "connection may send in the long run; 0 is no limit.",
    )
    pieces_burst: int = Field(
        5_000,
        ge=1,
        le=10_000_000,
        validation_alias="PULSE_PIECES_BURST",
        description="Such frames that a connection may send at once; beyond it it is closed with 4429.",
    )
    message_timeout: float = Field(
        30.0,
        gt=0,
        le=3_600,
        validation_alias="PULSE_MESSAGE_TIMEOUT",
        description="How long a WebSocket message may take from its first byte to its last, in seconds; then the "
        "connection is closed with 1008.",
    )
    edits_per_second: int = Field(
        20,
        ge=0,
        le=1_000_000,
        validation_alias="PULSE_EDITS_PER_SECOND",
        description="Edits and deletions of messages a second that a user may ask for over REST in the long run, as "
        "many new messages, and as many read positions; 0 is no limit.",
    )
    edits_burst: int = Field(
        200,
        ge=1,
        le=10_000_000,
        validation_alias="PULSE_EDITS_BURST",
        description="Edits and deletions of messages that a user may ask for over REST at once, as many new messages, "
        "and as many read positions.",
    )
    group_changes_per_second: int = Field(
        5,
        ge=0,
        le=1_000_000,
        validation_alias="PULSE_GROUP_CHANGES_PER_SECOND",
        description="Conversations that a user creates and renames, and members that they add and remove, in requests "
        "a second in the long run; 0 is no limit.",
    )
    group_changes_burst: int = Field(
        200,
        ge=1,
        le=10_000_000,
        validation_alias="PULSE_GROUP_CHANGES_BURST",
        description="Such requests of a user at once.",
    )
    presence_per_second: int = Field(
        20,
        ge=0,
        le=1_000_000,
        validation_alias="PULSE_PRESENCE_PER_SECOND",
        description="Requests a second for somebody's presence that a user may send over REST in the long run; 0 is no "
        "limit.",
    )
    presence_burst: int = Field(
        200,
        ge=1,
        le=10_000_000,
        validation_alias="PULSE_PRESENCE_BURST",
        description="Requests for somebody's presence that a user may send over REST at once.",
    )
    max_connections: int = Field(
        10_000,
        ge=0,
        le=1_000_000,
        validation_alias="PULSE_MAX_CONNECTIONS",
        description="TCP connections that the service may have open, as far as the system lets it open so many files; "
        "more are answered with 503. 0 is no limit.",
    )
    connections_per_address: int = Field(
        1_000,
        ge=0,
        le=1_000_000,
        validation_alias="PULSE_CONNECTIONS_PER_ADDRESS",
        description="TCP connections that one address may have open (behind `PULSE_TRUSTED_PROXIES`: WebSockets); more "
        "are answered with 429. 0 is no limit.",
    )
    requests_per_second: int = Field(
        300,
        ge=0,
        le=1_000_000,
        validation_alias="PULSE_REQUESTS_PER_SECOND",
        description="Requests and handshakes a second that one address may send in the long run; 0 is no limit.",
    )
    requests_burst: int = Field(
        3_000,
        ge=1,
        le=10_000_000,
        validation_alias="PULSE_REQUESTS_BURST",
        description="Requests and handshakes that one address may send at once; more are answered with 429.",
    )
    login_failures_per_address: int = Field(
        300,
        ge=0,
        le=1_000_000,
        validation_alias="PULSE_LOGIN_FAILURES_PER_ADDRESS",
        description="Failed logins of one address at once; they are forgotten evenly within an hour. 0 is no limit.",
    )
    login_failures_per_account: int = Field(
        20,
        ge=0,
        le=1_000_000,
        validation_alias="PULSE_LOGIN_FAILURES_PER_ACCOUNT",
        description="Failed logins for one username at once; they are forgotten evenly within an hour. 0 is no limit.",
    )
    registrations_per_address: int = Field(
        300,
        ge=0,
        le=1_000_000,
        validation_alias="PULSE_REGISTRATIONS_PER_ADDRESS",
        description="Registrations from one address at once; they are forgotten evenly within an hour. 0 is no limit.",
    )
    renewals_per_user: int = Field(
        300,
        ge=0,
        le=1_000_000,
        validation_alias="PULSE_RENEWALS_PER_USER",
        description="Renewals of one user's tokens at once; they are forgotten evenly within an hour. 0 is no limit.",
    )
    trusted_proxies: int = Field(
        0,
        ge=0,
        le=10,
        validation_alias="PULSE_TRUSTED_PROXIES",
        description="Proxies of your own before the service; the address of a client is so many entries from the end "
        "of `X-Forwarded-For`. With 0 it is the peer's, and the header means nothing.",
    )

    # --- passwords ---
    password_min_chars: int = Field(
        8,
        ge=1,
        le=128,
        validation_alias="PULSE_PASSWORD_MIN_CHARS",
        description="Shortest password, in characters.",
    )
    password_hash_parallel: int = Field(
        2,
        ge=1,
        le=64,
        validation_alias="PULSE_PASSWORD_HASH_PARALLEL",
        description="Password hashes computed at a time, each in a thread with 19 MiB.",
    )
    password_queue: int = Field(
        128,
        ge=1,
        le=100_000,
        validation_alias="PULSE_PASSWORD_QUEUE",
        description="Logins that may wait for a password hash, and as many registrations; more are answered with 503. "
        "A hash takes about 30 ms: 128 are 2 s of work for two at a time.",
    )
    password_attempts_per_address: int = Field(
        16,
        ge=0,
        le=100_000,
        validation_alias="PULSE_PASSWORD_ATTEMPTS_PER_ADDRESS",
        description="Logins of one address that may be under way at a time, and as many registrations; more are "
        "answered with 429. 0 is no limit.",
    )
    password_wait: float = Field(
        5.0,
        gt=0,
        le=30,
        validation_alias="PULSE_PASSWORD_WAIT",
        description="How long a login or a registration may wait for its password hash before it is answered with "
        "503, in seconds.",
    )

    # --- rooms ---
    inbox_messages: int = Field(
        1_024,
        ge=1,
        le=1_000_000,
        validation_alias="PULSE_INBOX_MESSAGES",
        description="Messages of one conversation that may wait for the database; then senders wait.",
    )
    batch_messages: int = Field(
        256,
        ge=1,
        le=10_000,
        validation_alias="PULSE_BATCH_MESSAGES",
        description="Most messages stored in one transaction.",
    )
    pending_messages: int = Field(
        64,
        ge=1,
        le=10_000,
        validation_alias="PULSE_PENDING_MESSAGES",
        description="Messages and read positions of one connection that may wait for the database; then it is not "
        "read.",
    )
    outbox_bytes: int = Field(
        1_048_576,
        ge=65_536,
        le=1_073_741_824,
        validation_alias="PULSE_OUTBOX_BYTES",
        description="Bytes that may wait for one connection that reads slowly; from half of it on typing, "
        "presence and read frames are dropped, beyond it the connection is closed with 4408.",
    )
    answer_bytes_per_address: int = Field(
        16_777_216,
        ge=0,
        le=1_099_511_627_776,
        validation_alias="PULSE_ANSWER_BYTES_PER_ADDRESS",
        description="Bytes of answers over HTTP that one address may have under way, made and not yet read; more are "
        "answered with 503. 0 is no limit.",
    )
    answer_bytes: int = Field(
        201_326_592,
        ge=0,
        le=1_099_511_627_776,
        validation_alias="PULSE_ANSWER_BYTES",
        description="Bytes of answers over HTTP that may be under way in all, as `PULSE_ANSWER_BYTES_PER_ADDRESS`; 0 "
        "is no limit.",
    )
    write_timeout: float = Field(
        10.0,
        gt=0,
        le=300,
        validation_alias="PULSE_WRITE_TIMEOUT",
        description="How long a client may take for each 64 KiB that are written to it, or for what is less, before "
        "its connection is cut, in seconds.",
    )
    store_timeout: float = Field(
        10.0,
        gt=0,
        le=300,
        validation_alias="PULSE_STORE_TIMEOUT",
        description="How long a message may wait to be stored before its sender is told that it was not, in seconds.",
    )

    presence_list_max: int = Field(
        100,
        ge=1,
        le=100_000,
        validation_alias="PULSE_PRESENCE_LIST_MAX",
        description="Most active users of a conversation with which every frame about a coming or going lists all of "
        "them; with more, `presence` frames say who came and went, and read positions are told to their own user only.",
    )
    room_linger: float = Field(
        60.0,
        ge=0,
        le=86_400,
        validation_alias="PULSE_ROOM_LINGER",
        description="How long a conversation that only session connections follow stays in memory after its last "
        "use, in seconds.",
    )
    resume_wait: float = Field(
        5.0,
        ge=0,
        le=60,
        validation_alias="PULSE_RESUME_WAIT",
        description="How long a session connection that has sent nothing waits for a `resume` before frames flow, "
        "in seconds.",
    )
    resume_conversations: int = Field(
        1_000,
        ge=1,
        le=5_000,
        validation_alias="PULSE_RESUME_CONVERSATIONS",
        description="Most conversations in a `resume`.",
    )

    watched_users: int = Field(
        500,
        ge=1,
        le=5_000,
        validation_alias="PULSE_WATCHED_USERS",
        description="Most users in a `watch` of a session connection.",
    )

    # --- database ---
    pool_min: int = Field(
        2,
        ge=0,
        le=1_000,
        validation_alias="PULSE_POOL_MIN",
        description="Database connections kept open, one of them for storing messages.",
    )
    pool_max: int = Field(
        10,
        ge=1,
        le=1_000,
        validation_alias="PULSE_POOL_MAX",
        description="Most database connections for everything but storing messages, which has up to five more of its "
        "own.",
    )
    statement_timeout: float = Field(
        5.0,
        gt=0,
        le=300,
        validation_alias="PULSE_STATEMENT_TIMEOUT",
        description="How long one SQL statement may take, in seconds.",
    )
    migration_wait: float = Field(
        60.0,
        gt=0,
        le=86_400,
        validation_alias="PULSE_MIGRATION_WAIT",
        description="How long a start, or `migrate`, waits for another session that migrates the database, or that "
        "uses a table which is to be changed, in seconds.",
    )
    allow_losing_commits: bool = Field(
        False,
        validation_alias="PULSE_ALLOW_LOSING_COMMITS",
        description="Start also on a PostgreSQL whose `fsync`, `full_page_writes` or `synchronous_commit` is off: "
        "a crash or a power cut may then lose messages that were acknowledged.",
    )

    # --- operation ---
    stop_delay: float = Field(
        0.0,
        ge=0,
        le=300,
        validation_alias="PULSE_STOP_DELAY",
        description="How long the service goes on after it was told to stop, with `/readyz` saying 503, so that a load "
        "balancer sends nobody new; in seconds.",
    )
    metrics: bool = Field(
        True,
        validation_alias="PULSE_METRICS",
        description="Serve `/metrics` for Prometheus: to programs on this machine only, or with `PULSE_METRICS_TOKEN` "
        "to whoever has that token.",
    )
    metrics_token: SecretStr | None = Field(
        None,
        validation_alias="PULSE_METRICS_TOKEN",
        description="The bearer token that `/metrics` asks for, at least 20 characters; with it it may be read from "
        "anywhere.",
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto",
        validation_alias="PULSE_LOG_FORMAT",
        description="`console` for people, `json` for machines; `auto` is console on a terminal.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", validation_alias="PULSE_LOG_LEVEL", description="Least severe log line that is written."
    )

    @field_validator("log_format", "log_level", mode="before")
    @classmethod
    def _in_any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        if isinstance(value, str):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            scheme, separator, rest = origin.partition("://")
            is_host = rest != "" and not any(c in "/*?#@\\" or c.isspace() for c in rest)
            if scheme.lower() not in {"http", "https"} or not separator or not is_host:
                raise ValueError("each must be like https://app.example, with no path and no *")
        return tuple(origin.lower() for origin in origins)

    @field_validator("metrics_token")
    @classmethod
    def _check_metrics_token(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None:
            text = token.get_secret_value()
            if len(text) < TOKEN_LEAST_CHARS or not text.isascii() or not text.isprintable() or " " in text:
                raise ValueError(
                    f"it must have at least {TOKEN_LEAST_CHARS} characters, printable ASCII without blanks, for "
                    "instance from: openssl rand -hex 24"
                )
        return token

    @model_validator(mode="after")
    def _check_together(self) -> "Settings":
        if self.pool_min > self.pool_max:
            raise ValueError(f"PULSE_POOL_MIN ({self.pool_min}) is above PULSE_POOL_MAX ({self.pool_max})")
        if self.algorithm.startswith("HS"):
            if self.secret_key is not None:
                check_secret(self.secret_key.get_secret_value(), self.algorithm)
            elif self.database_url is not None:
                raise ValueError(
                    "SECRET_KEY is missing: with DATABASE_URL set, give one of at least 32 random bytes, "
                    "for instance from: openssl rand -base64 48"
                )
        elif self.public_key is None:
            raise ValueError(f"ALGORITHM={self.algorithm} needs PULSE_PUBLIC_KEY")
        return self

    @classmethod
    def load(cls, **overrides: object) -> "Settings":
        """Reads the environment; `overrides` (by field name, None ignored) go before it.

        Raises:
            LaunchError: a setting is missing or wrong; names the variable, never shows a value.
        """
        try:
            return cls(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
        except ValidationError as error:
            fields = cls.model_fields.values()
            problems = "; ".join(describe(item, fields) for item in error.errors(include_input=False))
            raise LaunchError(problems) from None

    @classmethod
    def unknown(cls) -> dict[str, str | None]:
        """Variables of the environment that look like settings and are none, each with the one that may be meant."""
        return unknown(os.environ, (str(field.validation_alias) for field in cls.model_fields.values()))


def check_secret(secret: str, algorithm: str = "HS256") -> None:
    """Refuses a key that can be guessed.

    Raises:
        ValueError: it is shorter than the algorithm's hash, or a well-known placeholder; does not show it.
    """
    least = MIN_SECRET_BYTES[algorithm]
    try:
        size = len(secret.encode())
    except UnicodeEncodeError:  # its text would quote the key
        raise ValueError("SECRET_KEY must be text in UTF-8") from None
    letters = "".join(character for character in secret.lower() if character.isalnum())
    if size < least:
        raise ValueError(
            f"SECRET_KEY is too short: {algorithm} needs at least {least} random bytes, "
            "for instance from: openssl rand -base64 48"
        )
    is_placeholder = letters != "" and any(letters.replace(word, "") == "" for word in _WEAK_SECRETS)
    if len(set(secret)) < 8 or is_placeholder:
        raise ValueError(
            "SECRET_KEY is a placeholder or repeats itself: give random bytes, for instance from: "
            "openssl rand -base64 48"
        )
