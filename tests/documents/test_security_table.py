"""docs/security.md has every row, and every test that it names exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ROWS = {
    found[1]: found[0]
    for found in re.finditer(r"^\| (S\d+) \|.*\|$", (ROOT / "docs" / "security.md").read_text(), re.MULTILINE)
}


def names_in(path: Path) -> set[str]:
    """The names of the tests in a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)}


def test_every_row_is_there_in_order() -> None:
    assert list(ROWS) == [f"S{number}" for number in range(1, 38)]


@pytest.mark.parametrize("row", ROWS)
def test_every_test_that_a_row_names_exists(row: str) -> None:
    cells = [cell.strip() for cell in ROWS[row].strip("|").split("|")]
    assert len(cells) == 4
    named = cells[3].split(", ")
    for entry in named:
        found = re.fullmatch(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", entry)
        assert found is not None, entry
        path = ROOT / found[1]
        assert path.is_file(), entry
        names = names_in(path)
        assert any(name.startswith("test_") for name in names), entry
        if found[2] is not None:
            assert found[2] in names, entry
