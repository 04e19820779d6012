"""The program `pulse-trio`: the service's commands (`cli`) and those of the terminal (`terminal.commands`).

Each half is imported when one of its commands runs: a bot that sends a message does not load the server.
"""

import sys
from importlib import import_module
from typing import Any, Final, NoReturn

import click

from pulse_trio import __version__
from pulse_trio.console import hold_closed_streams

TERMINAL: Final = ("chat", "tail", "send", "list", "login", "logout", "register")


class Program(click.Group):
    """The command group of both halves; either may be installed without the packages of the other."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        hold_closed_streams()
        return super().__call__(*args, **options)

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*TERMINAL, *(_commands_of("pulse_trio.cli", "main") or {})])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in TERMINAL:
            found = _commands_of("pulse_trio.terminal.commands", "COMMANDS")
            return _stand_in(name, "'pulse-trio[client]'") if found is None else found[name]
        found = _commands_of("pulse_trio.cli", "main")
        return _stand_in(name, "pulse-trio") if found is None else found.get(name)


def _commands_of(module: str, group: str) -> dict[str, click.Command] | None:
    """Imports one half; returns its commands, or None if a package that it needs is not installed."""
    try:
        found = getattr(import_module(module), group)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "pulse_trio":
            raise
        return None
    commands: dict[str, click.Command] = found if isinstance(found, dict) else found.commands
    return commands


def _stand_in(name: str, packages: str) -> click.Command:
    """Makes the command of a half that is not installed: it says what to install."""

    def refuse() -> NoReturn:
        click.echo(f"pulse-trio: this command needs more packages: pip install {packages}", err=True)
        sys.exit(1)

    return click.Command(
        name,
        callback=refuse,
        help=f"Needs more packages: pip install {packages}.",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        add_help_option=False,
    )


@click.group(cls=Program)
@click.version_option(__version__, package_name="pulse-trio")
def main() -> None:
    """Pulse on Trio: a real-time chat backend, and a terminal client for it.

    The service reads its settings from the environment: docs/operations.md lists them. docs/terminal.md describes the
    client.
    """
