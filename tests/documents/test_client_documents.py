"""Documents of the clients name every command, option, exit code, event and error; their examples have types."""

import re
import subprocess
import sys
import typing
from pathlib import Path

import click
import pytest

from pulse_trio import client
from pulse_trio.terminal.commands import COMMANDS
from pulse_trio.terminal.exits import Exit
from tests.support.blocks import DOCUMENTS, blocks, programs

DOCS = Path(__file__).parents[2] / "docs"
TERMINAL = (DOCS / "terminal.md").read_text()
PYTHON = (DOCS / "python.md").read_text()
BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=str)
def test_every_command_and_option_is_documented(command: click.Command) -> None:
    assert f"pulse-trio {command.name}" in TERMINAL or f"`{command.name}" in TERMINAL
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            names = [name for name in (*parameter.opts, *parameter.secondary_opts) if name != "--follow"]
            assert all(f"`{name}" in TERMINAL for name in names), parameter.opts


def test_every_exit_code_is_documented() -> None:
    listed = re.findall(r"^\| (\d+) \|", TERMINAL, re.MULTILINE)
    assert [int(code) for code in listed] == list(Exit)


@pytest.mark.parametrize("kind", typing.get_args(client.Event), ids=lambda kind: kind.__name__)
def test_every_event_is_documented(kind: type) -> None:
    assert f"`{kind.__name__}`" in PYTHON


@pytest.mark.parametrize("error", client.ClientError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_error_is_documented(error: type) -> None:
    assert f"| `{error.__name__}` |" in PYTHON


def test_python_examples_type_check(tmp_path: Path) -> None:
    """`mypy --strict` finds nothing in them: each is a file of its own, without this project's settings."""
    others = [[block] for block in BLOCKS if block.how in {"in", "none"}]  # than those that are run
    examples = [example for example in [*programs(BLOCKS), *others] if example[0].language == "python"]
    assert examples
    files = [tmp_path / f"{Path(example[0].document).stem}_{example[0].line}.py" for example in examples]
    for file, example in zip(files, examples, strict=True):
        file.write_text("\n".join(block.text for block in example))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", "/dev/null", *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
