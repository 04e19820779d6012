"""The authenticator: the user of a token, and users of an identity provider."""

from typing import Any
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pulse_trio.auth import authenticator
from pulse_trio.auth.authenticator import Authenticator
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import IdSource
from pulse_trio.store.base import NewConversation, User, UsernameTaken
from pulse_trio.store.memory import MemoryStore
from tests.support.commands import carry_out, leave

from .samples import ALICE, NOW, SECRET, START, FakeClock, claims, forge, good, make_tokens


class Front:
    """An authenticator on a store in memory."""

    def __init__(self, *, provision_users: bool = False, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        clock = FakeClock()
        self.ids = IdSource(clock)
        self.authenticator = Authenticator(
            make_tokens(clock), self.store, provision_users=provision_users, clock=clock, ids=self.ids
        )

    async def user(self, **changes: Any) -> User:
        found = await self.authenticator.authenticate(good(**changes))
        return getattr(found, "user", found)  # type: ignore[return-value]


async def test_a_token_finds_its_user() -> None:
    front = Front()
    await front.store.create_user(ALICE, password_hash=None, subject=None, created_at=START)
    assert await front.user() == ALICE


class CountingStore(MemoryStore):
    """Counts the look-ups of users."""

    def __init__(self) -> None:
        super().__init__()
        self.look_ups = 0

    async def find_subject(self, subject: str, user_id: UUID | None) -> User | None:
        self.look_ups += 1
        return await super().find_subject(subject, user_id)


async def test_a_user_is_looked_up_once() -> None:
    front = Front(store=(store := CountingStore()))
    await store.create_user(ALICE, password_hash=None, subject=None, created_at=START)
    assert [await front.user() for _ in range(3)] == [ALICE] * 3
    assert store.look_ups == 1


async def test_a_user_who_does_not_exist_yet_is_looked_up_again() -> None:
    front = Front(store=(store := CountingStore()))
    for _ in range(2):
        with pytest.raises(PulseError) as caught:
            await front.user()
        assert caught.value.code is ErrorCode.INVALID_TOKEN
    await store.create_user(ALICE, password_hash=None, subject=None, created_at=START)
    assert await front.user() == ALICE
    assert store.look_ups == 3


async def test_a_remembered_user_still_needs_a_valid_token() -> None:
    front = Front()
    await front.store.create_user(ALICE, password_hash=None, subject=None, created_at=START)
    await front.user()
    for token in (good(exp=NOW), good()[:-2], forge({"alg": "HS256"}, claims(), SECRET + "x")):
        with pytest.raises(PulseError) as caught:
            await front.authenticator.authenticate(token)
        assert caught.value.code is ErrorCode.INVALID_TOKEN


async def test_the_oldest_remembered_user_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authenticator, "MAX_REMEMBERED", 2)
    front = Front(provision_users=True, store=(store := CountingStore()))
    subjects = [f"auth0|{number}" for number in range(3)]
    users = [await front.user(sub=subject) for subject in subjects]
    before = store.look_ups
    assert await front.user(sub=subjects[2]) == users[2]
    assert store.look_ups == before
    assert await front.user(sub=subjects[0]) == users[0]
    assert store.look_ups == before + 1


def rename(store: MemoryStore, user: User, username: str) -> User:
    """Renames a user in the store, as another process would."""
    store._accounts[user.id].user = (renamed := User(user.id, username))
    return renamed


async def test_a_changed_user_is_looked_up_again(mock_clock: MockClock) -> None:
    front = Front(provision_users=True, store=(store := CountingStore()))
    alice, bob = await front.user(sub="auth0|1", name="alice"), await front.user(sub="auth0|2", name="bob")
    # One user by two subjects: the provider's, and our own id.
    assert await front.user(sub=str(alice.id)) == alice
    renamed = rename(store, alice, "alice2")
    before = store.look_ups
    assert await front.user(sub="auth0|1") == alice
    assert store.look_ups == before
    for user_id in (alice.id, UUID(int=99)):
        front.authenticator.on_user_changed(user_id)
    assert [await front.user(sub=subject) for subject in ("auth0|1", str(alice.id))] == [renamed] * 2
    assert store.look_ups == before + 2
    assert await front.user(sub="auth0|2") == bob
    assert store.look_ups == before + 2, "others stay"
    front.authenticator.on_user_changed(None)
    assert await front.user(sub="auth0|2") == bob
    assert store.look_ups == before + 3


async def test_a_deleted_user_is_rejected_once_the_change_is_known() -> None:
    front = Front(store=(store := CountingStore()))
    await store.create_user(ALICE, password_hash=None, subject=None, created_at=START)
    await front.user()
    del store._accounts[ALICE.id]
    front.authenticator.on_user_changed(ALICE.id)
    with pytest.raises(PulseError) as caught:
        await front.user()
    assert caught.value.code is ErrorCode.INVALID_TOKEN


async def test_a_user_is_remembered_for_a_bounded_time(mock_clock: MockClock) -> None:
    front = Front(store=(store := CountingStore()))
    await store.create_user(ALICE, password_hash=None, subject=None, created_at=START)
    await front.user()
    renamed = rename(store, ALICE, "renamed")
    mock_clock.jump(authenticator.REMEMBERED_SECONDS - 1)
    assert await front.user() == ALICE
    mock_clock.jump(1)
    assert [await front.user() for _ in range(3)] == [renamed] * 3
    assert store.look_ups == 2


@pytest.mark.parametrize("is_handshake", [False, True])
async def test_a_look_up_that_a_change_overtakes_is_not_remembered(is_handshake: bool) -> None:
    answer = trio.Event()

    class SlowStore(CountingStore):
        async def find_subject(self, subject: str, user_id: UUID | None) -> User | None:
            found = await super().find_subject(subject, user_id)
            await answer.wait()
            return found

    front = Front(store=(store := SlowStore()))
    await store.create_user(ALICE, password_hash=None, subject=None, created_at=START)
    async with trio.open_nursery() as nursery:
        if is_handshake:
            nursery.start_soon(front.authenticator.admit, good(), front.ids())
        else:
            nursery.start_soon(front.authenticator.authenticate, good())
        await wait_all_tasks_blocked()
        renamed = rename(store, ALICE, "renamed")
        front.authenticator.on_user_changed(ALICE.id)
        answer.set()
    assert await front.user() == renamed


@pytest.mark.parametrize("token", [None, ""])
async def test_a_missing_token_has_its_own_error(token: str | None) -> None:
    with pytest.raises(PulseError) as caught:
        await Front().authenticator.authenticate(token)
    assert caught.value.code is ErrorCode.NOT_AUTHENTICATED


@pytest.mark.parametrize("subject", [str(ALICE.id), "auth0|5"])
async def test_unknown_users_are_rejected_unless_provisioned(subject: str) -> None:
    with pytest.raises(PulseError) as caught:
        await Front().user(sub=subject)
    assert caught.value.code is ErrorCode.INVALID_TOKEN
    assert (await Front(provision_users=True).user(sub=subject)).username == "user"


async def test_an_id_in_capitals_is_no_user() -> None:
    front = Front()
    await front.store.create_user(ALICE, password_hash=None, subject=None, created_at=START)
    with pytest.raises(PulseError) as caught:
        await front.user(sub=str(ALICE.id).upper())
    assert caught.value.code is ErrorCode.INVALID_TOKEN


async def test_a_provisioned_user_is_found_again() -> None:
    front = Front(provision_users=True)
    user = await front.user(sub="auth0|5", preferred_username="Alice Smith")
    assert user.username == "Alice_Smith"
    assert await front.user(sub="auth0|5", preferred_username="Renamed") == user


async def test_a_taken_name_gets_a_number() -> None:
    front = Front(provision_users=True)
    names = [
        (await front.user(sub=f"s{n}", name=name)).username for n, name in enumerate(["Bob", "bob", "BOB", "ｂob"])
    ]
    assert names == ["Bob", "bob-2", "BOB-3", "bob-4"]
    long = [(await front.user(sub=f"l{n}", name="x" * 40)).username for n in range(3)]
    assert long == ["x" * 32, "x" * 30 + "-2", "x" * 30 + "-3"]
    nameless = [(await front.user(sub=f"n{n}", name="\N{WAVING HAND SIGN}")).username for n in range(2)]
    assert nameless == ["user", "user-2"]


async def test_parallel_first_requests_create_one_user() -> None:
    front = Front(provision_users=True)
    found: list[User] = []

    async def ask() -> None:
        found.append(await front.user(sub="auth0|5", name="Alice"))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
    assert len(set(found)) == 1
    assert (await front.store.search_users("", limit=10, offset=0)).total == 1


async def test_provisioning_fails_when_every_name_is_taken() -> None:
    class Full(MemoryStore):
        async def create_user(self, *arguments: Any, **options: Any) -> None:
            await trio.lowlevel.checkpoint()
            raise UsernameTaken

    with pytest.raises(PulseError) as caught:
        await Front(provision_users=True, store=Full()).user(sub="auth0|5")
    assert caught.value.code is ErrorCode.INVALID_TOKEN


async def test_a_provider_cannot_take_over_a_user_of_the_same_name() -> None:
    front = Front(provision_users=True)
    await front.store.create_user(ALICE, password_hash="h", subject=None, created_at=START)
    other = await front.user(sub="auth0|5", preferred_username="alice")
    assert other.id != ALICE.id
    assert other.username == "alice-2"


async def test_only_our_own_tokens_say_when_the_user_logged_in() -> None:
    front = Front(provision_users=True)
    await front.store.create_user(ALICE, password_hash="h", subject=None, created_at=START)
    assert (await front.authenticator.authenticate(good())).signed_in == NOW
    assert (await front.authenticator.authenticate(good(sub="auth0|5"))).signed_in is None


# --- together with a membership ---


async def test_an_admission_is_an_identity_and_a_membership() -> None:
    front = Front()
    store, bob = front.store, User(front.ids(), "bob")
    for user in (ALICE, bob):
        await store.create_user(user, password_hash=None, subject=None, created_at=START)
    created = await store.create_conversation(
        NewConversation(front.ids(), "g", None, is_group=True, owner_id=bob.id, member_ids=(bob.id,), created_at=START)
    )
    group = created.conversation.id
    identity, rev = await front.authenticator.admit(good(sub=str(bob.id)), group)
    assert (identity, rev) == (await front.authenticator.authenticate(good(sub=str(bob.id))), 0)
    assert await front.authenticator.admit(good(), group) == (await front.authenticator.authenticate(good()), None)
    assert (await front.authenticator.admit(good(), front.ids()))[1] is None


async def test_an_admission_needs_a_valid_token_of_a_user() -> None:
    front = Front()
    for token, code in (
        (None, ErrorCode.NOT_AUTHENTICATED),
        (good(exp=NOW), ErrorCode.INVALID_TOKEN),
        (good(), ErrorCode.INVALID_TOKEN),  # of nobody
    ):
        with pytest.raises(PulseError) as caught:
            await front.authenticator.admit(token, front.ids())
        assert caught.value.code is code


async def test_an_admission_asks_for_the_membership_each_time() -> None:
    front = Front()
    store = front.store
    await store.create_user(ALICE, password_hash=None, subject=None, created_at=START)
    created = await store.create_conversation(
        NewConversation(
            front.ids(), "g", None, is_group=True, owner_id=ALICE.id, member_ids=(ALICE.id,), created_at=START
        )
    )
    group = created.conversation.id
    assert (await front.authenticator.admit(good(), group))[1] is not None
    await carry_out(store, leave(group, ALICE))
    assert (await front.authenticator.admit(good(), group))[1] is None


async def test_the_first_handshake_of_a_providers_user_creates_them() -> None:
    front = Front(provision_users=True)
    identity, rev = await front.authenticator.admit(good(sub="auth0|5", name="Carol"), front.ids())
    assert (identity.user.username, rev) == ("Carol", None)
