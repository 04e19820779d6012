"""Text of others on a terminal: nothing in it is obeyed, and its width is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulse_trio.terminal.text import clusters, cut, safe, visible, width, wrap

ATTACKS = {
    "\x1b]0;owned\x07": "␛]0;owned␇",
    "\x1b[2J\x1b[H": "␛[2J␛[H",
    "\x9b31m": "<U+009B>31m",
    "a\rb\x08\x7f": "a␍b␈␡",
    "\x00": "␀",
    "one\ntwo": "one↵two",
    "a\u202eexe.txt": "a<U+202E>exe.txt",
    "a\u2069b": "a<U+2069>b",
    "a\u2028b": "a<U+2028>b",
    "\ud800": "<U+D800>",
}


@pytest.mark.parametrize(("text", "shown"), ATTACKS.items(), ids=ascii)
def test_what_a_terminal_would_obey_is_shown(text: str, shown: str) -> None:
    assert safe(text) == shown


@given(st.text(st.characters()))
def test_no_text_has_anything_that_a_terminal_obeys(text: str) -> None:
    for shown in (safe(text), visible(text)):
        assert not any(character < " " or "\x7f" <= character <= "\x9f" for character in shown)
        shown.encode()
    assert "\n" not in safe(text)


def test_text_from_right_to_left_is_isolated_line_by_line() -> None:
    assert safe("שלום") == "\u2068שלום\u2069"
    assert safe("שלום\nhello", lines=True) == "\u2068שלום\u2069\n\u2068hello\u2069"
    assert safe("hello\nworld", lines=True) == "hello\nworld"


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("hello", 5),
        ("日本語", 6),
        ("e\u0301", 1),
        ("👍🏽", 2),
        ("👨\u200d👩\u200d👧", 2),
        ("🇩🇪🇫🇷", 4),
        ("❤\ufe0f", 2),
        ("\u200b", 0),
        ("ｆｕｌｌ", 8),
    ],
    ids=ascii,
)
def test_width(text: str, columns: int) -> None:
    assert width(text) == columns


def test_clusters_are_what_a_person_takes_for_characters() -> None:
    text = "ae\u0301👍🏽🇩🇪🇫🇷"
    assert list(clusters(text)) == ["a", "e\u0301", "👍🏽", "🇩🇪", "🇫🇷"]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])), st.integers(4, 20))
def test_wrapped_lines_fit_and_lose_nothing_but_spaces(text: str, columns: int) -> None:
    lines = wrap(text, columns)
    assert all(width(line) <= columns for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_wrap_breaks_at_spaces() -> None:
    assert wrap("the quick brown fox", 10) == ["the quick", "brown fox"]
    assert wrap("unbreakable", 5) == ["unbre", "akabl", "e"]
    assert wrap("one\n\ntwo", 10) == ["one", "", "two"]


def test_cut() -> None:
    assert cut("hello", 5) == "hello"
    assert cut("hello!", 5) == "hell…"
    assert width(cut("日本語日本語", 6)) <= 6
