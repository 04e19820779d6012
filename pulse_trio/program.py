"""The program `pulse-trio`: the service's commands (`cli`) and those of the terminal (`terminal.commands`).

Each half is imported when one of its commands runs: a bot that sends a message does not load the server.
"""

import sys
from importlib import import_module
from typing import Any, Final

import click

from pulse_trio import __version__

TERMINAL: Final = ("chat", "tail", "send", "list", "login", "logout", "register")
CLIENT_PACKAGES: Final = {"httpx2", "trio_websocket"}


class Program(click.Group):
    """The command group of both halves."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted([*TERMINAL, *self._service().commands])

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in TERMINAL:
            found: click.Command | None = self._service().commands.get(name)
            return found
        try:
            commands: dict[str, click.Command] = import_module("pulse_trio.terminal.commands").COMMANDS
        except ModuleNotFoundError as error:
            if error.name not in CLIENT_PACKAGES:
                raise
            click.echo("pulse-trio: this command needs more packages: pip install 'pulse-trio[client]'", err=True)
            sys.exit(1)
        return commands[name]

    @staticmethod
    def _service() -> Any:
        return import_module("pulse_trio.cli").main


@click.group(cls=Program)
@click.version_option(__version__, package_name="pulse-trio")
def main() -> None:
    """Pulse on Trio: a real-time chat backend, and a terminal client for it.

    The service reads its settings from the environment: docs/operations.md lists them. docs/terminal.md describes the
    client.
    """
