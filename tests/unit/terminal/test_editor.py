"""The line that is being written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulse_trio.terminal.editor import MAX_LINE_CHARS, LineEditor, Outcome
from pulse_trio.terminal.keys import Key, Pasted, Press, Typed
from pulse_trio.terminal.text import visible, width


def editor_with(*presses: Press | str) -> LineEditor:
    editor = LineEditor()
    for press in presses:
        editor.press(Typed(press) if isinstance(press, str) else press)
    return editor


def shown(editor: LineEditor, columns: int = 40) -> str:
    """The line with `|` where the cursor stands."""
    view = editor.view(columns)
    before = ""
    for character in view.text:
        if width(before + character) > view.cursor and width(before) == view.cursor:
            break
        before += character
    return f"{before}|{view.text[len(before) :]}"


@pytest.mark.parametrize(
    ("presses", "line"),
    [
        (["hello"], "hello|"),
        (["hello", Key.LEFT, Key.LEFT], "hel|lo"),
        (["hello", Key.HOME, Key.RIGHT], "h|ello"),
        (["hello", Key.HOME, Key.LEFT, Key.END, Key.RIGHT], "hello|"),
        (["hello", Key.LEFT, "X"], "hellX|o"),
        (["hello", Key.LEFT, Key.BACKSPACE], "hel|o"),
        (["hello", Key.HOME, Key.DELETE], "|ello"),
        (["hello", Key.HOME, Key.BACKSPACE], "|hello"),
        (["hello", Key.HOME, Key.END_OF_INPUT], "|ello"),
        (["one two  three", Key.WORD_LEFT], "one two  |three"),
        (["one two  three", Key.WORD_LEFT, Key.WORD_LEFT], "one |two  three"),
        (["one two", Key.HOME, Key.WORD_RIGHT], "one| two"),
        (["one two ", Key.KILL_WORD], "one |"),
        (["one two", Key.LEFT, Key.KILL_TO_START], "|o"),
        (["one two", Key.HOME, Key.KILL_TO_END], "|"),
        (["one", Key.INTERRUPT, "two"], "two|"),
        (["日本", Key.LEFT, "x"], "日x|本"),
        (["日本", Key.BACKSPACE], "日|"),
        (["e", "\u0301", "x", Key.LEFT, Key.BACKSPACE], "|x"),
        (["👍", "🏽", Key.BACKSPACE], "|"),
        (["a", Key.NEW_LINE, "b"], "a↵b|"),
        ([Pasted("two\nlines")], "two↵lines|"),
    ],
)
def test_editing(presses: list[Press | str], line: str) -> None:
    assert shown(editor_with(*presses)) == line


def test_history() -> None:
    editor = LineEditor()
    for line in ("one", "two"):
        editor.press(Typed(line))
        assert editor.press(Key.ENTER) is Outcome.SUBMIT
        assert editor.take() == line
    editor.press(Typed("draft"))
    seen = []
    for key in (Key.UP, Key.UP, Key.UP, Key.DOWN, Key.DOWN, Key.DOWN):
        editor.press(key)
        seen.append(editor.text)
    assert seen == ["two", "one", "one", "two", "draft", "draft"]


def test_what_leaves() -> None:
    editor = LineEditor()
    assert editor.press(Key.ENTER) is Outcome.NONE
    assert editor.press(Key.END_OF_INPUT) is Outcome.LEAVE
    assert editor.press(Key.INTERRUPT) is Outcome.LEAVE
    editor.press(Typed("  "))
    assert editor.press(Key.ENTER) is Outcome.NONE
    assert editor.press(Key.INTERRUPT) is Outcome.NONE
    assert editor.text == ""


def test_a_line_is_bounded() -> None:
    editor = editor_with("x" * MAX_LINE_CHARS)
    assert editor.press(Typed("y")) is Outcome.FULL
    assert len(editor.text) == MAX_LINE_CHARS


def test_a_line_that_could_not_be_sent_comes_back_unless_another_was_begun() -> None:
    editor = editor_with("hello")
    editor.put_back(editor.take())
    assert editor.text == "hello"
    editor.put_back("other")
    assert editor.text == "hello"


@given(
    st.lists(st.sampled_from([*Key]) | st.text("a日é 👍🏽\u0301\n\x1b", min_size=1).map(Typed), max_size=60),
    st.integers(4, 30),
)
def test_the_view_always_fits_and_the_cursor_is_in_it(presses: list[Press], columns: int) -> None:
    editor = LineEditor()
    for press in presses:
        if editor.press(press) is Outcome.SUBMIT:
            editor.take()
        view = editor.view(columns)
        assert width(view.text) < columns
        assert 0 <= view.cursor < columns
        assert "\x1b" not in view.text
        if sum(width(visible(piece)) for piece in editor._pieces) < columns:
            assert view.text == visible(editor.text)
