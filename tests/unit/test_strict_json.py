"""JSON from clients: what other parsers read in different ways is refused."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulse_trio import strict_json
from pulse_trio.strict_json import InvalidJSON

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_what_json_can_say_is_read_as_it_was_written(value: object) -> None:
    assert strict_json.loads(json.dumps(value)) == value
    assert strict_json.loads(json.dumps(value, ensure_ascii=True).encode()) == value


@given(st.text() | st.binary())
def test_no_input_raises_anything_but_invalid_json(data: str | bytes) -> None:
    with contextlib.suppress(InvalidJSON):
        strict_json.loads(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        '{"a": 1,}',
        "[1,]",
        "{'a': 1}",
        '{"a": 1} x',
        "1 2",
        "01",
        "+1",
        ".5",
        "1.",
        "0x10",
        "// c\n1",
        '"a\nb"',  # a raw control character
        '"\\x41"',
        "True",
        "\ufeff{}",
    ],
)
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidJSON):
        strict_json.loads(text)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", '{"a": [NaN]}'])
def test_names_that_python_takes_for_numbers_are_refused(text: str) -> None:
    with pytest.raises(InvalidJSON, match="is not a JSON number"):
        strict_json.loads(text)


@pytest.mark.parametrize("text", ["1e400", "-1e400", "[1.5E+999]"])
def test_a_number_too_large_for_a_float_does_not_become_infinity(text: str) -> None:
    with pytest.raises(InvalidJSON, match="too large"):
        strict_json.loads(text)


@pytest.mark.parametrize("digits", ["1" * 5_000, "-" + "1" * 5_000, "0." + "1" * 5_000, "1e" + "1" * 5_000])
def test_numbers_of_thousands_of_digits_are_refused_unconverted(digits: str) -> None:
    with pytest.raises(InvalidJSON, match="too many digits"):
        strict_json.loads(f'{{"seq": {digits}}}')


def test_ordinary_numbers_are_taken() -> None:
    assert strict_json.loads("[0, -0, 9223372036854775807, 1.5, -2e3]") == [0, 0, 2**63 - 1, 1.5, -2000.0]


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"x": {"a": 1, "\\u0061": 1}}]'])
def test_an_object_may_not_repeat_a_name(text: str) -> None:
    with pytest.raises(InvalidJSON, match="repeats a name"):
        strict_json.loads(text)


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_endless_nesting_is_refused_and_does_not_harm_the_next_text(opening: str) -> None:
    with pytest.raises(InvalidJSON, match="nested too deeply"):
        strict_json.loads(opening * 100_000)
    assert strict_json.loads("[]") == []


def test_bytes_must_be_utf8_without_a_byte_order_mark() -> None:
    assert strict_json.loads('"ü"'.encode()) == "ü"
    with pytest.raises(InvalidJSON, match="not UTF-8"):
        strict_json.loads(b'"\xff"')
    with pytest.raises(InvalidJSON):
        strict_json.loads(b'\xef\xbb\xbf"a"')
    with pytest.raises(InvalidJSON):
        strict_json.loads('"a"'.encode("utf-16"))
    with pytest.raises(InvalidJSON, match="not UTF-8"):
        strict_json.loads(b'"\xed\xa0\x80"')  # a surrogate, encoded by itself


def test_the_reason_does_not_quote_the_text() -> None:
    with pytest.raises(InvalidJSON) as caught:
        strict_json.loads('{"password": "hunter2')
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("text", ["30", "30.0", "3e1", "3.0E+1", "300e-1"])
def test_a_whole_number_is_an_integer_however_it_is_written(text: str) -> None:
    """JSON Schema and JavaScript tell none of these from another."""
    for found in (strict_json.as_integer(strict_json.loads(text)), strict_json.parse_integer(text)):
        assert found == 30
        assert type(found) is int


@pytest.mark.parametrize(
    "text",
    [*("", "-", "3.5", "1e-1", " 3", "3 ", "3\n", "+3", "03", "-03", "3.", "0x3", "1_0", "٣", "true", '"3"'), "9" * 33],
)
def test_other_texts_are_no_integer(text: str) -> None:
    assert strict_json.parse_integer(text) is None


@pytest.mark.parametrize("value", [3.5, 1e30, True, "3", None, float("nan")])
def test_other_values_are_left_as_they_are(value: object) -> None:
    assert strict_json.as_integer(value) is value
