"""`pulse-trio send`: sends one message, for bots and cron jobs."""

import trio

from pulse_trio.terminal.access import Access, find
from pulse_trio.terminal.exits import Exit, Stop
from pulse_trio.terminal.streams import MAX_LINE_BYTES, Output, read_some


async def send(access: Access, conversation: str, text: str, client_id: str | None, seconds: float) -> int:
    """Sends a message and prints its id and its seq; `-` as text is standard input.

    Raises:
        Stop: it was not acknowledged within `seconds`; it may be stored nevertheless.
    """
    if text == "-":
        text = await _standard_input()
    message = None
    with trio.move_on_after(seconds):  # also while the client closes; an acknowledged message is printed
        async with access.open() as client:
            found = await find(client, conversation, creates=True)
            message = await client.send(found, text, client_id=client_id)
    if message is None:
        raise Stop(
            Exit.NOT_STORED,
            f"not acknowledged within {seconds:g} s; it may be stored; resend it with --client-id",
        )
    await Output(1).write(f"{message.id} {message.seq}\n")
    return Exit.OK


async def _standard_input() -> str:
    data = b""
    while piece := await read_some(0):
        data += piece
        if len(data) > MAX_LINE_BYTES:
            raise Stop(Exit.USAGE, f"a message has at most {MAX_LINE_BYTES} bytes")
    try:
        return data.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise Stop(Exit.USAGE, "standard input is not UTF-8") from None
