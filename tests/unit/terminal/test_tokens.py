"""The file of tokens: what several programs at once do to it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.client import open_client
from pulse_trio.terminal import access, tokens
from pulse_trio.terminal.access import Access
from pulse_trio.terminal.exits import Stop
from pulse_trio.terminal.tokens import Kept
from tests.unit.client.scripted import TOKEN_SECONDS, ScriptedServer

SERVER = "http://chat.example"


@pytest.fixture(autouse=True)
def _own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_programs_that_write_at_once_lose_nothing_of_each_other() -> None:
    servers = [f"http://{number}.example" for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda server: tokens.keep(server, Kept("alice", server)), servers))
    assert [tokens.load(server) for server in servers] == [Kept("alice", server) for server in servers]


def test_a_link_to_the_file_stays(tmp_path: Path) -> None:
    """A home folder may be kept somewhere else, with links to its files."""
    behind = tmp_path / "kept" / "tokens.json"
    behind.parent.mkdir()
    (tmp_path / "pulse-trio").mkdir()
    (tmp_path / "pulse-trio" / "tokens.json").symlink_to(behind)
    for token in ("T1", "T2"):
        tokens.keep(SERVER, Kept("alice", token))
        assert (tmp_path / "pulse-trio" / "tokens.json").is_symlink()
        assert behind.is_file()
        assert tokens.load(SERVER) == Kept("alice", token)


def test_another_token_takes_the_place_of_the_one_that_it_was_renewed_from_only() -> None:
    first, second, other = Kept("alice", "T1"), Kept("alice", "T2"), Kept("bob", "B1")
    tokens.keep(SERVER, first)
    assert tokens.keep_next(SERVER, first, second)
    assert tokens.load(SERVER) == second
    for now in (other, None):
        tokens.keep(SERVER, now)
        assert not tokens.keep_next(SERVER, second, Kept("alice", "T3"))
        assert tokens.load(SERVER) == now


@pytest.mark.parametrize("meanwhile", [None, Kept("bob", "B1")], ids=["logout", "login"])
async def test_a_program_that_runs_does_not_undo_what_its_user_did(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, meanwhile: Kept | None
) -> None:
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(nursery)
        monkeypatch.setattr(access, "open_client", lambda *args, **more: open_client(*args, network=server, **more))
        login = server.new_token(None)[1]["access_token"]
        tokens.keep(SERVER, Kept("alice", login))
        async with Access(SERVER).open() as client:
            await client.sign_in("alice", "a password")
            assert tokens.load(SERVER) == Kept("alice", "token-2")
            await trio.sleep(TOKEN_SECONDS)
            assert tokens.load(SERVER) == Kept("alice", client.token or "")
            tokens.keep(SERVER, meanwhile)
            await trio.sleep(TOKEN_SECONDS)
            assert client.token not in {"token-2", "token-3"}, "it goes on itself"
            assert tokens.load(SERVER) == meanwhile


async def test_a_kept_token_that_cannot_be_sent_is_not_told() -> None:
    tokens.keep(SERVER, Kept("alice", "a-secret\n"))
    with pytest.raises(Stop, match="pulse-trio login") as stopped:
        async with Access(SERVER).open():
            raise AssertionError
    assert "a-secret" not in repr(stopped.value)


async def test_a_renewed_token_that_cannot_be_kept_ends_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with trio.open_nursery() as nursery:
        server = ScriptedServer(nursery)
        monkeypatch.setattr(access, "open_client", lambda *args, **more: open_client(*args, network=server, **more))
        tokens.keep(SERVER, Kept("alice", server.new_token(None)[1]["access_token"]))
        folder = tokens.token_file().parent
        async with Access(SERVER).open() as client:
            await client.sign_in("alice", "a password")
            tokens.token_file().unlink()
            tokens.token_file().mkdir()  # also root cannot write there
            await trio.sleep(2 * TOKEN_SECONDS)
            assert (await client.me()).username == "alice"
        nursery.cancel_scope.cancel()
    told = capsys.readouterr().err
    assert str(folder) in told
    assert "token-" not in told
