"""docs/terminal.md has every command, option and exit code, docs/python.md every event and error."""

import re
import typing
from pathlib import Path

import click
import pytest

from pulse_trio import client
from pulse_trio.terminal.commands import COMMANDS
from pulse_trio.terminal.exits import Exit

DOCS = Path(__file__).parents[2] / "docs"
TERMINAL = (DOCS / "terminal.md").read_text()
PYTHON = (DOCS / "python.md").read_text()


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
