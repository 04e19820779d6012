"""Every test that the documents name exists."""

import re
from pathlib import Path

import pytest

from tests.documents.test_threats import names_in

ROOT = Path(__file__).parent.parent.parent
NAMED = re.compile(r"`((?:tests/[\w/.]+)|(?:test_\w+))(?:::(test_\w+))?`")
FAULTS = ROOT / "tests" / "faults"
DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md")), ROOT / "tests" / "README.md"]


def found_path(name: str) -> Path | None:
    """Returns the file or folder that a document means; `test_kills` alone is one of tests/faults."""
    path = ROOT / name if "/" in name else FAULTS / name
    return next((one for one in (path, path.with_name(f"{path.name}.py")) if one.exists()), None)


def problems(text: str) -> list[str]:
    """Returns the tests named in a text that do not exist."""
    found = []
    for name, function in NAMED.findall(text):
        path = found_path(name)
        if path is None or (function and (path.suffix != ".py" or function not in names_in(path))):
            found.append(f"{name}::{function}" if function else name)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_named_test_exists(path: Path) -> None:
    if path.name == "CHANGELOG.md":  # which tells of the past
        return
    assert problems(path.read_text()) == []


def test_the_faults_of_0_1_0_have_a_test_each() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    section = text.partition("## Faults of version 0.1.0\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 40
    assert [row for row in rows if not NAMED.search(row.split("|")[2])] == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("`tests/e2e/test_none.py`", "tests/e2e/test_none.py"),
        ("`test_none`", "test_none"),
        ("`tests/e2e/test_http.py::test_none`", "tests/e2e/test_http.py::test_none"),
        ("`tests/unit/tools::test_none`", "tests/unit/tools::test_none"),
    ],
)
def test_a_test_that_does_not_exist_is_named(text: str, problem: str) -> None:
    assert problems(text) == [problem]
    assert problems("`test_kills`, `tests/faults/test_kills`, `tests/unit/tools`, `tests/README.md`") == []
