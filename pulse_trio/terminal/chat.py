"""`pulse-trio chat`: a conversation at the terminal."""

import os
import signal
from contextlib import aclosing
from typing import Final

import trio

from pulse_trio.client import (
    Client,
    ClientError,
    Conversation,
    Event,
    Message,
    MessageDeleted,
    MessageEdited,
    NotStored,
    ReadPositions,
    Refused,
    Reset,
    Room,
    Typing,
    Warned,
)
from pulse_trio.terminal.access import Access, find, title
from pulse_trio.terminal.editor import LineEditor, Outcome
from pulse_trio.terminal.exits import Exit
from pulse_trio.terminal.keys import KeyReader, Pasted, Typed
from pulse_trio.terminal.lines import Lines, Style
from pulse_trio.terminal.screen import PROMPT, RawMode, Screen, is_interactive
from pulse_trio.terminal.streams import Output, read_lines, read_some
from pulse_trio.terminal.tail import newest
from pulse_trio.terminal.text import safe

HISTORY: Final = 50  # messages shown at the start
MAX_UNSENT: Final = 16  # lines waiting to be stored; further ones stay in the editor
TYPING_SHOWN: Final = 4.0  # seconds after the latest `typing` of a user
ESCAPE_WAIT: Final = 0.05  # seconds within which the rest of an escape sequence must arrive
MAX_TYPING_NAMES: Final = 3  # more than these are only counted

HELP: Final = """/who              lists the members, and who of them is here
/edit TEXT        changes your latest message
/delete           deletes your latest message
/older            shows older messages
/quit, Ctrl-D     ends the program
//TEXT            sends a line that begins with /
Alt-Enter         starts a new line in the message"""


async def chat(access: Access, name: str | None) -> int:
    """Runs a chat until its user ends it; without a name they choose from a list."""
    output = Output(1)
    async with access.open() as client:
        if name is not None:
            found = await find(client, name, creates=True)
        else:
            chosen = await _choose(client, output)
            if chosen is None:
                return Exit.OK
            found = chosen
        async with client.join(found) as room:
            if is_interactive():
                return await Chat(client, room, output).run()
            return await _plainly(client, room, output)


async def _choose(client: Client, output: Output) -> Conversation | None:
    found = await client.conversations(limit=None)
    if not found:
        await output.write("You are in no conversation yet; start one with: pulse-trio chat @USERNAME\n")
        return None
    for number, conversation in enumerate(found, 1):
        unread = f", {conversation.unread_count} unread" if conversation.unread_count else ""
        about = f"{conversation.member_count or len(conversation.users)} members{unread}"
        await output.write(f"{number:>3}  {title(conversation, client.user)}  ({about})\n")
    if not os.isatty(0):
        return None
    await output.write("Number: ")
    async with aclosing(read_lines(0)) as lines:
        async for line in lines:
            if not line.strip():
                return None
            if line.strip().isdecimal() and 1 <= int(line) <= len(found):
                return found[int(line) - 1]
            await output.write(f"1 to {len(found)}: ")
    return None


# --- without a terminal ------------------------------------------------------------------------


async def _plainly(client: Client, room: Room, output: Output) -> int:
    """Sends each line of the input and prints events; ends when the input has ended and all of it is stored."""
    lines = Lines(Style(False), lambda: 0)
    for message in await newest(client, room.conversation, HISTORY):
        await output.write("".join(f"{line}\n" for line in lines.message(message)))
    async with trio.open_nursery() as nursery:
        has_ended = False
        sent, sent_epoch = 0, room.epoch  # the rev of the last stored line
        shown, shown_epoch = 0, room.epoch  # the rev of the last printed change

        def is_shown() -> bool:
            return not sent or (shown_epoch == sent_epoch and shown >= sent)

        async def send_lines() -> None:
            nonlocal has_ended, sent, sent_epoch
            async with aclosing(read_lines(0)) as given:
                async for line in given:
                    if line.strip():
                        sent, sent_epoch = (await room.send(line)).rev, room.head_epoch
            has_ended = True
            if is_shown():
                nursery.cancel_scope.cancel()

        nursery.start_soon(send_lines)
        while not has_ended or not is_shown():
            event = await room.receive()
            await output.write("".join(f"{line}\n" for line in lines.of(event)))
            shown, shown_epoch = room.rev, room.epoch
            if isinstance(event, Reset) and event.epoch != sent_epoch:
                sent = 0  # it was in the lost history and will not come
            if isinstance(event, Message):
                room.mark_read(event.seq)
    return Exit.OK


# --- at a terminal -----------------------------------------------------------------------------


class Chat:
    """A conversation on the screen. Tasks change the state and call `_draw`, one at a time."""

    def __init__(self, client: Client, room: Room, output: Output) -> None:
        self._client = client
        self._room = room
        self._screen = Screen(output)
        self._lines = Lines(Style("NO_COLOR" not in os.environ), lambda: self._screen.columns)
        self._editor = LineEditor()
        self._title = title(room.conversation, client.user)
        self._typing: dict[str, float] = {}  # username → time until which it is shown
        self._unsent = 0
        self._mine: Message | None = None
        self._oldest = room.conversation.last_seq + 1
        self._drawing = trio.Lock()
        self._shown: dict[int, int] = {}  # seq → rev, of the history on the screen
        self._to_send, self._sending = trio.open_memory_channel[str](MAX_UNSENT)

    async def run(self) -> int:
        """Runs until the user ends it."""
        with RawMode(0) as self._raw:
            try:
                await self._show_history()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._show_events)
                    nursery.start_soon(self._send)
                    nursery.start_soon(self._tick)
                    nursery.start_soon(self._follow_signals)
                    await self._read_keys(nursery)
                    nursery.cancel_scope.cancel()
            finally:
                with trio.move_on_after(1, shield=True):
                    await self._screen.erase()
        return Exit.OK

    # --- output ---

    async def _draw(self, lines: list[str] | None = None) -> None:
        async with self._drawing:
            view = self._editor.view(self._screen.columns - len(PROMPT) - 1)
            await self._screen.draw(self._status(), view, lines or [])

    def _status(self) -> str:
        room = self._room
        parts = [self._title]
        if not room.is_online:
            parts.append("no connection")
        else:
            parts.append(f"{len(room.active_users)} here")
        now = trio.current_time()
        names = [safe(name) for name, until in self._typing.items() if until > now]
        if len(names) > MAX_TYPING_NAMES:
            parts.append(f"{len(names)} are typing …")
        elif names:
            parts.append(f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} typing …")
        if self._unsent:
            parts.append(f"{self._unsent} being sent")
        return " · ".join(parts)

    async def _show_history(self) -> None:
        found = await newest(self._client, self._room.conversation, HISTORY)
        lines = [line for message in found for line in self._lines.message(message)]
        if found:
            self._oldest = found[0].seq
            self._room.mark_read(found[-1].seq)
        self._mine = next((m for m in reversed(found) if m.sender_id == self._client.user.id), None)
        self._shown = {message.seq: message.rev for message in found}
        await self._draw([*lines, *self._lines.note("/help lists the commands")])

    async def _show_events(self) -> None:
        async for event in self._room:
            await self._draw(self._take(event))

    def _take(self, event: Event) -> list[str]:
        match event:
            case Typing():
                self._typing[event.username] = trio.current_time() + TYPING_SHOWN
            case Message():
                self._typing.pop(event.sender_username, None)
                self._room.mark_read(event.seq)
                if event.rev <= self._shown.get(event.seq, 0):
                    return []  # shown already: the history loaded meanwhile has it
                if event.sender_id == self._client.user.id:
                    self._mine = event
            case MessageEdited(message) | MessageDeleted(message) if message.rev <= self._shown.get(message.seq, 0):
                return []
            case Reset():
                self._forget(event)
            case ReadPositions() | Warned():
                return []
        return self._lines.of(event)

    def _forget(self, reset: Reset) -> None:
        """Forgets the messages of the lost history: the new one reuses their numbers."""
        self._shown.clear()
        self._mine = None
        self._oldest = reset.last_seq + 1

    async def _tick(self) -> None:
        """Removes users who have stopped typing."""
        while True:
            await trio.sleep(1)
            now = trio.current_time()
            ended = [name for name, until in self._typing.items() if until <= now]
            for name in ended:
                del self._typing[name]
            if ended:
                await self._draw()

    async def _follow_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGWINCH, signal.SIGCONT) as signals:
            async for _ in signals:
                await self._draw()

    # --- input ---

    async def _read_keys(self, nursery: trio.Nursery) -> None:
        keys = KeyReader()
        while True:
            data = None
            with trio.move_on_after(ESCAPE_WAIT if keys.is_waiting else float("inf")):
                data = await read_some(0)
            if data is None:
                keys.flush()
                continue
            if not data:
                return  # the terminal is gone
            for press in keys.feed(data):
                outcome = self._editor.press(press)
                if outcome is Outcome.LEAVE or (outcome is Outcome.SUBMIT and not await self._submit(nursery)):
                    return
                if outcome is Outcome.FULL:
                    await self._screen.ring()
                elif outcome is Outcome.SUSPEND:
                    await self._suspend()
                elif isinstance(press, Typed | Pasted) and not self._editor.text.startswith("/"):
                    self._room.typing()
            await self._draw()

    async def _suspend(self) -> None:
        async with self._drawing:
            await self._screen.erase()
            self._raw.suspend()

    async def _submit(self, nursery: trio.Nursery) -> bool:
        """Runs the command or sends the line; returns False to quit."""
        line = self._editor.text
        if line.startswith("/") and not line.startswith("//"):
            self._editor.take()
            if line in {"/quit", "/q", "/exit"}:
                return False
            nursery.start_soon(self._command, line)  # keys are read while it runs
            return True
        try:
            self._to_send.send_nowait(line.removeprefix("/") if line.startswith("//") else line)
        except trio.WouldBlock:
            await self._screen.ring()
            return True
        self._editor.take()
        self._unsent += 1
        return True

    async def _send(self) -> None:
        async for line in self._sending:
            lines: list[str] = []
            try:
                await self._room.send(line)
            except (Refused, NotStored) as error:
                lines = self._lines.note(f"not sent: {safe(str(error))}")
                self._editor.put_back(line)
            finally:
                self._unsent -= 1
            await self._draw(lines)

    async def _command(self, line: str) -> None:
        command, _, rest = line[1:].partition(" ")
        lines: list[str] = []
        try:
            match command:
                case "help":
                    lines = self._lines.note(HELP)
                case "who":
                    lines = await self._who()
                case "older":
                    lines = await self._older()
                case "edit" if self._mine is not None and rest.strip():
                    self._mine = await self._client.edit(self._mine, rest)
                case "delete" if self._mine is not None:
                    await self._client.delete(self._mine)
                    self._mine = None
                case "edit" | "delete":
                    lines = self._lines.note("/edit TEXT and /delete change your latest message; there is none")
                case _:
                    lines = self._lines.note(f"unknown command /{safe(command)}; see /help")
        except ClientError as error:
            lines = self._lines.note(safe(str(error)))
        await self._draw(lines)

    async def _who(self) -> list[str]:
        conversation = await self._client.conversation(self._room.conversation)
        names = [
            f"{safe(user.username)}{' (here)' if user.id in self._room.active_users else ''}"
            for user in conversation.users
        ]
        others = (conversation.member_count or 0) - len(names)
        if others > 0:
            names.append(f"and {others} more")
        return self._lines.note(", ".join(names))

    async def _older(self) -> list[str]:
        older: list[Message] = []
        if self._oldest > 1:
            async for message in self._client.history(self._room.conversation, before_seq=self._oldest):
                older.append(message)
                if len(older) == HISTORY:
                    break
        if not older:
            return self._lines.note("there are no older messages")
        self._oldest = older[-1].seq
        before = Lines(Style("NO_COLOR" not in os.environ), lambda: self._screen.columns)
        lines = self._lines.note("── older messages ──")
        for message in reversed(older):
            lines += before.message(message)
        return [*lines, *self._lines.note("── end of older messages ──")]
