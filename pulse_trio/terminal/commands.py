"""The commands of the terminal program; docs/terminal.md documents them."""

import math
import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from pulse_trio.client import ClientError, open_client
from pulse_trio.client.account import token_problem
from pulse_trio.protocol.fields import MAX_CLIENT_ID_CHARS
from pulse_trio.terminal import tokens
from pulse_trio.terminal.access import Access, checked_server
from pulse_trio.terminal.chat import chat as run_chat
from pulse_trio.terminal.exits import Exit, Stop, run, warn
from pulse_trio.terminal.listing import listing
from pulse_trio.terminal.send import send as run_send
from pulse_trio.terminal.streams import Output
from pulse_trio.terminal.tail import Range
from pulse_trio.terminal.tail import tail as run_tail
from pulse_trio.texts import text_problem

DEFAULT_SERVER = "http://127.0.0.1:8000"
_ACCESS_HELP: Final = (
    "Token to use instead of the one that login stored. In PULSE_TOKEN or a file it is not visible in process lists."
)


def _storable(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    """Rejects text that no frame can carry: an argument may be any bytes except NUL."""
    problem = None if text is None else text_problem(text)
    if problem is not None:
        raise click.BadParameter(problem)
    return text


def _token_of(_context: click.Context, _parameter: click.Parameter, text: str | None) -> str | None:
    problem = token_problem(text) if text else None  # an empty token counts as none
    if problem is not None:
        raise click.BadParameter(f"the token {problem}")
    return text


def _client_id(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    if text is not None and not 1 <= len(text) <= MAX_CLIENT_ID_CHARS:
        raise click.BadParameter(f"1 to {MAX_CLIENT_ID_CHARS} characters")
    return _storable(context, parameter, text)


def _seconds(_context: click.Context, _parameter: click.Parameter, seconds: float) -> float:
    if math.isnan(seconds):  # it lies in every range: no comparison with it is true
        raise click.BadParameter("nan is no number of seconds")
    return seconds


_server = click.option(
    "--server", envvar="PULSE_URL", default=DEFAULT_SERVER, show_default=True, help="URL of the service (PULSE_URL)."
)


def _token(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that give a token; the command gets it as `token`."""

    @click.option("--token", envvar="PULSE_TOKEN", callback=_token_of, help=_ACCESS_HELP)
    @click.option(
        "--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File with such a token."
    )
    @wraps(command)
    def with_token(*args: Any, token: str | None, token_file: Path | None, **options: Any) -> None:
        source = click.get_current_context().get_parameter_source("token")
        if source is ParameterSource.COMMANDLINE:
            if token_file is not None:
                raise click.UsageError("give --token or --token-file, not both")
            warn("others on this machine can read the token in the list of processes: use --token-file or PULSE_TOKEN")
        command(*args, token=token if token_file is None else _token_in(token_file), **options)

    return with_token


def _token_in(file: Path) -> str:
    try:
        token = file.read_bytes().decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise click.UsageError(f"{file} cannot be read: {reason}") from None
    problem = token_problem(token) if token else "is empty"
    if problem is not None:
        raise click.UsageError(f"the token in {file} {problem}")
    return token


_password_stdin = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")


@click.command()
@click.argument("conversation", required=False)
@_server
@_token
def chat(conversation: str | None, server: str, token: str | None) -> None:
    """Chat in a conversation: its name, its id, or @USERNAME.

    Without one, choose from a list. If standard input or output is not a terminal, it sends each line of its input
    and prints plain lines; it ends with its input.
    """
    run(partial(_with_access, partial(run_chat, name=conversation), server, token))


@click.command()
@click.argument("conversation")
@click.option("--after", type=click.IntRange(min=0), help="Start with the changes after this rev.")
@click.option("--epoch", callback=_storable, help="The epoch of --after, as printed in the lines.")
@click.option("--history", type=click.IntRange(min=0), default=0, help="First print this many of the newest messages.")
@click.option("--follow/--no-follow", default=True, help="Continue with live events, or end when caught up.")
@click.option("--all", "with_all", is_flag=True, help="Include presence, typing, read positions and lost connections.")
@_server
@_token
def tail(
    conversation: str,
    after: int | None,
    epoch: str | None,
    history: int,
    follow: bool,
    with_all: bool,
    server: str,
    token: str | None,
) -> None:
    """Print the events of a conversation as JSON lines."""
    if after is not None and history:
        raise click.UsageError("give --after or --history, not both")
    if epoch is not None and after is None:
        raise click.UsageError("--epoch needs --after: it is the epoch of that rev")
    events = Range(after, epoch, history, follow, with_all)
    run(partial(_with_access, partial(run_tail, name=conversation, events=events), server, token))


@click.command()
@click.argument("conversation")
@click.argument("text", default="-")
@click.option("--client-id", callback=_client_id, help="A message resent with the same id is stored once.")
@click.option(
    "--timeout",
    default=30.0,
    show_default=True,
    type=click.FloatRange(min=0.1),
    callback=_seconds,
    help="Seconds for the whole command.",
)
@_server
@_token
def send(conversation: str, text: str, client_id: str | None, timeout: float, server: str, token: str | None) -> None:
    """Send one message, TEXT or standard input (-), and print its id and its seq when it is stored."""
    program = partial(run_send, conversation=conversation, text=text, client_id=client_id, seconds=timeout)
    run(partial(_with_access, program, server, token))


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, for scripts.")
@_server
@_token
def list_(as_json: bool, server: str, token: str | None) -> None:
    """List your conversations with id, name and unread messages, most recent activity first."""
    run(partial(_with_access, partial(listing, as_json=as_json), server, token))


@click.command()
@click.argument("username", required=False, callback=_storable)
@_server
@_password_stdin
def login(username: str | None, server: str, password_stdin: bool) -> None:
    """Sign in, and store the token (not the password) in a file that only you can read."""
    name = username or click.prompt("Username")
    password = _password(password_stdin, confirms=False)
    run(partial(_sign_in, server, name, password, registers=False))


@click.command()
@click.argument("username", callback=_storable)
@_server
@_password_stdin
def register(username: str, server: str, password_stdin: bool) -> None:
    """Create an account, and sign in."""
    password = _password(password_stdin, confirms=True)
    run(partial(_sign_in, server, username, password, registers=True))


@click.command()
@_server
def logout(server: str) -> None:
    """Remove the token that login stored."""
    run(partial(_forget, server))


COMMANDS = {command.name: command for command in (chat, tail, send, list_, login, register, logout)}


async def _with_access(program: Callable[..., Any], server: str, token: str | None) -> int:
    return int(await program(Access(checked_server(server), token or None)))


async def _sign_in(server: str, username: str, password: str, *, registers: bool) -> int:
    url = checked_server(server)
    async with open_client(url) as client:
        if registers:
            await client.register(username, password)
        user = await client.sign_in(username, password)
        if client.token is None:
            raise ClientError("the server issued no token")
        tokens.keep(url, tokens.Kept(user.username, client.token))
    await Output(1).write(f"Signed in to {url} as {user.username}.\n")
    return Exit.OK


async def _forget(server: str) -> int:
    tokens.keep(checked_server(server), None)
    return Exit.OK


def _password(from_stdin: bool, *, confirms: bool) -> str:
    if from_stdin:
        password = sys.stdin.buffer.readline().rstrip(b"\r\n")
        try:
            return password.decode()
        except UnicodeDecodeError:
            run(partial(_refuse, "the password on standard input is not UTF-8"))
    if not sys.stdin.isatty():
        run(partial(_refuse, "there is no terminal to ask for the password; use --password-stdin"))
    return str(click.prompt("Password", hide_input=True, confirmation_prompt=confirms))


async def _refuse(message: str) -> int:
    raise Stop(Exit.USAGE, message)
