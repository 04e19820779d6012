"""Passwords: argon2id in threads, a few at a time."""

import argon2
import pytest
import trio

from pulse_trio.auth.passwords import Passwords


async def test_a_password_is_hashed_with_argon2id_of_at_least_the_advised_parameters() -> None:
    with trio.fail_after(30):
        hashed = await Passwords(2).hash("correct horse battery staple")
    parameters = argon2.extract_parameters(hashed)
    assert hashed.startswith("$argon2id$")
    assert parameters.memory_cost >= 19_456
    assert parameters.time_cost >= 2
    assert parameters.salt_len >= 16
    assert parameters.hash_len >= 32


async def test_only_the_right_password_is_accepted() -> None:
    passwords = Passwords(2)
    with trio.fail_after(30):
        hashed = await passwords.hash("correct horse")
        assert await passwords.hash("correct horse") != hashed
        assert await passwords.check(hashed, "correct horse")
        for wrong in ("", "Correct horse", "correct horse ", "correct horse\x00"):
            assert not await passwords.check(hashed, wrong)
        assert not await passwords.check("not a hash", "correct horse")


async def test_an_unknown_user_costs_a_check_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the time of the response would reveal which names exist."""
    passwords = Passwords(2)
    checked: list[str] = []
    verify = argon2.PasswordHasher.verify

    def counted(self: argon2.PasswordHasher, stored: str, password: str) -> bool:
        checked.append(stored)
        return verify(self, stored, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)
    with trio.fail_after(30):
        hashed = await passwords.hash("x")
        assert not await passwords.check(None, "no user has this password")
        assert not await passwords.check(hashed, "wrong")
    assert len(checked) == 2
    assert argon2.extract_parameters(checked[0]) == argon2.extract_parameters(checked[1])


async def test_a_hash_of_other_parameters_is_outdated() -> None:
    passwords = Passwords(2)
    weaker = argon2.PasswordHasher(time_cost=1, memory_cost=8_192, parallelism=1).hash("x")
    with trio.fail_after(30):
        assert await passwords.check(weaker, "x")
        assert passwords.is_outdated(weaker)
        assert not passwords.is_outdated(await passwords.hash("x"))


async def test_only_so_many_hashes_are_computed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(2)
    running = most = 0
    hash_password = argon2.PasswordHasher.hash

    def counted(self: argon2.PasswordHasher, password: str) -> str:
        nonlocal running, most
        trio.from_thread.run_sync(enter)
        try:
            return hash_password(self, password)
        finally:
            trio.from_thread.run_sync(leave)

    def enter() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)

    def leave() -> None:
        nonlocal running
        running -= 1

    monkeypatch.setattr(argon2.PasswordHasher, "hash", counted)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(passwords.hash, "x")
    assert most <= 2
