"""Floods of logins and registrations: others are served in turn, every attempt is answered, and guesses are counted."""

import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import argon2
import pytest
import trio
import trio.testing
from quart import typing as quart_typing
from trio.testing import MockClock

from pulse_trio.app import create_app, open_service
from pulse_trio.edge.rest import accounts as rest_accounts
from pulse_trio.settings import Settings
from pulse_trio.store.memory import MemoryStore
from tests.support.client import PASSWORD, Person
from tests.support.raw import Answer, open_raw
from tests.support.server import SECRET, Server

REGISTER, LOGIN = "/api/auth/register", "/api/auth/login"
REAL_HASH, REAL_VERIFY = argon2.PasswordHasher.hash, argon2.PasswordHasher.verify


class Hashing:
    """The threads that hash passwords: none ends before the test lets it. `begun` has the passwords in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self.first = trio.Event()  # set when the first one has begun
        self.may_end = threading.Event()

        def hash_password(hasher: argon2.PasswordHasher, password: str) -> str:
            self._wait(password)
            return REAL_HASH(hasher, password)

        def verify(hasher: argon2.PasswordHasher, stored: str, password: str) -> bool:
            self._wait(password)
            return REAL_VERIFY(hasher, stored, password)

        monkeypatch.setattr(argon2.PasswordHasher, "hash", hash_password)
        monkeypatch.setattr(argon2.PasswordHasher, "verify", verify)

    def _wait(self, password: str) -> None:
        trio.from_thread.run_sync(self._note, password)
        assert self.may_end.wait(60)

    def _note(self, password: str) -> None:
        self.begun.append(password)
        self.first.set()


class Front:
    """The app, and the answers to attempts that were begun."""

    def __init__(self, client: quart_typing.TestClientProtocol, hashing: Hashing, nursery: trio.Nursery) -> None:
        self.client = client
        self.hashing = hashing
        self.answers: dict[str, Any] = {}
        self.nursery = nursery
        self._ended: list[trio.Event] = []

    async def ask(self, path: str, username: str, password: str, address: str) -> Any:
        body = {"username": username, "password": password}
        return await self.client.post(path, json=body, scope_base={"client": (address, 1)})

    async def begin(self, password: str, address: str, username: str = "nobody", path: str = LOGIN) -> None:
        """Begins an attempt, which is answered, waits, or hashes."""

        ended = trio.Event()
        self._ended.append(ended)

        async def run() -> None:
            self.answers[password] = await self.ask(path, username, password, address)
            ended.set()

        self.nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()

    async def finish(self) -> None:
        """Lets all hashing end; returns when all attempts are answered."""
        self.hashing.may_end.set()
        for ended in self._ended:
            await ended.wait()

    def statuses(self) -> Counter[int]:
        return Counter(answer.status_code for answer in self.answers.values())


@asynccontextmanager
async def a_front(monkeypatch: pytest.MonkeyPatch, **settings: object) -> AsyncIterator[Front]:
    """The app with `alice` in it and one thread for hashing; at the end of the block all hashing may end."""

    @asynccontextmanager
    async def open_store() -> AsyncIterator[MemoryStore]:
        yield MemoryStore()

    values = {"password_hash_parallel": 1, "password_attempts_per_address": 0, **settings}
    app = create_app(Settings.load(secret_key=SECRET, **values), open_store)
    async with open_service(app):
        client = app.test_client()
        made = await client.post(REGISTER, json={"username": "alice", "password": PASSWORD})
        assert made.status_code == 201
        hashing = Hashing(monkeypatch)
        async with trio.open_nursery() as nursery:
            try:
                yield (front := Front(client, hashing, nursery))
            finally:
                hashing.may_end.set()
            await front.finish()


async def test_a_quiet_address_comes_next_whatever_others_ask_for(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_front(monkeypatch) as front:
        for number in range(50):
            await front.begin(f"guess {number}", f"192.0.2.{number % 2}", f"unknown{number}")
        for number in range(50):
            await front.begin(f"password {number}", "192.0.2.0", f"user{number}", REGISTER)
        await front.begin(PASSWORD, "198.51.100.7", "alice")
    assert front.answers[PASSWORD].status_code == 200
    assert front.hashing.begun.index(PASSWORD) <= 6, "one hash of each address and kind before it"
    assert front.statuses() == {401: 50, 201: 50, 200: 1}


async def test_what_finds_no_room_is_refused_before_it_is_hashed_and_is_no_failure(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_front(monkeypatch, password_queue=8, login_failures_per_address=60) as front:
        recorded: list[str] = []
        monkeypatch.setattr(rest_accounts, "record_event", lambda event, **_: recorded.append(event.name))
        for number in range(50):
            await front.begin(f"guess {number}", "192.0.2.1", f"user{number}")
        assert front.statuses() == {503: 41}
        assert recorded == [], "a service that is busy bans nobody"
        answer = front.answers["guess 49"]
        assert int(answer.headers["Retry-After"]) > 0
        assert (await answer.get_json())["code"] == "unavailable"
        await front.finish()
        for number in range(51):
            answer = await front.ask(LOGIN, f"user{number}", "a guess", "192.0.2.1")
            assert answer.status_code == 401, f"{number} and those 9 are no 60 failures"
        assert (await front.ask(LOGIN, "alice", "a guess", "192.0.2.1")).status_code == 429
    assert front.statuses() == {503: 41, 401: 9}
    assert len(front.hashing.begun) == 9 + 51


async def test_a_registration_that_finds_no_room_does_not_count(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_front(monkeypatch, password_queue=2, registrations_per_address=10) as front:
        for number in range(10):
            await front.begin(f"password {number}", "192.0.2.1", f"user{number}", REGISTER)
        assert front.statuses() == {503: 7}
        await front.finish()
        for number in range(7):
            assert (await front.ask(REGISTER, f"other{number}", PASSWORD, "192.0.2.1")).status_code == 201
        assert (await front.ask(REGISTER, "another", PASSWORD, "192.0.2.1")).status_code == 429


async def test_refusals_give_nobody_more_guesses(mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_front(monkeypatch, password_queue=2, login_failures_per_account=5) as front:
        for number in range(30):
            await front.begin(f"guess {number}", "192.0.2.1", "alice")
        await front.finish()
        for number in range(30):
            await front.ask(LOGIN, "alice", f"late guess {number}", "192.0.2.1")
        assert len(front.hashing.begun) == 5


async def test_right_logins_at_once_are_no_failed_ones(mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_front(monkeypatch, login_failures_per_account=3) as front:
        answers = []

        async def log_in(number: int) -> None:
            answers.append(await front.ask(LOGIN, "alice", PASSWORD, f"192.0.2.{number % 2}"))

        for number in range(9):
            front.nursery.start_soon(log_in, number)
        await trio.testing.wait_all_tasks_blocked()
        assert answers
        for answer in answers:
            assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
            assert "logins at a time" in (await answer.get_json())["message"]
        front.hashing.may_end.set()
        while len(answers) < 9:
            await trio.lowlevel.checkpoint()
        for number in range(9):
            assert (await front.ask(LOGIN, "alice", PASSWORD, f"192.0.2.{number % 2}")).status_code == 200


async def test_who_waits_too_long_is_answered_and_has_not_failed(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_front(monkeypatch, password_wait=5, login_failures_per_address=10) as front:
        for number in range(10):
            await front.begin(f"guess {number}", "192.0.2.1", f"user{number}")
        mock_clock.jump(5.1)
        await trio.testing.wait_all_tasks_blocked()
        assert front.statuses() == {503: 9}
        await front.finish()
        for number in range(9):
            assert (await front.ask(LOGIN, f"user{number}", "a guess", "192.0.2.1")).status_code == 401
        assert (await front.ask(LOGIN, "alice", "a guess", "192.0.2.1")).status_code == 429


async def test_a_hash_of_whoever_hung_up_keeps_its_place_until_it_ends(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_front(monkeypatch) as front:
        scope = trio.CancelScope()

        async def ask_and_hang_up() -> None:
            with scope:
                await front.ask(LOGIN, "nobody", "a guess", "192.0.2.1")

        front.nursery.start_soon(ask_and_hang_up)
        await front.hashing.first.wait()
        scope.cancel()
        await front.begin(PASSWORD, "198.51.100.7", "alice")
        assert front.hashing.begun == ["a guess"]
    assert front.answers[PASSWORD].status_code == 200
    assert front.hashing.begun == ["a guess", PASSWORD]


@pytest.mark.parametrize("most_of_address", ["16", "0"])
async def test_a_flood_of_logins_is_answered_and_others_get_in(
    start_server: Callable[..., Server], most_of_address: str
) -> None:
    server = start_server(PULSE_PASSWORD_ATTEMPTS_PER_ADDRESS=most_of_address)
    answers: list[Answer] = []

    async def attack(number: int) -> None:
        async with open_raw(server.port, address=f"127.0.0.{2 + number % 2}") as client:
            answers.append(await client.request(login(f"unknown{number}", "a guess")))

    with trio.fail_after(120):
        await Person.register(server.base_url, "alice")
        async with open_raw(server.port, address="127.0.0.4") as quiet, trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(attack, number)
            while len(answers) < 300:  # all have come: those without room are refused at once
                await trio.lowlevel.checkpoint()
            hashed_before = count(answers, 401)
            let_in = await quiet.request(login("alice", PASSWORD))
            assert let_in.status == 200
            assert count(answers, 401) - hashed_before <= 40, "not all that came before it"
        assert len(answers) == 500, "each is answered"
        assert {answer.status for answer in answers} <= {401, 429, 503}
        for answer in answers:
            assert answer.status == 401 or int(answer.headers["retry-after"]) > 0


def count(answers: list[Answer], status: int) -> int:
    return sum(answer.status == status for answer in answers)


def login(username: str, password: str) -> bytes:
    body = json.dumps({"username": username, "password": password})
    return (
        f"POST {LOGIN} HTTP/1.1\r\nHost: chat.example\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
