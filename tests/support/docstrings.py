"""Refuses docstrings that begin with a relative clause: `python -m tests.support.docstrings pulse_trio tests`.

CONTRIBUTING.md has the rule: a docstring begins with a verb or a noun. "What the room knows" makes the reader look for
the noun that it stands for.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

REFUSED: Final = re.compile(r"(What|Whatever|Who|Whoever|Whom|Whose|Whether|Where|Wherever|How|Which|Why)\b")


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yields the line and the text of each docstring, also of those below a name that is assigned (PEP 258)."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, documented) and node.body:
            text = ast.get_docstring(node)
            if text is not None:
                yield node.body[0].lineno, text
            for statement, after in pairwise(node.body):
                if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
                    value = after.value
                    if isinstance(value, ast.Constant) and isinstance(value.value, str):
                        yield after.lineno, inspect.cleandoc(value.value)


def refused(source: str) -> Iterator[tuple[int, str]]:
    """Yields the line and the first words of each docstring in `source` that is refused."""
    for line, text in sorted(docstrings(ast.parse(source))):
        if REFUSED.match(text):
            yield line, text.splitlines()[0]


def main(folders: list[str]) -> int:
    """Prints each refused docstring; returns how many there are."""
    count = 0
    for path in sorted(path for folder in folders for path in Path(folder).rglob("*.py")):
        for line, text in refused(path.read_text()):
            count += 1
            print(f"{path}:{line}: begin with a verb or a noun: {text}")
    return count


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
