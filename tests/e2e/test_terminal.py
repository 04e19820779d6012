"""`pulse-trio chat | tail | send | login` as people and scripts use them, against the real service."""

import json
import os
import signal
import stat
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from pulse_trio.client import Client, Conversation, open_client
from tests.support.client import PASSWORD
from tests.support.pty import Program, at_terminal
from tests.support.server import PROGRAM, Server, environment

Run = Callable[..., subprocess.CompletedProcess[str]]


class Desk:
    """Alice's side: her settings, and her programs. Bob is at his own."""

    def __init__(self, server: Server, home: Path, alice: Client, bob: Client, team: Conversation) -> None:
        self.server = server
        self.bob = bob
        self.alice = alice
        self.team = team
        self.home = home
        assert alice.token is not None
        self.token = alice.token

    def environment(self, **settings: str) -> dict[str, str]:
        base = {"PULSE_URL": self.server.base_url, "XDG_CONFIG_HOME": str(self.home), "TERM": "xterm", "TZ": "UTC"}
        return environment(**{**base, "PULSE_TOKEN": self.token, **settings})

    async def run(self, *arguments: str, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[bytes]:
        """A command to its end, without a terminal."""
        with trio.fail_after(60):
            return await trio.run_process(
                [PROGRAM, *arguments],
                stdin=stdin.encode(),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=self.environment(**settings),
            )

    async def refused(self, code: int, *arguments: str, **options: Any) -> str:
        """The one line in which a command ends with this exit code."""
        done = await self.run(*arguments, **options)
        assert (done.returncode, done.stdout) == (code, b""), done
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith("pulse-trio: ")
        return line

    def chat(self, *arguments: str, **settings: str) -> AbstractAsyncContextManager[Program]:
        return at_terminal([PROGRAM, "chat", *arguments], self.environment(**settings))


@pytest.fixture
async def desk(server: Server, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_client(server.base_url) as anybody:
        for username in ("alice", "bob"):
            await anybody.register(username, PASSWORD)
    async with (
        open_client(server.base_url, username="alice", password=PASSWORD) as alice,
        open_client(server.base_url, username="bob", password=PASSWORD) as bob,
    ):
        team = await alice.create_group("Team", [bob.user])
        yield Desk(server, tmp_path, alice, bob, team)


async def said(client: Client, conversation: Conversation) -> list[str]:
    return [message.content async for message in client.history(conversation, after_seq=0)]


# --- send --------------------------------------------------------------------------------------


async def test_send_prints_id_and_seq(desk: Desk) -> None:
    done = await desk.run("send", "team", "Hello, Bob!")
    assert (done.returncode, done.stderr) == (0, b"")
    (message,) = [message async for message in desk.bob.history(desk.team)]
    assert done.stdout.decode() == f"{message.id} 1\n"
    assert (message.content, message.sender_username) == ("Hello, Bob!", "alice")


async def test_a_token_comes_from_a_file_or_with_a_warning_from_an_argument(desk: Desk) -> None:
    file = desk.home / "token"
    file.write_text(f"{desk.token}\n")
    for other in ("", "no token"):  # a file wins over PULSE_TOKEN
        done = await desk.run("send", "Team", "one", "--token-file", str(file), PULSE_TOKEN=other)
        assert (done.returncode, done.stderr) == (0, b"")
    done = await desk.run("send", "Team", "two", "--token", desk.token, PULSE_TOKEN="")
    assert done.returncode == 0
    (line,) = done.stderr.decode().splitlines()
    assert "list of processes" in line
    assert desk.token not in line
    file.write_text("no\ntoken")
    for arguments in (("--token-file", str(file)), ("--token-file", str(desk.home)), ("--token-file", "/dev/null")):
        done = await desk.run("list", *arguments)
        assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize("command", [("send", "Team", "x"), ("tail", "Team", "--after", "0", "--no-follow"), ("list",)])
async def test_output_that_cannot_be_written_is_one_line(desk: Desk, command: tuple[str, ...]) -> None:
    await desk.alice.send(desk.team, "kept")
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with trio.fail_after(60):
            done = await trio.run_process(
                [PROGRAM, *command], stdout=full, capture_stderr=True, check=False, env=desk.environment()
            )
    finally:
        os.close(full)
    assert done.returncode == 1
    assert done.stderr == b"pulse-trio: the output cannot be written: No space left on device\n"


async def test_send_from_standard_input_by_id_and_again(desk: Desk) -> None:
    for _ in range(2):
        done = await desk.run("send", str(desk.team.id), "--client-id", "job-1", stdin="two\nlines\n")
        assert (done.returncode, done.stdout.split()[1]) == (0, b"1")
    assert await said(desk.bob, desk.team) == ["two\nlines"]


async def test_send_to_a_person(desk: Desk) -> None:
    done = await desk.run("send", "@BOB", "psst")
    assert done.returncode == 0
    (direct,) = [c for c in await desk.bob.conversations() if not c.is_group]
    assert await said(desk.bob, direct) == ["psst"]


async def test_exit_codes(desk: Desk, unused_port: int) -> None:
    assert "not in a conversation named" in await desk.refused(5, "send", "Nobody's", "x")
    assert 'named "";' in await desk.refused(5, "tail", "")
    assert '"Alice" is you' in await desk.refused(5, "send", "@Alice", "x")
    assert "no user" in await desk.refused(5, "send", "@nobody", "x")
    assert "empty" in await desk.refused(5, "send", "Team", " ")
    await desk.refused(5, "send", "0190a6bf-01aa-7b3c-8d4e-9f8e7d6c5b4a", "x")
    await desk.refused(4, "send", "Team", "x", PULSE_TOKEN="no token")
    assert "login" in await desk.refused(4, "send", "Team", "x", PULSE_TOKEN="")
    assert "cannot be reached" in await desk.refused(
        3, "send", "Team", "x", PULSE_URL=f"http://127.0.0.1:{unused_port}"
    )
    await desk.refused(2, "send", "Team", "x", PULSE_URL="127.0.0.1")
    await desk.alice.create_group("Team")
    assert "give the id" in await desk.refused(2, "send", "Team", "x")
    done = await desk.run("send", "Team", "x", "--client-id", "x" * 65)
    assert done.returncode == 2


@pytest.fixture
async def unused_port() -> int:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    await listener.aclose()
    return port


async def test_a_message_that_is_not_stored_in_time(desk: Desk) -> None:
    os.kill(desk.server.process.pid, signal.SIGSTOP)
    try:
        assert "may be stored" in await desk.refused(6, "send", "Team", "x", "--timeout", "1")
    finally:
        os.kill(desk.server.process.pid, signal.SIGCONT)


# --- login -------------------------------------------------------------------------------------


async def test_login_keeps_a_token_for_its_owner_only(desk: Desk) -> None:
    none = {"PULSE_TOKEN": ""}
    done = await desk.run("login", "alice", "--password-stdin", stdin=f"{PASSWORD}\n", **none)
    assert done.returncode == 0, done
    path = desk.home / "pulse-trio" / "tokens.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert PASSWORD not in path.read_text()
    token = json.loads(path.read_text())[desk.server.base_url]["token"]
    assert token not in (done.stdout + done.stderr).decode()
    assert (await desk.run("send", "Team", "hi", **none)).returncode == 0
    path.chmod(0o640)
    assert "chmod 600" in await desk.refused(1, "send", "Team", "hi", **none)
    path.chmod(0o600)
    assert (await desk.run("logout", **none)).returncode == 0
    await desk.refused(4, "send", "Team", "hi", **none)
    await desk.refused(4, "login", "alice", "--password-stdin", stdin="wrong\n", **none)


async def test_register(desk: Desk) -> None:
    none = {"PULSE_TOKEN": ""}
    done = await desk.run("register", "carol", "--password-stdin", stdin=f"{PASSWORD}\n", **none)
    assert done.stdout.decode() == f"Signed in to {desk.server.base_url} as carol.\n"
    assert "taken" in await desk.refused(5, "register", "carol", "--password-stdin", stdin=f"{PASSWORD}\n", **none)
    done = await desk.run("chat", **none)
    assert "in no conversation yet" in done.stdout.decode()


async def test_the_password_is_asked_for_without_an_echo(desk: Desk) -> None:
    async with at_terminal([PROGRAM, "login", "alice"], desk.environment()) as program:
        await program.wait("Password:")
        await program.type(f"{PASSWORD}\n")
        await program.wait("Signed in")
        assert PASSWORD not in program.output
        assert await program.wait_end() == 0


# --- list --------------------------------------------------------------------------------------


async def test_list_tells_the_conversations(desk: Desk) -> None:
    direct = await desk.alice.open_direct(desk.bob.user)
    odd = await desk.alice.create_group("\x1b[31mred\u202e")
    await desk.bob.send(desk.team, "one")
    done = await desk.run("list")
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert lines[0] == f"{desk.team.id}  Team  (1 unread)", "the most recent activity first"
    assert sorted(lines[1:]) == sorted([f"{direct.id}  @bob", f"{odd.id}  ␛[31mred<U+202E>"])
    done = await desk.run("list", "--json")
    assert not any(byte < 32 or byte > 126 for line in done.stdout.splitlines() for byte in line)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found[0] == {
        "id": str(desk.team.id),
        "title": "Team",
        "is_group": True,
        "members": ["alice", "bob"],
        "member_count": 2,
        "last_seq": 1,
        "last_rev": 1,
        "epoch": desk.team.epoch,
        "unread_count": 1,
    }
    assert {line["title"] for line in found[1:]} == {"@bob", "\x1b[31mred\u202e"}
    async with open_client(desk.server.base_url) as anybody:
        await anybody.register("carol", PASSWORD)
        await anybody.sign_in("carol", PASSWORD)
        done = await desk.run("list", PULSE_TOKEN=anybody.token or "")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# --- tail --------------------------------------------------------------------------------------


async def test_tail_of_what_there_is(desk: Desk) -> None:
    async with desk.bob.join(desk.team) as room:
        sent = [await room.send(f"message {number}") for number in range(5)]
    await desk.bob.edit(sent[4], "better")
    done = await desk.run("tail", "Team", "--history", "2", "--no-follow")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["type"], line["content"]) for line in lines] == [
        ("message", "message 3"),
        ("message_updated", "better"),
    ]
    done = await desk.run("tail", "Team", "--after", "3", "--no-follow")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["rev"], line["content"]) for line in lines] == [(4, "message 3"), (6, "better")]
    done = await desk.run("tail", "Team", "--after", "6", "--no-follow")
    assert (done.returncode, done.stdout) == (0, b"")


async def test_tail_after_what_is_not_in_this_history(desk: Desk) -> None:
    await desk.bob.send(desk.team, "one")
    epoch = desk.team.epoch
    reset = {"type": "reset", "last_seq": 1, "last_rev": 1, "epoch": epoch}
    assert await tailed(desk, "--after", "999") == [reset]
    assert await tailed(desk, "--after", "1", "--epoch", "another") == [reset]
    await desk.bob.send(desk.team, "two")
    (line,) = await tailed(desk, "--after", "1", "--epoch", epoch)
    assert (line["content"], line["rev"], line["epoch"]) == ("two", 2, epoch)
    assert await tailed(desk, "--after", "2", "--epoch", epoch) == []
    assert [line["epoch"] for line in await tailed(desk, "--history", "2")] == [epoch, epoch]
    for wrong in (("--epoch", epoch), ("--after", "1", "--epoch", "\udcff")):
        assert (await desk.run("tail", "Team", *wrong)).returncode == 2


async def tailed(desk: Desk, *arguments: str) -> list[dict[str, Any]]:
    """Returns the output of `tail` until it has caught up."""
    done = await desk.run("tail", "Team", "--no-follow", *arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_tail_follows_until_it_is_told_to_end(desk: Desk) -> None:
    async with desk.bob.join(desk.team) as room:
        await room.send("before")
        async with Following(desk, "--history", "1", "--all") as process:
            assert process.stdout is not None
            with trio.fail_after(60):
                assert (await a_line(process))["content"] == "before"
                await room.send("after")
                room.typing()
                assert (await a_line(process))["content"] == "after"
                assert (await a_line(process))["type"] == "typing"
                process.send_signal(signal.SIGINT)
                assert await process.wait() == 130
                assert process.stderr is not None
                assert await process.stderr.receive_some() == b""


async def test_tail_whose_reader_goes_away_ends_well(desk: Desk) -> None:
    async with desk.bob.join(desk.team) as room:
        await room.send("one")
        async with Following(desk, "--history", "1") as process:
            assert process.stdout is not None
            with trio.fail_after(60):
                await a_line(process)
                await process.stdout.aclose()  # as head does; nothing more is said
                assert await process.wait() == 0
                assert process.stderr is not None
                assert await process.stderr.receive_some() == b""


async def a_line(process: trio.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        piece = await process.stdout.receive_some(1)
        assert piece, "it ended"
        line += piece
    found: dict[str, Any] = json.loads(line)
    return found


class Following:
    """`tail`, running while the block does."""

    def __init__(self, desk: Desk, *arguments: str) -> None:
        self._command = [PROGRAM, "tail", "Team", *arguments]
        self._environment = desk.environment()

    async def __aenter__(self) -> trio.Process:
        self._process = await trio.lowlevel.open_process(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._environment
        )
        return self._process

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        with trio.move_on_after(10, shield=True):
            await self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            await trio.aclose_forcefully(stream)


# --- chat --------------------------------------------------------------------------------------


async def test_a_chat_at_the_terminal(desk: Desk) -> None:
    async with desk.bob.join(desk.team) as room:
        await room.send("Hello, Alice!")
        async with desk.chat("Team") as program:
            await program.wait("bob Hello, Alice!")
            assert any(line.startswith("── ") for line in program.display.text), "the day"
            await program.wait("Team · 2 here")
            assert program.is_raw()
            await program.type("Hellö\x1b[D\x7fl")
            await program.wait("> Hell|ö")
            await room.send("Are you there?")
            await program.wait("bob Are you there?")
            assert program.display.input == "> Hell|ö", "what is written stays as it is"
            await program.type("\x05, Bob!\r")
            await program.wait("alice Hellö, Bob!")
            assert program.display.input == "> |"
            room.typing()
            await program.wait("bob is typing")
            await program.type("\x1b[200~pasted\nlines\x1b[201~")
            await program.wait("> pasted↵lines|")
            await program.type("\r")
            await program.wait("alice pasted")
            await program.type("/edit better\r")
            await program.wait("edited the message of")
            await program.type("/who\r")
            await program.wait("alice (here), bob (here)")
            await program.type("\x04")
            assert await program.wait_end() == 0
    assert await said(desk.bob, desk.team) == ["Hello, Alice!", "Are you there?", "Hellö, Bob!", "better"]


async def test_what_others_write_does_nothing_to_the_terminal(desk: Desk) -> None:
    async with desk.bob.join(desk.team) as room:
        await room.send("\x1b]0;owned\x07\x1b[2J\x9b31m\r> rm -rf\x08 \u202egnp.exe")
        async with desk.chat("Team") as program:  # its display fails on any sequence that is not ours
            await program.wait("␛]0;owned␇␛[2J<U+009B>31m␍> rm")
            await room.send("\x1b[200~\x07")
            await program.wait("␛[200~␇")
            assert program.display.bells == 0
            await program.type("\x03")
            assert await program.wait_end() == 0


async def test_a_narrow_terminal(desk: Desk) -> None:
    async with desk.bob.join(desk.team) as room, desk.chat("Team") as program:
        await program.wait("Team · 2 here")
        program.display.columns = 30
        program.resize(30)
        await program.type("日本語" * 20)
        await program.wait("語|")
        assert program.display.text[-1].startswith("> ")
        await room.send("the quick brown fox jumps over the lazy dog")
        await program.wait("jumps over the lazy")
        assert all(len(line) <= 30 for line in program.display.text[-5:])
        await program.type("\x15")
        await program.wait("> |")
        await program.type("/quit\r")
        assert await program.wait_end() == 0


async def test_ctrl_z_gives_the_terminal_back_until_it_is_continued(desk: Desk) -> None:
    async with desk.chat("Team") as program:
        await program.wait("Team · 1 here")
        await program.type("half a li\x1a")  # its process group is an orphan: the system does not stop it
        with trio.fail_after(60):
            while program.output.count("\x1b[?2004l") != 1 or program.output.count("\x1b[?2004h") != 2:
                assert await program.read()
        await program.type("ne")
        await program.wait("> half a line|")
        assert program.is_raw()
        await program.type("\x03\x03")
        assert await program.wait_end() == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_leaves_the_terminal_as_it_was(desk: Desk, how: signal.Signals) -> None:
    async with desk.chat("Team") as program:
        await program.wait("Team · ")
        assert program.is_raw()
        program.process.send_signal(how)
        assert await program.wait_end() == 128 + how


async def test_a_chat_goes_on_after_the_service_was_killed(desk: Desk, start_server: Callable[..., Server]) -> None:
    async with desk.chat("Team") as program:
        await program.wait("Team · 1 here")
        desk.server.process.kill()
        await trio.to_thread.run_sync(desk.server.wait)
        await program.wait("no connection")
        await program.type("written meanwhile\r")
        await program.wait("1 being sent")
        await trio.to_thread.run_sync(lambda: start_server("--port", str(desk.server.port)))
        await program.wait("alice written meanwhile")
        await program.type("\x04")
        assert await program.wait_end() == 0


async def test_a_conversation_is_chosen_from_the_list(desk: Desk) -> None:
    async with desk.chat() as program:
        await program.wait("1  Team  (2 members)")
        await program.wait("Number:")
        await program.type("7\n")
        await program.wait("1 to 1:")
        await program.type("1\n")
        await program.wait("Team · 1 here")
        await program.type("\x04")
        assert await program.wait_end() == 0


async def test_a_chat_without_a_terminal_sends_lines_and_prints_lines(desk: Desk) -> None:
    async with desk.bob.join(desk.team) as room:
        await room.send("\x1b[31mred")
    done = await desk.run("chat", "Team", stdin="one\n\n/quit\n")
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert [line.split(" ", 1)[1] for line in lines[1:]] == ["bob ␛[31mred", "alice one", "alice /quit"]
    assert await said(desk.bob, desk.team) == ["\x1b[31mred", "one", "/quit"]
