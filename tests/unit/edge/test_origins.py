"""Origins of pages that may connect: the own host's and the listed ones, and no trick of spelling."""

import pytest

from pulse_trio.edge.origins import Origins
from pulse_trio.settings import Settings


def listing(origins: str, *, null: bool = False) -> Origins:
    return Origins(Settings(allowed_origins=origins, allow_null_origin=null))  # type: ignore[arg-type]


LISTED = listing("https://app.example, http://localhost:3000, capacitor://localhost, https://port.example:443")
HOST = "chat.example"


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, HOST),  # no browser sends no Origin
        (None, None),
        ("https://chat.example", HOST),
        ("http://chat.example", HOST),  # TLS may end at a proxy
        ("https://CHAT.example", "Chat.Example"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("https://app.example", HOST),
        ("https://APP.example", HOST),
        ("http://localhost:3000", None),
        ("https://app.example:443", HOST),  # the scheme's port, named or not (RFC 6454, section 4)
        ("https://port.example", HOST),
        ("https://chat.example", "chat.example:443"),  # as nginx' `$host:$server_port` writes it
        ("https://chat.example:443", "chat.example"),
        ("http://chat.example", "chat.example:80"),
        ("http://chat.example:80", "chat.example"),
        ("http://[::1]:80", "[::1]"),
        ("http://[::1]", "[0:0::1]:80"),
        ("https://chat.example", "chat.example."),
        ("https://chat.example.", "chat.example"),
        ("https://chat.example:8443", "chat.example:8443"),
        ("capacitor://localhost", HOST),
    ],
)
def test_the_own_origin_and_listed_ones_are_allowed(origin: str | None, host: str | None) -> None:
    assert LISTED.allows(origin, host)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "*",
        "https://evil.example",
        "https://evil-app.example",
        "https://app.example.evil",
        "https://app.example.",
        "https://sub.app.example",
        "https://xapp.example",
        "http://app.example",  # a listed origin is compared with its scheme
        "https://app.example:8443",
        "https://app.example/",
        "https://app.example@evil.example",
        "https://app.example, https://evil.example",
        "https://app.example https://evil.example",
        "https://app.examplе",  # the last letter is Cyrillic
        "http://localhost:30001",
        "http://localhost",
        "https://chat.example.evil",
        "https://evil-chat.example",
        "https://chat.example:444",
        "https://chat.example:80",
        "http://chat.example:443",
        "https://chat.example..",
        "https://chat.example:65536",
        "https://chat.example:4430",
        "https://chat.example:+443",
        "https://port.example:8443",
        "capacitor://chat.example",
        "capacitor://localhost:80",
        "tauri://localhost",
        "https://chat.example/",
        "https://chat.example/path",
        "https://chat.example?",
        "https://chat.example#",
        "https://user@chat.example",
        "https://user:password@chat.example",
        "https:chat.example",
        "https:/chat.example",
        "https:///chat.example",
        "//chat.example",
        "chat.example",
        "file://chat.example",
        "ws://chat.example",
        "javascript://chat.example",
        "chrome-extension://chat.example",
        "https://chat.example\\@evil.example",
        "https://chat.ex\tample",
        "https://chat.example\n",
        " https://chat.example",
        "https://[::1",
        "https://[chat.example]",
        "http://",
        "\x00",
        "\ud800",
    ],
)
def test_other_origins_are_rejected_however_they_are_spelled(origin: str) -> None:
    assert not LISTED.allows(origin, HOST)


def test_without_a_host_no_origin_is_the_own_one() -> None:
    assert not LISTED.allows("https://chat.example", None)
    assert not LISTED.allows("http://", "")
    assert not LISTED.allows("null", "null")


def test_only_listed_origins_are_listed() -> None:
    assert LISTED.is_listed("https://APP.example")
    assert not LISTED.is_listed("https://chat.example")
    assert not listing("").is_listed("")


def test_pages_without_an_origin_are_allowed_by_a_setting_only() -> None:
    assert listing("", null=True).allows("null", HOST)
    assert listing("", null=True).is_listed("null")
    assert not listing("", null=True).allows("NULL", HOST)
    assert not listing("").is_listed("null")
