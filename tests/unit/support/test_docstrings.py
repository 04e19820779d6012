"""The check of docstrings, on sources that keep the rule and on some that do not."""

from pathlib import Path

import pytest

from tests.support.docstrings import main, refused


def test_relative_clauses_are_refused() -> None:
    source = '''"""What it is."""
class A:
    """Who it is."""
    async def b(self):
        """Whether it is.

        More.
        """
def c():
    """How it is."""
'''
    assert [text for _, text in refused(source)] == ["What it is.", "Who it is.", "Whether it is.", "How it is."]


def test_docstrings_of_names_are_read_too() -> None:
    source = 'A = 1\n"""What it is."""\nclass B:\n    c: int = 1\n    """Which it is."""\n    "Where no name is."\n'
    assert [text for _, text in refused(source)] == ["What it is.", "Which it is."]


def test_verbs_and_nouns_pass() -> None:
    source = '"""Whole numbers."""\ndef a():\n    """Returns what it was given."""\ndef b():\n    pass\n'
    assert list(refused(source)) == []


def test_the_program_names_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.py").write_text('x = 1\n\n\ndef a():\n    """Where it is."""\n')
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.endswith("a.py:5: begin with a verb or a noun: Where it is.\n")
