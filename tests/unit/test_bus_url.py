"""`PULSE_BUS_URL`: its forms, and errors that show none of it."""

import pytest

from pulse_trio.bus_url import Credentials, RedisUrl, parse_bus_url
from pulse_trio.errors import LaunchError
from pulse_trio.settings import Settings

SECRET = "hunter2"


def parse(text: str) -> RedisUrl:
    url = parse_bus_url(text)
    assert isinstance(url, RedisUrl)
    return url


def test_engines_without_an_address_are_words() -> None:
    assert parse_bus_url("local") == "local"
    assert parse_bus_url("postgres") == "postgres"


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("redis://cache.example", (("cache.example", 6379),)),
        ("redis://cache.example:7000", (("cache.example", 7000),)),
        ("redis://[2001:db8::1]:7000", (("2001:db8::1", 7000),)),
        ("redis://192.0.2.7/3", (("192.0.2.7", 6379),)),
        ("redis+cluster://a,b:7001", (("a", 6379), ("b", 7001))),
        ("redis+sentinel://a,b:7001/chat", (("a", 26379), ("b", 7001))),
    ],
)
def test_servers_have_default_ports(text: str, servers: tuple[tuple[str, int], ...]) -> None:
    assert parse(text).servers == servers


@pytest.mark.parametrize(
    ("text", "kind", "is_tls"),
    [
        ("redis://a", "plain", False),
        ("rediss://a", "plain", True),
        ("redis+cluster://a", "cluster", False),
        ("rediss+cluster://a", "cluster", True),
        ("redis+sentinel://a/chat", "sentinel", False),
        ("rediss+sentinel://a/chat", "sentinel", True),
    ],
)
def test_schemes_choose_the_kind_and_tls(text: str, kind: str, is_tls: bool) -> None:
    url = parse(text)
    assert (url.kind, url.is_tls) == (kind, is_tls)
    assert url.primary == ("chat" if kind == "sentinel" else "")


def test_users_and_passwords_may_be_encoded() -> None:
    assert parse("redis://:a%2Fb%40c%3A@h").credentials == Credentials("", "a/b@c:")
    assert parse("redis://us%C3%A9r:p@h").credentials == Credentials("usér", "p")
    assert parse("redis://h").credentials == Credentials()


def test_options_of_sentinels_tls_and_the_channel() -> None:
    url = parse(
        "rediss+sentinel://u:p@h/chat?sentinel_user=s&sentinel_password=q%26&channel=chat.{1}&ssl_ca_certs=/ca.pem"
        "&ssl_certfile=/cert.pem&ssl_keyfile=/key.pem"
    )
    assert url.sentinel_credentials == Credentials("s", "q&")
    assert (url.channel, url.ca_file, url.certificate_file, url.key_file) == (
        *("chat.{1}", "/ca.pem"),
        *("/cert.pem", "/key.pem"),
    )


WRONG = [
    "",
    "none",
    "Local",
    "http://user:hunter2@host",
    "redis:/host",
    "redis://",
    "redis://user:hunter2@",
    "redis://user:hunter2@a b",
    "redis://user:hunter2@h:70000",
    "redis://user:hunter2/@h",  # its slash is not encoded
    "redis://user:hunter2@x@h",
    "redis://hunter2@h",
    "redis://user:hunter2@a,b",
    "redis://user:hunter2@a/name",
    "redis://user:hunter2@a#x",
    "redis+sentinel://user:hunter2@a",
    "redis+sentinel://a/x?sentinel_user=hunter2",
    "redis://a?sentinel_password=hunter2",
    "redis://a?password=hunter2",
    "redis://a?channel=x&channel=hunter2",
    "redis://a?channel=hunter2%20",
    "redis://a?ssl_certfile=/hunter2.pem",
    "rediss://a?ssl_keyfile=/hunter2.pem",
    "redis+unix://user:hunter2@a",
]


@pytest.mark.parametrize("text", WRONG)
def test_other_texts_are_rejected_without_showing_them(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"it|its|each") as caught:
        parse_bus_url(text)
    assert SECRET not in str(caught.value)
    if text:  # an empty variable counts as unset
        monkeypatch.setenv("PULSE_BUS_URL", text)
        with pytest.raises(LaunchError, match=r"^PULSE_BUS_URL: ") as refused:
            Settings.load()
        assert SECRET not in str(refused.value)


def test_neither_the_settings_nor_a_parsed_url_show_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"redis+sentinel://user:{SECRET}@h/chat?sentinel_password={SECRET}"
    monkeypatch.setenv("PULSE_BUS_URL", text)
    settings = Settings.load()
    assert settings.bus_url is not None
    assert settings.bus_url.get_secret_value() == text
    assert SECRET not in repr(settings) + str(settings) + repr(parse_bus_url(text))
