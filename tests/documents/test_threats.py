"""docs/security.md has a section for every threat, and every test that it names exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
NUMBERS = [f"S{number}" for number in range(1, 48)]
TEST = re.compile(r"- `(tests/[\w/]+\.py)(?:::(test_\w+))?`")


def sections(text: str) -> dict[str, str]:
    """Returns the body of each section `### S1: title`, by its number."""
    parts = re.split(r"^### (S\d+): \S.*$", text, flags=re.MULTILINE)
    return {
        number: re.split(r"^## ", body, flags=re.MULTILINE)[0]
        for number, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def problems(body: str) -> list[str]:
    """Returns the faults of a section: no answer, no test, or a test that does not exist."""
    answer, heading, tests = body.partition("\n\nShown by:\n\n")
    found = [] if answer.strip() else ["no answer"]
    named = tests.strip().splitlines()
    if not heading or not named:
        found.append("no test")
    for line in named:
        match = TEST.fullmatch(line)
        if match is None:
            found.append(f"not a test: {line}")
        elif not (ROOT / match[1]).is_file():
            found.append(f"no such file: {match[1]}")
        elif match[2] is None and not any(name.startswith("test_") for name in names_in(ROOT / match[1])):
            found.append(f"no test in {match[1]}")
        elif match[2] is not None and match[2] not in names_in(ROOT / match[1]):
            found.append(f"no such test: {match[2]}")
    return found


def names_in(path: Path) -> set[str]:
    """Returns the names of the functions in a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)}


SECTIONS = sections((ROOT / "docs" / "security.md").read_text())


def test_every_threat_has_its_section_in_order() -> None:
    assert list(SECTIONS) == NUMBERS


@pytest.mark.parametrize("number", SECTIONS)
def test_every_section_has_an_answer_and_tests_that_exist(number: str) -> None:
    assert not problems(SECTIONS[number])


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("\n\nAn answer.\n\nShown by:\n\n", "no test"),
        ("\n\nAn answer.\n", "no test"),
        ("\n\n\n\nShown by:\n\n- `tests/unit/test_texts.py`\n", "no answer"),
        ("\n\nAn answer.\n\nShown by:\n\n- a test\n", "not a test: - a test"),
        ("\n\nAn answer.\n\nShown by:\n\n- `tests/unit/test_none.py`\n", "no such file: tests/unit/test_none.py"),
        ("\n\nAn answer.\n\nShown by:\n\n- `tests/support/blocks.py`\n", "no test in tests/support/blocks.py"),
        ("\n\nAn answer.\n\nShown by:\n\n- `tests/unit/test_texts.py::test_none`\n", "no such test: test_none"),
    ],
)
def test_a_section_without_answer_or_test_is_refused(body: str, problem: str) -> None:
    assert problem in problems(body)
