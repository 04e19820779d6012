"""Texts and usernames: stored and read back byte for byte, and no two usernames that look alike by tricks."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulse_trio.texts import (
    MAX_USERNAME_CHARS,
    text_problem,
    username_from,
    username_key,
    username_problem,
)


@given(st.text())
def test_a_text_without_a_problem_is_utf8_without_nul(text: str) -> None:
    storable = "\x00" not in text and not any(0xD800 <= ord(c) <= 0xDFFF for c in text)
    assert (text_problem(text) is None) == storable
    if storable:
        assert text.encode().decode() == text


def test_nul_and_lone_surrogates_are_problems_that_are_named() -> None:
    assert text_problem("a\x00b") == "must not contain the NUL character"
    assert text_problem("a\ud800b") == "must not contain a lone surrogate"
    assert text_problem("\N{FAMILY}\N{VARIATION SELECTOR-16} any \t\n other text") is None


@pytest.mark.parametrize(
    "username",
    [
        "a",
        "alice",
        "Alice.B_c-d",
        "user42",
        "7of9",
        "jörg",
        "Łukasz",
        "Ольга",
        "Νίκος",
        "さくら",
        "らーめん",
        "山田太郎",
        "佐々木",
        "サトウ花子",
        "김철수",
        "金민준",
        "नीतू",
        "ఈశ్వర్",
        "محمد",
        "ไพลิน",
        "x" * MAX_USERNAME_CHARS,
    ],
)
def test_names_of_one_script_are_good(username: str) -> None:
    assert username_problem(username) is None


@pytest.mark.parametrize(
    ("username", "problem"),
    [
        ("", "must have 1 to 32 characters"),
        ("x" * 33, "must have 1 to 32 characters"),
        ("a\x00b", "NUL"),
        ("a\ud800", "surrogate"),
        ("ｆｕｌｌｗｉｄｔｈ", "NFKC"),
        ("ﬁona", "NFKC"),
        ("e\u0301va", "NFKC"),  # decomposed; é is its normal form
        ("Ⅷ", "NFKC"),
        ("\u00aa", "NFKC"),
        ("\u0130\u0327zmir", "must not have a mark"),  # folded, the marks would change places
        ("a\u0130\u0301", "must not have a mark"),
        (".alice", "begin and end"),
        ("alice-", "begin and end"),
        ("_", "begin and end"),
        ("\u0301a", "begin and end"),
        ("a b", "letters, digits"),
        (" alice", "letters, digits"),
        ("a@b", "letters, digits"),
        ("a/b", "letters, digits"),
        ("<b>", "letters, digits"),
        ("a\N{RIGHT-TO-LEFT OVERRIDE}b", "letters, digits"),
        ("a\N{ZERO WIDTH SPACE}b", "letters, digits"),
        ("a\N{ZERO WIDTH JOINER}b", "letters, digits"),
        ("a\N{SOFT HYPHEN}b", "letters, digits"),
        ("a\nb", "letters, digits"),
        ("\N{WAVING HAND SIGN}", "letters, digits"),
        ("a\u0663", "digits 0 to 9"),  # an Arabic three
        ("\N{CYRILLIC SMALL LETTER A}dmin", "different scripts"),
        ("p\N{CYRILLIC SMALL LETTER A}ypal", "different scripts"),
        ("\N{GREEK SMALL LETTER OMICRON}scar", "different scripts"),
        ("さくらsan", "different scripts"),
        ("김サ", "different scripts"),
    ],
)
def test_names_that_deceive_or_break_are_refused(username: str, problem: str) -> None:
    assert problem in (username_problem(username) or "")


@pytest.mark.parametrize(
    "invisible",
    [
        "\N{COMBINING GRAPHEME JOINER}",
        "\N{VARIATION SELECTOR-1}",
        "\N{VARIATION SELECTOR-16}",
        "\N{VARIATION SELECTOR-17}",
        "\N{MONGOLIAN FREE VARIATION SELECTOR ONE}",
        "\N{KHMER VOWEL INHERENT AQ}",
        "\N{HANGUL CHOSEONG FILLER}",
        "\N{HANGUL JUNGSEONG FILLER}",
    ],
)
def test_letters_and_marks_that_nobody_can_see_are_refused(invisible: str) -> None:
    for username in (f"ali{invisible}ce", f"김{invisible}수", f"alice{invisible}", invisible):
        assert username_problem(username) is not None
        assert invisible not in username_from(username)


def test_a_second_dot_on_an_i_cannot_be_seen_and_is_refused() -> None:
    assert username_problem("ali\N{COMBINING DOT ABOVE}ce") is not None


def test_names_that_differ_in_case_or_form_have_one_key() -> None:
    assert len({username_key(name) for name in ("Alice", "alice", "ALICE", "ａｌｉｃｅ")}) == 1
    assert username_key("Straße") == username_key("STRASSE")
    assert username_key("e\u0301va") == username_key("Éva")
    assert username_key("ΣΊΣΥΦΟΣ") == username_key("σίσυφος")
    assert username_key("alice") != username_key("alicia")


@given(st.text("abhijqsİIßẞǰẖḤ\u0301\u0307\u0323\u0327\u0331ΐΥΣςабガ가", min_size=1, max_size=6))
def test_a_name_is_found_by_each_of_its_beginnings(name: str) -> None:
    """Users are searched for by the beginning of the key; a letter and its marks are one character for people."""
    if username_problem(name) is None:
        for end in range(1, len(name) + 1):
            if not unicodedata.combining(name[end : end + 1] or "a"):
                assert username_key(name).startswith(username_key(name[:end]))


@given(st.text(max_size=40))
def test_the_key_is_stable(name: str) -> None:
    key = username_key(name)
    assert username_key(key) == key
    assert username_key(unicodedata.normalize("NFKC", name)) == key


@pytest.mark.parametrize(
    ("claim", "username"),
    [
        ("Alice", "Alice"),
        ("Alice Smith", "Alice_Smith"),
        ("alice@example.com", "alice_example.com"),
        ("  -- bob --  ", "bob"),
        ("ｂｏｂ", "bob"),
        ("山田 太郎", "山田_太郎"),
        ("x" * 100, "x" * 32),
        ("x" * 31 + ".y", "x" * 31),
        ("\N{CYRILLIC SMALL LETTER A}dmin", ""),
        ("\N{WAVING HAND SIGN}", ""),
        ("", ""),
        ("a\x00b", "a_b"),
        ("a\ud800b", "a_b"),
    ],
)
def test_a_claim_becomes_the_nearest_good_username(claim: str, username: str) -> None:
    assert username_from(claim) == username


@given(st.text())
def test_username_from_gives_a_good_username_or_nothing(claim: str) -> None:
    username = username_from(claim)
    assert username == "" or username_problem(username) is None


@given(st.text(max_size=40))
def test_every_name_is_judged(name: str) -> None:
    problem = username_problem(name)
    if problem is None:
        assert unicodedata.normalize("NFKC", name) == name
        assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zs"} for c in name)
