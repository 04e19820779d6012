"""All settings: environment variable, default, bounds and unit.

The four variables of the specification (`DATABASE_URL`, `SECRET_KEY`, `ALGORITHM`, `ACCESS_TOKEN_EXPIRE_MINUTES`) have
no prefix; every other variable is `PULSE_` and the field's name in capitals. `docs/operations.md` lists them in this
order; a test compares that list with this module.
"""

import os
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from pulse_trio.errors import LaunchError
from pulse_trio.networks import Networks
from pulse_trio.settings_errors import closest_names, describe
from pulse_trio.settings_values import (
    Bind,
    BusUrlText,
    Hosts,
    MetricsToken,
    Origins,
    ProxyNetworks,
    Workers,
    check_secret,
)

ENV_PREFIX: Final = "PULSE_"
# Loopback, private (RFC 1918, RFC 4193) and link-local addresses.
PRIVATE_NETWORKS: Final = (
    *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
    *("::1/128", "fc00::/7", "fe80::/10"),
)


class Settings(BaseSettings):
    """All settings, read once from the environment at start."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    # --- database ---
    database_url: SecretStr | None = Field(None, validation_alias="DATABASE_URL")
    """A PostgreSQL server of your own (14 or newer), as a URL or a libpq connection string. Unset: an embedded
    PostgreSQL runs in the data folder.
    """
    database_direct_url: SecretStr | None = None
    """The same database without a pooler in between, for what belongs to one session: the service lock, migrations and
    the bus. Unset: `DATABASE_URL` is used for them, too.
    """
    data_dir: Path | None = None
    """Folder of the embedded PostgreSQL and the signing key. Default: `pulse-trio` in the user's data folder;
    `/var/lib/pulse-trio` for root.
    """
    postgres_bin: Path | None = None
    """Folder with PostgreSQL's programs, used instead of the packaged ones by the embedded server, backup and restore.
    """
    pool_min: int = Field(2, ge=0, le=1_000)
    """Database connections kept open, including one for storing messages."""
    pool_max: int = Field(10, ge=1, le=1_000)
    """Maximum database connections, without those for storing messages (at most five more). Lists, rooms, look-ups and
    changes hold at most half of them each; with 8 or more, some are reserved for each.
    """
    statement_timeout: float = Field(5.0, gt=0, le=300)
    """Maximum duration of one SQL statement, in seconds. A transaction that stands still ends after at most twice as
    long (before PostgreSQL 17 not in every case).
    """
    migration_wait: float = Field(60.0, gt=0, le=86_400)
    """Maximum wait of a start, or of `migrate`, for another session that migrates the database or locks a table to be
    changed, in seconds.
    """
    cluster: bool = False
    """Share the database with other processes of the service that have this setting, on this machine or others; without
    it a process uses a database alone. Workers of `PULSE_WORKERS` and of the `hypercorn` command always share it.
    """
    allow_losing_commits: bool = False
    """Start even if PostgreSQL's `fsync`, `full_page_writes` or `synchronous_commit` is off: a crash or a power cut may
    then lose acknowledged messages.
    """

    # --- several processes ---
    bus_url: BusUrlText | None = None
    """Engine that wakes the other processes of the service: `local` (there are none), `postgres`, or the URL of a Redis
    or Valkey, such as `rediss://user:password@host`. Unset: `local` for one process, `postgres` for several.
    """

    # --- tokens ---
    secret_key: SecretStr | None = Field(None, validation_alias="SECRET_KEY")
    """Key that signs and verifies tokens (HS256/384/512), at least 32 bytes (HS384: 48, HS512: 64). Required with
    `DATABASE_URL`; with the embedded PostgreSQL one is generated and kept in the data folder.
    """
    algorithm: Literal["HS256", "HS384", "HS512", "RS256", "EdDSA"] = Field("HS256", validation_alias="ALGORITHM")
    """The only signing algorithm accepted in a token."""
    access_token_expire_minutes: int = Field(60, ge=1, le=525_600, validation_alias="ACCESS_TOKEN_EXPIRE_MINUTES")
    """Lifetime of the tokens issued at login, in minutes."""
    sign_in_days: int = Field(30, ge=1, le=3_650)
    """Days after a login in which its token can be renewed. No renewed token outlives this."""
    public_key: str | None = None
    """Public key for RS256 and EdDSA: PEM text, or the path of a PEM file."""
    private_key: SecretStr | None = None
    """Private key for RS256 and EdDSA (PEM text or path), if this service issues tokens itself. Unset: register and
    login are disabled.
    """
    token_issuer: str | None = None
    """Required value of a token's `iss` claim. Unset: any."""
    token_audience: str | None = None
    """Required entry of a token's `aud` claim. Unset: only tokens without `aud` are accepted."""
    allow_any_audience: bool = False
    """Accept tokens that were issued for other applications: without `PULSE_TOKEN_AUDIENCE` any `aud` is accepted, and
    RS256 and EdDSA need neither it nor `PULSE_TOKEN_ISSUER`.
    """
    token_leeway: int = Field(5, ge=0, le=30)
    """Tolerated clock skew of a token's issuer (`iat`, `nbf`), in seconds."""
    provision_users: bool = False
    """Create a user on the first valid token with an unknown `sub`."""
    token_in_url: bool = True
    """Accept a token in a WebSocket's URL (`?token=`), where proxies may log it. If false, clients use a ticket, a
    header or a subprotocol entry.
    """
    ticket_seconds: int = Field(30, ge=1, le=300)
    """Lifetime of a WebSocket ticket, in seconds."""
    renewals_per_user: int = Field(300, ge=0, le=1_000_000)
    """Token renewals of one user in a burst; the burst refills evenly within an hour. 0: no limit."""

    # --- passwords, logins and registrations ---
    password_min_chars: int = Field(8, ge=1, le=128)
    """Minimum length of a password, in characters."""
    password_hash_parallel: int = Field(2, ge=1, le=64)
    """Password hashes computed in parallel, each in a thread with 19 MiB."""
    password_queue: int = Field(128, ge=1, le=100_000)
    """Logins that may wait for a password hash, and as many registrations; more are answered with 503. A hash takes
    about 30 ms: 128 are 2 s of work for two in parallel.
    """
    password_wait: float = Field(5.0, gt=0, le=30)
    """Maximum wait of a login or registration for its password hash, in seconds; then it is answered with 503."""
    password_attempts_per_address: int = Field(16, ge=0, le=100_000)
    """Concurrent logins from one address, and as many registrations; more are answered with 429. 0: no limit."""
    login_failures_per_address: int = Field(300, ge=0, le=1_000_000)
    """Failed logins from one address in a burst; the burst refills evenly within an hour. 0: no limit."""
    login_failures_per_account: int = Field(20, ge=0, le=1_000_000)
    """Failed logins for one username in a burst; the burst refills evenly within an hour. 0: no limit."""
    registrations_per_address: int = Field(300, ge=0, le=1_000_000)
    """Registrations from one address in a burst; the burst refills evenly within an hour. 0: no limit."""

    # --- browsers and proxies ---
    web_client: bool = True
    """Serve the web client at `/`. The JavaScript library at `/pulse-client.js` is always served."""
    allowed_origins: Origins = ()
    """Additional origins whose pages may use the service (REST through CORS, and WebSocket), separated by commas, for
    example `https://app.example` or `capacitor://localhost`. The service's own origin is always allowed.
    """
    allow_null_origin: bool = False
    """Allow the origin `null` too, which pages opened from files have, but also sandboxed frames of any site."""
    allowed_hosts: Hosts = ()
    """Host names, with or without a port, under which the service answers, separated by commas; requests with another
    `Host` get 421, except for the probes and `/metrics`. Unset: any.
    """
    trusted_proxies: int = Field(0, ge=0, le=10)
    """Number of your own proxies in front of the service. The client's address is that many entries from the end of
    `X-Forwarded-For`; with 0 it is the peer's address and the header is ignored.
    """
    proxy_networks: ProxyNetworks = PRIVATE_NETWORKS
    """Addresses and networks of your proxies, separated by commas. `X-Forwarded-For` and `X-Forwarded-Proto` of other
    peers are ignored.
    """

    # --- sizes and times of what clients send ---
    max_content_chars: int = Field(4_000, ge=1, le=100_000)
    """Maximum length of a message, in characters (Unicode code points)."""
    max_frame_bytes: int = Field(65_536, ge=1_024, le=16_777_216)
    """Maximum size of a WebSocket message from a client, in bytes; a larger one closes the connection with 1009."""
    max_body_bytes: int = Field(65_536, ge=1_024, le=16_777_216)
    """Maximum size of a REST request body, in bytes."""
    body_timeout: float = Field(10.0, gt=0, le=300)
    """Maximum time for a client to send a request body, in seconds."""
    message_timeout: float = Field(30.0, gt=0, le=3_600)
    """Maximum time from the first byte of a WebSocket message to its last, in seconds; after it the connection is
    closed with 1008.
    """
    max_group_members: int = Field(5_000, ge=2, le=100_000)
    """Maximum number of members of a group."""
    resume_conversations: int = Field(1_000, ge=1, le=5_000)
    """Maximum number of conversations in a `resume`."""
    watched_users: int = Field(500, ge=1, le=5_000)
    """Maximum number of users in a `watch` of a session."""

    # --- rate limits of a connection ---
    frames_per_second: int = Field(100, ge=0, le=1_000_000)
    """Sustained rate of frames from one connection, per second. 0: no limit."""
    frames_burst: int = Field(1_000, ge=1, le=10_000_000)
    """Burst of frames from one connection. Frames above it are rejected with `rate_limited`; after as many rejected
    frames the connection is closed with 4429.
    """
    foreign_frame_cost: int = Field(20, ge=1, le=1_000_000)
    """Frames that a session's frame counts as when it names a conversation of which the user is not a member and which
    had to be looked up in the database.
    """
    foreign_look_ups_per_second: int = Field(20, ge=0, le=1_000_000)
    """Sustained rate of such look-ups for one user, over all of their sessions, per second; above it frames about
    conversations that a session does not know are rejected with `rate_limited`. 0: no limit.
    """
    foreign_look_ups_burst: int = Field(200, ge=1, le=10_000_000)
    """Burst of such look-ups for one user."""
    watched_users_per_frame: int = Field(10, ge=1, le=5_000)
    """Users in a `watch` that count as one more frame, because each of them is looked up."""
    bytes_per_second: int = Field(262_144, ge=0, le=1_073_741_824)
    """Sustained rate of frame bytes from one connection, per second. 0: no limit."""
    bytes_burst: int = Field(1_048_576, ge=1_024, le=1_073_741_824)
    """Burst of frame bytes from one connection, enforced like `PULSE_FRAMES_BURST`; at least `PULSE_MAX_FRAME_BYTES`.
    """
    pieces_per_second: int = Field(500, ge=0, le=1_000_000)
    """Sustained rate of WebSocket frames that are not a whole message (pings, pongs, fragments), or of pieces of
    request bodies, from one connection, per second. 0: no limit.
    """
    pieces_burst: int = Field(5_000, ge=1, le=10_000_000)
    """Burst of such frames or pieces from one connection; above it a WebSocket is closed with 4429, and a request is
    answered with 429.
    """

    # --- rate limits of a user ---
    edits_per_second: int = Field(20, ge=0, le=1_000_000)
    """Sustained rate of edits and deletions of messages by one user over REST, per second; new messages and read
    positions each have the same limit. 0: no limit.
    """
    edits_burst: int = Field(200, ge=1, le=10_000_000)
    """Burst of edits and deletions of messages by one user over REST; new messages and read positions each have the
    same limit.
    """
    group_changes_per_second: int = Field(5, ge=0, le=1_000_000)
    """Sustained rate of requests by one user that create or rename conversations or add or remove members, per second.
    0: no limit.
    """
    group_changes_burst: int = Field(200, ge=1, le=10_000_000)
    """Burst of such requests by one user."""
    searches_per_second: int = Field(5, ge=0, le=1_000_000)
    """Sustained rate of searches for users by one user, per second; each page is a search. 0: no limit."""
    searches_burst: int = Field(100, ge=1, le=10_000_000)
    """Burst of searches for users by one user."""
    presence_per_second: int = Field(20, ge=0, le=1_000_000)
    """Sustained rate of REST requests by one user for another user's presence, per second. 0: no limit."""
    presence_burst: int = Field(200, ge=1, le=10_000_000)
    """Burst of REST requests by one user for another user's presence."""

    # --- rate limits of an address ---
    addresses_per_ipv6_56: int = Field(4, ge=1, le=256)
    """Addresses that an IPv6 network of 56 bits may use as much as: each limit of an address (of IPv6, a /64) is so
    many times larger for the /56 around it.
    """
    addresses_per_ipv6_48: int = Field(16, ge=1, le=65_536)
    """Addresses that an IPv6 network of 48 bits may use as much as; as `PULSE_ADDRESSES_PER_IPV6_56`."""
    requests_per_second: int = Field(300, ge=0, le=1_000_000)
    """Sustained rate of requests and handshakes from one address, per second. 0: no limit."""
    requests_burst: int = Field(3_000, ge=1, le=10_000_000)
    """Burst of requests and handshakes from one address; more are answered with 429."""

    # --- connections and slow clients ---
    max_connections: int = Field(10_000, ge=0, le=1_000_000)
    """Maximum open TCP connections, within the system's limit of open files; more are answered with 503. 0: no limit.
    """
    connections_per_address: int = Field(1_000, ge=0, le=1_000_000)
    """Maximum open TCP connections of one address (behind `PULSE_TRUSTED_PROXIES`: WebSockets); more are answered with
    429. 0: no limit.
    """
    connections_per_user: int = Field(100, ge=0, le=100_000)
    """Maximum open WebSocket connections of one user. 0: no limit."""
    write_timeout: float = Field(10.0, gt=0, le=300)
    """Maximum time for a client to read 64 KiB written to it (or less, if less is pending), in seconds; after it the
    connection is aborted.
    """
    outbox_bytes: int = Field(1_048_576, ge=65_536, le=1_073_741_824)
    """Maximum bytes queued for one slow connection. Above half of it typing, presence and read frames are dropped;
    above it the connection is closed with 4408.
    """
    page_bytes: int = Field(262_144, ge=16_384, le=16_777_216)
    """Maximum size of a page of messages or conversations over REST, in bytes. A page that would be larger has fewer
    entries, but at least one.
    """
    answer_bytes_per_address: int = Field(16_777_216, ge=0, le=1_099_511_627_776)
    """Maximum bytes of HTTP responses that one address has not read yet; more requests are answered with 503. 0: no
    limit.
    """
    answer_bytes: int = Field(201_326_592, ge=0, le=1_099_511_627_776)
    """Maximum bytes of HTTP responses that all addresses together have not read yet; more requests are answered with
    503. 0: no limit.
    """

    # --- rooms ---
    inbox_messages: int = Field(1_024, ge=1, le=1_000_000)
    """Maximum messages of one conversation that wait to be stored; senders then wait."""
    batch_messages: int = Field(256, ge=1, le=10_000)
    """Maximum messages, or edits and deletions, of one conversation stored in one transaction."""
    pending_messages: int = Field(64, ge=1, le=10_000)
    """Maximum messages and read positions of one connection that wait to be stored; reading from it then pauses."""
    store_timeout: float = Field(10.0, gt=0, le=300)
    """Maximum wait of a message to be stored, in seconds; then its sender gets an error."""
    presence_list_max: int = Field(100, ge=1, le=100_000)
    """Maximum active users of a conversation for which each presence frame lists all of them. With more, `presence`
    frames name only who came or left, and a read position is sent only to its own user.
    """
    room_linger: float = Field(60.0, ge=0, le=86_400)
    """Time that a conversation followed only by sessions stays in memory after its last use, in seconds."""
    resume_wait: float = Field(5.0, ge=0, le=60)
    """Maximum wait of a session for a `resume` from a client that has sent nothing, in seconds; then frames flow."""

    # --- operation ---
    workers: Workers = Field(1, ge=1, le=256)
    """Number of processes that `pulse-trio serve` runs, `auto` for one for each core; also `serve --workers`. With 1
    there is no supervisor.
    """
    worker_timeout: float = Field(10.0, ge=0, le=3_600)
    """Time after which a worker that shows no sign of life is killed and started again, in seconds. 0: never, as for a
    worker that a debugger stops. Only with `PULSE_WORKERS` above 1.
    """
    user: str | None = None
    """Account whose rights the service takes on when root starts it, after its port is bound. It must own the data
    folder, and read the installation.
    """
    standby: bool = False
    """Wait as long as another process serves the database or the data folder, instead of ending; `serve --wait`."""
    hypercorn_config: Path | None = None
    """TOML file with Hypercorn's settings (TLS, addresses, timeouts) for `pulse-trio serve`; also `--config`. What it
    does not set stays as in the packaged `hypercorn.toml`.
    """
    stop_delay: float = Field(0.0, ge=0, le=300)
    """Time that the service keeps running after a stop signal, in seconds. `/readyz` answers 503 meanwhile, so that a
    load balancer sends no new clients.
    """
    metrics: bool = True
    """Serve `/metrics` for Prometheus: at the address of `PULSE_METRICS_BIND`, or with `PULSE_METRICS_TOKEN` to clients
    that send the token; without either to nobody.
    """
    metrics_bind: Bind | None = None
    """Address and port, such as `127.0.0.1:9464`, that serves only `/metrics` and the probes, over plain HTTP, to every
    client that reaches it. The other addresses then serve no metrics.
    """
    metrics_token: MetricsToken | None = None
    """Bearer token required by `/metrics`, at least 20 characters; without `PULSE_METRICS_BIND` every address of the
    service then serves `/metrics`.
    """
    allow_any_hypercorn: bool = False
    """Start with a version of Hypercorn that this version of the service does not know, without the limits and repairs
    that it installs in Hypercorn.
    """
    log_format: Literal["auto", "console", "json"] = "auto"
    """`console` for people, `json` for machines; `auto` is console on a terminal."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log lines that are written."""

    @property
    def is_clustered(self) -> bool:
        """True if this process shares its database with other processes of the service."""
        engine = "local" if self.bus_url is None else self.bus_url.get_secret_value()
        return self.cluster or engine != "local"

    @property
    def networks(self) -> Networks:
        """The networks for which the limits of an address count as well."""
        return Networks(self.addresses_per_ipv6_56, self.addresses_per_ipv6_48)

    @field_validator("log_format", "log_level", mode="before")
    @classmethod
    def _ignore_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_combinations(self) -> "Settings":
        if self.pool_min > self.pool_max:
            raise ValueError(f"PULSE_POOL_MIN ({self.pool_min}) is above PULSE_POOL_MAX ({self.pool_max})")
        if self.database_direct_url is not None and self.database_url is None:
            raise ValueError("PULSE_DATABASE_DIRECT_URL needs DATABASE_URL")
        if self.user is not None and self.data_dir is None and self.database_url is None:
            # The default folder is another one for each account: an empty one would be served without a word.
            raise ValueError("PULSE_USER needs PULSE_DATA_DIR or DATABASE_URL: say where the data of that account is")
        if self.algorithm.startswith("HS"):
            if self.secret_key is not None:
                check_secret(self.secret_key.get_secret_value(), self.algorithm)
            elif self.database_url is not None:
                raise ValueError(
                    "SECRET_KEY is missing: with DATABASE_URL set, give one of at least 32 random bytes, "
                    "for example from: openssl rand -base64 48"
                )
        elif self.public_key is None:
            raise ValueError(f"ALGORITHM={self.algorithm} needs PULSE_PUBLIC_KEY")
        elif (
            self.private_key is None
            and not self.allow_any_audience
            and (self.token_issuer is None or self.token_audience is None)
        ):
            raise ValueError(
                f"ALGORITHM={self.algorithm} with an identity provider's PULSE_PUBLIC_KEY needs PULSE_TOKEN_ISSUER and "
                "PULSE_TOKEN_AUDIENCE: without them, tokens for its other applications would be accepted "
                "(PULSE_ALLOW_ANY_AUDIENCE=true accepts them)"
            )
        return self

    @classmethod
    def load(cls, **overrides: object) -> "Settings":
        """Reads the environment.

        Args:
            **overrides: values by field name that win over the environment; None is ignored.

        Raises:
            LaunchError: a setting is missing or wrong; names the variable, never shows a value.
        """
        try:
            return cls(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
        except ValidationError as error:
            variables = cls.variables()
            problems = "; ".join(describe(item, variables) for item in error.errors(include_input=False))
            raise LaunchError(problems) from None

    @classmethod
    def variables(cls) -> dict[str, FieldInfo]:
        """Returns the fields by environment variable, such as `PULSE_POOL_MAX` → `pool_max`, in documented order."""
        return {
            str(field.validation_alias or f"{ENV_PREFIX}{name.upper()}"): field
            for name, field in cls.model_fields.items()
        }

    @classmethod
    def unknown_variables(cls) -> dict[str, str | None]:
        """Finds `PULSE_` variables in the environment that are not settings, each with the closest known name."""
        return closest_names((name for name in os.environ if name.startswith(ENV_PREFIX)), cls.variables())
