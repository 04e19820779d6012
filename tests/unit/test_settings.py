"""Settings: names, defaults and bounds; errors name the variable and show no secret."""

import os
from pathlib import Path

import pytest

from pulse_trio.errors import LaunchError
from pulse_trio.settings import Settings
from pulse_trio.settings_values import check_secret

SECRET = "K7#pq-vB2!x_Lm9Zt4&wRs8*Yd3@Nf6%"
URL = "postgresql://user:hunter2@db.example/pulse"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.variables():
        monkeypatch.delenv(name, raising=False)


def rejection(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError) as caught:
        Settings.load()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_defaults_are_enough_to_start() -> None:
    settings = Settings.load()
    assert settings.database_url is None
    assert settings.secret_key is None
    assert settings.algorithm == "HS256"
    assert settings.access_token_expire_minutes == 60
    assert settings.token_leeway == 5
    assert settings.provision_users is False
    assert settings.allowed_origins == ()
    assert settings.max_content_chars == 4_000
    assert settings.max_frame_bytes == 65_536
    assert settings.store_timeout == 10.0
    assert settings.pending_messages == 64
    assert settings.outbox_bytes == 1_048_576
    assert (settings.pool_min, settings.pool_max) == (2, 10)


def test_the_specifications_variables_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("SECRET_KEY", SECRET)
    monkeypatch.setenv("ALGORITHM", "HS256")
    monkeypatch.setenv("ACCESS_TOKEN_EXPIRE_MINUTES", "5")
    settings = Settings.load()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == URL
    assert settings.secret_key is not None
    assert settings.secret_key.get_secret_value() == SECRET
    assert settings.access_token_expire_minutes == 5
    for shown in (repr(settings), str(settings)):
        assert SECRET not in shown
        assert "hunter2" not in shown


def test_only_the_specifications_variables_have_no_prefix() -> None:
    specified = {"DATABASE_URL", "SECRET_KEY", "ALGORITHM", "ACCESS_TOKEN_EXPIRE_MINUTES"}
    assert {name for name in Settings.variables() if not name.startswith("PULSE_")} == specified


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.variables().items() if not field.description] == []


@pytest.mark.parametrize(
    ("name", "value"), [("POOL_MAX", "7"), ("DATA_DIR", "/elsewhere"), ("PULSE_SECRET_KEY", "x" * 40)]
)
def test_a_variable_of_another_program_is_ignored(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Only the documented names count: `DATA_DIR` may belong to anything else on the machine."""
    before = Settings.load()
    monkeypatch.setenv(name, value)
    assert Settings.load() == before


def test_auto_is_a_worker_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().workers == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    monkeypatch.setenv("PULSE_WORKERS", "Auto")
    assert Settings.load().workers == 3
    assert Settings.load(workers="2").workers == 2, "the option wins"


def test_a_process_shares_its_database_only_if_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Settings.load().is_clustered
    monkeypatch.setenv("PULSE_CLUSTER", "true")
    assert Settings.load().is_clustered


def test_a_direct_url_needs_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    said = rejection(monkeypatch, PULSE_DATABASE_DIRECT_URL=URL)
    assert said == "PULSE_DATABASE_DIRECT_URL needs DATABASE_URL"


def test_an_unknown_field_is_rejected() -> None:
    with pytest.raises(LaunchError, match="PULSE_POOL_MAX"):
        Settings.load(PULSE_POOL_MAX=7)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name, field in Settings.variables().items()
        for limit in field.metadata
        for attribute, step in (("ge", -1), ("gt", 0), ("le", 1))
        if (bound := getattr(limit, attribute, None)) is not None
        for value in (str(bound + step), "nonsense", "NaN")
    ],
)
def test_a_number_out_of_bounds_is_rejected_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    message = rejection(monkeypatch, **{name: value})
    assert name in message
    assert "nonsense" not in message


@pytest.mark.parametrize("name", ["ALGORITHM", "PULSE_LOG_FORMAT", "PULSE_LOG_LEVEL", "PULSE_PROVISION_USERS"])
def test_a_word_that_is_not_a_choice_is_rejected_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert name in rejection(monkeypatch, **{name: "whatever"})


@pytest.mark.parametrize("algorithm", ["none", "None", "hs256", "ES256", "HS256,none"])
def test_other_algorithms_are_rejected(monkeypatch: pytest.MonkeyPatch, algorithm: str) -> None:
    assert "ALGORITHM" in rejection(monkeypatch, ALGORITHM=algorithm)


def test_all_problems_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    message = rejection(monkeypatch, PULSE_POOL_MAX="0", PULSE_STORE_TIMEOUT="-1")
    assert "PULSE_POOL_MAX" in message
    assert "PULSE_STORE_TIMEOUT" in message


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("PULSE_POOL_MAX", "")
    settings = Settings.load()
    assert settings.database_url is None
    assert settings.pool_max == 10


def test_database_url_requires_a_secret_key(monkeypatch: pytest.MonkeyPatch) -> None:
    message = rejection(monkeypatch, DATABASE_URL=URL)
    assert "SECRET_KEY is missing" in message
    assert "hunter2" not in message
    assert "SECRET_KEY is missing" in rejection(monkeypatch, SECRET_KEY="")


@pytest.mark.parametrize(
    "secret",
    [
        "x",
        "secret",
        "changeme",
        "a" * 32,
        "ab" * 16,
        "changeme" * 8,
        "change-me-" * 4,
        "Your_Secret_Key " * 4,
        "password" * 4,
        "é" * 15,
        "only thirty-one bytes: 12345678",
    ],
)
@pytest.mark.parametrize("with_database", [True, False])
def test_a_weak_secret_key_is_rejected_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, secret: str, with_database: bool
) -> None:
    if with_database:
        monkeypatch.setenv("DATABASE_URL", URL)
    message = rejection(monkeypatch, SECRET_KEY=secret)
    assert "SECRET_KEY" in message
    if len(secret) > 6:
        assert secret not in message
    assert "hunter2" not in message


@pytest.mark.parametrize("secret", [SECRET, "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~!", "0123456789abcdef" * 2])
def test_a_long_and_varied_secret_key_is_accepted(secret: str) -> None:
    check_secret(secret)


@pytest.mark.parametrize(("algorithm", "minimum"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_key_is_at_least_as_long_as_its_hash(
    monkeypatch: pytest.MonkeyPatch, algorithm: str, minimum: int
) -> None:
    """RFC 7518, section 3.2."""
    monkeypatch.setenv("ALGORITHM", algorithm)
    long = (SECRET * 2)[:minimum]
    assert f"at least {minimum}" in rejection(monkeypatch, SECRET_KEY=long[:-1])
    monkeypatch.setenv("SECRET_KEY", long)
    assert Settings.load().secret_key is not None


def test_a_secret_key_that_is_not_text_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", os.fsdecode(b"\xff\xfe" + SECRET.encode()))
    with pytest.raises(LaunchError, match="SECRET_KEY"):
        Settings.load()


@pytest.mark.parametrize("algorithm", ["RS256", "EdDSA"])
def test_asymmetric_algorithms_require_a_public_key(monkeypatch: pytest.MonkeyPatch, algorithm: str) -> None:
    assert "PULSE_PUBLIC_KEY" in rejection(monkeypatch, ALGORITHM=algorithm, DATABASE_URL=URL)
    monkeypatch.setenv("PULSE_PUBLIC_KEY", "/etc/key.pem")
    monkeypatch.setenv("PULSE_TOKEN_ISSUER", "https://id.example")
    monkeypatch.setenv("PULSE_TOKEN_AUDIENCE", "chat")
    assert Settings.load().algorithm == algorithm  # and no SECRET_KEY


@pytest.mark.parametrize("algorithm", ["RS256", "EdDSA"])
def test_tokens_of_a_provider_require_its_issuer_and_an_audience(
    monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """Otherwise the tokens of every other application of that provider sign in here."""
    given = {"ALGORITHM": algorithm, "PULSE_PUBLIC_KEY": "/etc/key.pem"}
    assert "PULSE_TOKEN_ISSUER" in rejection(monkeypatch, **given)
    assert "PULSE_TOKEN_AUDIENCE" in rejection(monkeypatch, **given, PULSE_TOKEN_ISSUER="https://id.example")
    monkeypatch.setenv("PULSE_ALLOW_ANY_AUDIENCE", "true")
    assert Settings.load().token_audience is None
    monkeypatch.delenv("PULSE_ALLOW_ANY_AUDIENCE")
    monkeypatch.delenv("PULSE_TOKEN_ISSUER")
    monkeypatch.setenv("PULSE_PRIVATE_KEY", "/etc/private.pem")  # its own tokens
    assert Settings.load().token_audience is None


def test_the_pools_minimum_is_at_most_its_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    message = rejection(monkeypatch, PULSE_POOL_MIN="5", PULSE_POOL_MAX="4")
    assert "PULSE_POOL_MIN" in message
    assert "PULSE_POOL_MAX" in message


def test_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSE_ALLOWED_ORIGINS", " https://App.Example , http://localhost:3000,, ")
    assert Settings.load().allowed_origins == ("https://app.example", "http://localhost:3000")


def test_origins_of_apps_and_extensions_are_taken_and_a_default_port_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(
        "PULSE_ALLOWED_ORIGINS",
        "capacitor://localhost, chrome-extension://mnopqrst, tauri://localhost, https://app.example:443",
    )
    assert Settings.load().allowed_origins == (
        "capacitor://localhost",
        "chrome-extension://mnopqrst",
        "tauri://localhost",
        "https://app.example",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PULSE_ALLOWED_HOSTS", "https://chat.example"),
        ("PULSE_ALLOWED_HOSTS", "*.example"),
        ("PULSE_ALLOWED_HOSTS", "chat.example:99999"),
        ("PULSE_PROXY_NETWORKS", "10.0.0.0/33"),
        ("PULSE_PROXY_NETWORKS", "10.0.0.1/8"),
        ("PULSE_PROXY_NETWORKS", "proxy.example"),
        ("PULSE_METRICS_BIND", "9464"),
        ("PULSE_METRICS_BIND", "127.0.0.1"),
        ("PULSE_METRICS_BIND", "unix:/run/metrics"),
    ],
)
def test_a_malformed_address_is_rejected_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    assert name in rejection(monkeypatch, **{name: value})


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "app.example",
        "https://",
        "https://*.example",
        "https://app.example/",
        "https://app.example/path",
        "https://app.example?query",
        "https://app.example#fragment",
        "https://user@app.example",
        "https://app example",
        "ws://app.example",
        "file:///app",
        "https://good.example,*",
    ],
)
def test_an_impossible_origin_is_rejected_by_name(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    assert "PULSE_ALLOWED_ORIGINS" in rejection(monkeypatch, PULSE_ALLOWED_ORIGINS=origin)


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSE_DATA_DIR", "/from/the/environment")
    monkeypatch.setenv("PULSE_LOG_LEVEL", "error")
    settings = Settings.load(data_dir=Path("/from/the/command/line"), log_level=None)
    assert settings.data_dir == Path("/from/the/command/line")
    assert settings.log_level == "error"


def test_settings_are_immutable() -> None:
    with pytest.raises(Exception, match="frozen"):
        Settings.load().pool_max = 3


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PULSE_POOL_MAX", "many", "PULSE_POOL_MAX must be a whole number, at least 1 and at most 1,000"),
        ("PULSE_STORE_TIMEOUT", "NaN", "PULSE_STORE_TIMEOUT must be a number, above 0 and at most 300"),
        ("PULSE_WEB_CLIENT", "maybe", "PULSE_WEB_CLIENT must be true or false"),
        ("PULSE_LOG_FORMAT", "xml", "PULSE_LOG_FORMAT: it must be 'auto', 'console' or 'json'"),
        ("PULSE_POOL_MIN", "20", "PULSE_POOL_MIN (20) is above PULSE_POOL_MAX (10)"),
    ],
)
def test_an_error_says_what_was_expected(monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str) -> None:
    assert rejection(monkeypatch, **{name: value}) == expected


def test_log_levels_and_formats_ignore_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSE_LOG_LEVEL", "WARNING")
    monkeypatch.setenv("PULSE_LOG_FORMAT", "JSON")
    settings = Settings.load()
    assert (settings.log_level, settings.log_format) == ("warning", "json")


def test_unknown_variables_come_with_the_closest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("PULSE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PULSE_URL", "a variable of the terminal client")
    monkeypatch.setenv("PULSE_POOL_MAX", "5")
    assert Settings.unknown_variables() == {}
    monkeypatch.setenv("PULSE_MAX_CONECTIONS", "5")
    monkeypatch.setenv("PULSE_XYZZY", "5")
    assert Settings.unknown_variables() == {"PULSE_MAX_CONECTIONS": "PULSE_MAX_CONNECTIONS", "PULSE_XYZZY": None}
