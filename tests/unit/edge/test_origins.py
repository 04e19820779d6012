"""Origins of pages that may connect: the own host's and the listed ones, and no trick of spelling."""

import pytest

from pulse_trio.edge.origins import Origins

LISTED = Origins(("https://app.example", "http://localhost:3000"))
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
    assert not Origins(()).is_listed("")
