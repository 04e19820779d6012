"""Settings: their names, defaults and bounds, and that an error names the variable and shows no secret."""

import os
from pathlib import Path

import pytest

from pulse_trio.errors import LaunchError
from pulse_trio.settings import Settings, check_secret

SECRET = "K7#pq-vB2!x_Lm9Zt4&wRs8*Yd3@Nf6%"
URL = "postgresql://user:hunter2@db.example/pulse"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.validation_alias), raising=False)


def refused(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError) as caught:
        Settings.load()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_without_any_variable_the_service_is_ready_to_start() -> None:
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


def test_the_specifications_variables_have_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_every_other_variable_begins_with_pulse_and_is_described() -> None:
    specified = {"DATABASE_URL", "SECRET_KEY", "ALGORITHM", "ACCESS_TOKEN_EXPIRE_MINUTES"}
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        assert alias in specified or alias == f"PULSE_{name.upper()}"
        assert field.description


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (str(field.validation_alias), value)
        for field in Settings.model_fields.values()
        for limit in field.metadata
        for attribute, step in (("ge", -1), ("gt", 0), ("le", 1))
        if (bound := getattr(limit, attribute, None)) is not None
        for value in (str(bound + step), "nonsense", "NaN")
    ],
)
def test_a_number_out_of_bounds_is_refused_and_the_variable_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    message = refused(monkeypatch, **{name: value})
    assert name in message
    assert "nonsense" not in message


@pytest.mark.parametrize("name", ["ALGORITHM", "PULSE_LOG_FORMAT", "PULSE_LOG_LEVEL", "PULSE_PROVISION_USERS"])
def test_a_word_that_is_no_choice_is_refused_and_the_variable_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert name in refused(monkeypatch, **{name: "whatever"})


@pytest.mark.parametrize("algorithm", ["none", "None", "hs256", "ES256", "HS256,none"])
def test_only_these_algorithms_can_be_chosen(monkeypatch: pytest.MonkeyPatch, algorithm: str) -> None:
    assert "ALGORITHM" in refused(monkeypatch, ALGORITHM=algorithm)


def test_two_problems_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(monkeypatch, PULSE_POOL_MAX="0", PULSE_STORE_TIMEOUT="-1")
    assert "PULSE_POOL_MAX" in message
    assert "PULSE_STORE_TIMEOUT" in message


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("PULSE_POOL_MAX", "")
    settings = Settings.load()
    assert settings.database_url is None
    assert settings.pool_max == 10


def test_a_database_of_ones_own_needs_a_secret_key(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(monkeypatch, DATABASE_URL=URL)
    assert "SECRET_KEY is missing" in message
    assert "hunter2" not in message
    assert "SECRET_KEY is missing" in refused(monkeypatch, SECRET_KEY="")


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
def test_a_weak_secret_key_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, secret: str, with_database: bool
) -> None:
    if with_database:
        monkeypatch.setenv("DATABASE_URL", URL)
    message = refused(monkeypatch, SECRET_KEY=secret)
    assert "SECRET_KEY" in message
    if len(secret) > 6:
        assert secret not in message
    assert "hunter2" not in message


@pytest.mark.parametrize("secret", [SECRET, "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~!", "0123456789abcdef" * 2])
def test_a_long_and_varied_secret_key_is_taken(secret: str) -> None:
    check_secret(secret)


@pytest.mark.parametrize(("algorithm", "least"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_key_is_as_long_as_the_hash_of_its_algorithm(
    monkeypatch: pytest.MonkeyPatch, algorithm: str, least: int
) -> None:
    """RFC 7518, section 3.2."""
    monkeypatch.setenv("ALGORITHM", algorithm)
    long = (SECRET * 2)[:least]
    assert f"at least {least}" in refused(monkeypatch, SECRET_KEY=long[:-1])
    monkeypatch.setenv("SECRET_KEY", long)
    assert Settings.load().secret_key is not None


def test_a_secret_key_that_is_not_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", os.fsdecode(b"\xff\xfe" + SECRET.encode()))
    with pytest.raises(LaunchError, match="SECRET_KEY"):
        Settings.load()


@pytest.mark.parametrize("algorithm", ["RS256", "EdDSA"])
def test_algorithms_with_key_pairs_need_a_public_key(monkeypatch: pytest.MonkeyPatch, algorithm: str) -> None:
    assert "PULSE_PUBLIC_KEY" in refused(monkeypatch, ALGORITHM=algorithm, DATABASE_URL=URL)
    monkeypatch.setenv("PULSE_PUBLIC_KEY", "/etc/key.pem")
    assert Settings.load().algorithm == algorithm  # and no SECRET_KEY


def test_the_pool_is_not_smaller_than_its_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(monkeypatch, PULSE_POOL_MIN="5", PULSE_POOL_MAX="4")
    assert "PULSE_POOL_MIN" in message
    assert "PULSE_POOL_MAX" in message


def test_origins_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSE_ALLOWED_ORIGINS", " https://App.Example , http://localhost:3000,, ")
    assert Settings.load().allowed_origins == ("https://app.example", "http://localhost:3000")


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
def test_what_can_never_be_an_origin_is_refused_and_the_variable_named(
    monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    assert "PULSE_ALLOWED_ORIGINS" in refused(monkeypatch, PULSE_ALLOWED_ORIGINS=origin)


def test_what_the_command_line_says_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSE_DATA_DIR", "/from/the/environment")
    monkeypatch.setenv("PULSE_LOG_LEVEL", "error")
    settings = Settings.load(data_dir=Path("/from/the/command/line"), log_level=None)
    assert settings.data_dir == Path("/from/the/command/line")
    assert settings.log_level == "error"


def test_settings_do_not_change_once_read() -> None:
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
def test_a_refusal_says_what_was_expected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    assert refused(monkeypatch, **{name: value}) == expected


def test_levels_and_formats_are_taken_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULSE_LOG_LEVEL", "WARNING")
    monkeypatch.setenv("PULSE_LOG_FORMAT", "JSON")
    settings = Settings.load()
    assert (settings.log_level, settings.log_format) == ("warning", "json")


def test_what_only_looks_like_a_setting_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("PULSE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PULSE_URL", "of the terminal programs")
    monkeypatch.setenv("PULSE_POOL_MAX", "5")
    assert Settings.unknown() == {}
    monkeypatch.setenv("PULSE_MAX_CONECTIONS", "5")
    monkeypatch.setenv("PULSE_XYZZY", "5")
    assert Settings.unknown() == {"PULSE_MAX_CONECTIONS": "PULSE_MAX_CONNECTIONS", "PULSE_XYZZY": None}
