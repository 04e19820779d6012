"""Registration and login: which attempts count, and which are forgiven."""

import random

import pytest
import trio

from pulse_trio.auth.hash_queue import HashKind, HashQueue
from pulse_trio.auth.passwords import Passwords
from pulse_trio.auth.tokens import Tokens
from pulse_trio.clock import utc_now
from pulse_trio.conversations import accounts
from pulse_trio.conversations.accounts import AccountCore
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import IdSource
from pulse_trio.metrics import Metrics
from pulse_trio.rooms.hub import Hub
from pulse_trio.settings import Settings
from pulse_trio.store.memory import MemoryStore
from tests.support.server import SECRET

PASSWORD = "correct horse battery staple"
ADDRESS = "192.0.2.1"


class CountedAttempt:
    """An attempt that records its outcome."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    async def forgive(self) -> None:
        self.outcomes.append("forgiven")

    def fail(self) -> None:
        self.outcomes.append("failed")


@pytest.fixture
def core() -> AccountCore:
    settings = Settings.load(secret_key=SECRET, password_hash_parallel=1, password_queue=1, password_wait=0.1)
    store, ids = MemoryStore(), IdSource(utc_now)
    return AccountCore(
        settings=settings,
        clock=utc_now,
        ids=ids,
        store=store,
        hub=Hub(store, settings, clock=utc_now, rand=random.Random(1)),
        tokens=Tokens(settings, utc_now),
        passwords=Passwords(1),
        hash_queue=HashQueue(settings),
        metrics=Metrics(),
    )


async def register(core: AccountCore, username: str = "ada") -> CountedAttempt:
    attempt = CountedAttempt()
    await accounts.register(core, username, PASSWORD, address=ADDRESS, attempt=attempt)
    return attempt


async def test_a_registration_counts_and_its_login_does_not(core: AccountCore) -> None:
    assert (await register(core)).outcomes == []
    attempt = CountedAttempt()
    user, token = await accounts.login(core, "ADA", PASSWORD, address=ADDRESS, attempt=attempt)
    account = await core.store.find_account("ada")
    assert account is not None
    assert user == account.user
    assert core.tokens.verify(token).subject == str(account.user.id)
    assert attempt.outcomes == ["forgiven"]


@pytest.mark.parametrize("username", ["ada", "nobody"])
async def test_a_wrong_password_and_an_unknown_user_are_failures(core: AccountCore, username: str) -> None:
    await register(core)
    attempt = CountedAttempt()
    with pytest.raises(PulseError) as refused:
        await accounts.login(core, username, "another password", address=ADDRESS, attempt=attempt)
    assert refused.value.code is ErrorCode.INVALID_CREDENTIALS
    assert attempt.outcomes == ["failed"]
    assert core.metrics.login_failures == 1


async def test_a_taken_name_is_refused_and_counts(core: AccountCore) -> None:
    await register(core)
    attempt = CountedAttempt()
    with pytest.raises(PulseError) as refused:
        await accounts.register(core, "Ada", PASSWORD, address=ADDRESS, attempt=attempt)
    assert (refused.value.code, refused.value.field) == (ErrorCode.USERNAME_TAKEN, "username")
    assert attempt.outcomes == []


async def test_an_attempt_that_finds_no_place_in_the_queue_is_forgiven(core: AccountCore) -> None:
    attempts = [CountedAttempt(), CountedAttempt()]
    async with core.hash_queue.place(HashKind.LOGIN, "192.0.2.2"):
        with pytest.raises(PulseError):
            await accounts.register(core, "ada", PASSWORD, address=ADDRESS, attempt=attempts[0])
        with pytest.raises(PulseError):
            await accounts.login(core, "ada", PASSWORD, address=ADDRESS, attempt=attempts[1])
    assert [attempt.outcomes for attempt in attempts] == [["forgiven"], ["forgiven"]]


async def test_hanging_up_during_the_check_is_a_failure_and_before_it_is_not(
    core: AccountCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(core)
    before, during = CountedAttempt(), CountedAttempt()
    with trio.CancelScope() as scope:
        scope.cancel()
        await accounts.login(core, "ada", PASSWORD, address=ADDRESS, attempt=before)
    with trio.CancelScope() as scope:

        async def check(_stored: str | None, _password: str) -> bool:
            scope.cancel()
            await trio.sleep_forever()
            raise AssertionError

        monkeypatch.setattr(core.passwords, "check", check)
        await accounts.login(core, "ada", PASSWORD, address=ADDRESS, attempt=during)
    assert (before.outcomes, during.outcomes) == (["forgiven"], ["failed"])


def test_a_password_is_bounded(core: AccountCore) -> None:
    assert accounts.password_problem("x" * 7, core.settings) == "must have 8 to 256 characters"
    assert accounts.password_problem("x" * 257, core.settings) == "must have 8 to 256 characters"
    assert accounts.password_problem("x" * 8 + chr(0), core.settings) is not None
    assert accounts.password_problem("x" * 256, core.settings) is None
