"""Accounts, on every store."""

import pytest
import trio

from pulse_trio.store.base import Account, Admission, Store, User, UsernameTaken, UserPage
from tests.contract.people import People
from tests.support.commands import START, carry_out, leave, new_id


async def test_user_is_found_ignoring_case_and_unicode_form(store: Store, people: People) -> None:
    user = await people.user("Ana.Straße", password_hash="secret hash")
    for spelling in ("Ana.Straße", "ANA.STRASSE", "ana.strasse", "\uff21na.Straße"):
        assert await store.find_account(spelling) == Account(user, "secret hash")
    assert await store.find_account("ana") is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("alice", "alice"),
        ("alice", "ALICE"),
        ("straße", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("alice", "\uff41\uff4c\uff49\uff43\uff45"),
        ("\u03c3\u03bf\u03c6\u03cc\u03c2", "\u03a3\u039f\u03a6\u038c\u03a3"),
    ],
)
async def test_name_differing_only_in_case_or_form_is_taken(
    store: Store, people: People, first: str, second: str
) -> None:
    user = await people.user(first)
    with pytest.raises(UsernameTaken):
        await people.user(second)
    found = await store.find_account(second)
    assert found is not None
    assert found.user == user
    assert (await store.search_users("", limit=9)).total == 1


async def test_users_without_password_and_subject(store: Store, people: People) -> None:
    first = await people.user("first", password_hash=None)
    second = await people.user("second", password_hash=None)
    assert await store.find_account("first") == Account(first, None)
    assert await store.find_account("second") == Account(second, None)


async def test_subject_is_unique(store: Store, people: People) -> None:
    user = await people.user("first", subject="issuer|1")
    with pytest.raises(UsernameTaken):
        await people.user("second", subject="issuer|1")
    assert await store.find_account("second") is None
    assert await store.find_subject("issuer|1", None) == user


async def test_subject_takes_precedence_over_id(store: Store, people: People) -> None:
    by_subject = await people.user("first", subject="sub")
    by_id = await people.user("second")
    assert await store.find_subject("sub", by_id.id) == by_subject
    assert await store.find_subject("other", by_id.id) == by_id
    assert await store.find_subject(str(by_id.id), by_id.id) == by_id
    assert await store.find_subject("other", new_id()) is None
    assert await store.find_subject("other", None) is None
    assert await store.find_subject("Sub", None) is None


async def test_an_admission_is_a_user_and_a_membership(store: Store, people: People) -> None:
    by_subject = await people.user("first", subject="sub")
    by_id, stranger = await people.users("second", "third")
    group = await people.group(by_subject, by_id)
    rev = await store.membership(group, by_id.id)
    assert rev is not None
    assert await store.admission(group, "sub", by_id.id) == Admission(by_subject, rev)
    assert await store.admission(group, str(by_id.id), by_id.id) == Admission(by_id, rev)
    assert await store.admission(group, "other", stranger.id) == Admission(stranger, None)
    assert await store.admission(new_id(), "sub", None) == Admission(by_subject, None)
    assert await store.admission(group, "other", new_id()) is None
    assert await store.admission(group, "other", None) is None
    await carry_out(store, leave(group, by_id))
    assert await store.admission(group, "other", by_id.id) == Admission(by_id, None)


async def test_admissions_of_one_moment_are_each_answered(store: Store, people: People) -> None:
    users = await people.users(*(f"user{number}" for number in range(80)))
    group = await people.group(*users[::2])
    found: dict[User, Admission | None] = {}

    async def ask(user: User) -> None:
        found[user] = await store.admission(group, str(user.id), user.id)

    async with trio.open_nursery() as nursery:
        for user in users:
            nursery.start_soon(ask, user)
    rev = await store.membership(group, users[0].id)
    assert found == {user: Admission(user, None if index % 2 else rev) for index, user in enumerate(users)}


async def test_hash_is_replaced_only_if_the_old_one_matches(store: Store, people: People) -> None:
    user = await people.user("alice", password_hash="old")
    other = await people.user("bob", password_hash="old")
    await store.set_password_hash(user.id, "new", old_hash="stale")
    assert await store.find_account("alice") == Account(user, "old")
    await store.set_password_hash(user.id, "new", old_hash="old")
    assert await store.find_account("alice") == Account(user, "new")
    await store.set_password_hash(user.id, "newer", old_hash="old")
    assert await store.find_account("alice") == Account(user, "new")
    await store.set_password_hash(new_id(), "new", old_hash="old")
    assert await store.find_account("bob") == Account(other, "old")


async def test_user_without_password_cannot_get_one(store: Store, people: People) -> None:
    user = await people.user("alice", password_hash=None)
    await store.set_password_hash(user.id, "new", old_hash="")
    assert await store.find_account("alice") == Account(user, None)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", ["a%b", "a\\b", "a_b", "aab", "Abel", "b%", "zoë", "Éva"]),
        ("a", ["a%b", "a\\b", "a_b", "aab", "Abel"]),
        ("AB", ["Abel"]),
        ("a%", ["a%b"]),
        ("a_", ["a_b"]),
        ("a\\", ["a\\b"]),
        ("%", []),
        ("_", []),
        ("\\", []),
        ("b%", ["b%"]),
        ("b%%", []),
        ("zoe\u0308", ["zoë"]),
        ("é", ["Éva"]),
        ("e", []),
        ("abelx", []),
    ],
)
async def test_search_treats_every_character_literally(
    store: Store, people: People, prefix: str, expected: list[str]
) -> None:
    for username in ("zoë", "Abel", "a_b", "b%", "aab", "a%b", "Éva", "a\\b"):
        await people.user(username)
    page = await store.search_users(prefix, limit=50)
    assert [user.username for user in page.users] == expected
    assert (page.total, page.next_after) == (len(expected), None)


async def test_search_pages_are_sorted_by_name(store: Store, people: People) -> None:
    made = {user.username: user for user in await people.users("u3", "U1", "u5", "other", "u2", "U4")}
    in_order = [made[name] for name in ("U1", "u2", "u3", "U4", "u5")]
    by_offset: list[User] = []
    for offset in (0, 2, 4):
        page = await store.search_users("u", limit=2, offset=offset)
        assert page.total == 5
        assert (page.next_after is None) == (offset == 4)
        by_offset += page.users
    assert by_offset == in_order
    assert await store.search_users("u", limit=2, offset=5) == UserPage((), 5, None)
    page = await store.search_users("u", limit=2)
    following = list(page.users)
    while page.next_after is not None:
        page = await store.search_users("u", limit=2, after=page.next_after)
        assert page.total == 5
        following += page.users
    assert following == in_order
    assert (await store.search_users("u", limit=5)).next_after is None


async def test_a_search_counts_up_to_a_bound(store: Store, people: People) -> None:
    await people.users("u1", "U2", "u3", "other")
    for prefix, max_total, total, is_exact in (
        ("u", None, 3, True),
        ("u", 4, 3, True),
        ("u", 3, 3, True),
        ("u", 2, 2, False),
        ("", 2, 2, False),
        ("x", 0, 0, True),
    ):
        page = await store.search_users(prefix, limit=1, max_total=max_total)
        assert (page.total, page.is_total_exact) == (total, is_exact), (prefix, max_total)
        assert (page.next_after is None) == (prefix == "x"), "pages go on beyond what is counted"


async def test_search_by_cursor_survives_a_registration(store: Store, people: People) -> None:
    await people.users("Bea", "bo\u0308rn", "BRUNO")
    first = await store.search_users("b", limit=2)
    assert [user.username for user in first.users] == ["Bea", "BRUNO"]
    await people.users("ben", "bruno2")
    assert first.next_after is not None
    rest = await store.search_users("b", limit=9, after=first.next_after)
    assert [user.username for user in rest.users] == ["bruno2", "bo\u0308rn"]
    assert (rest.total, rest.next_after) == (5, None)


async def test_failed_creation_leaves_no_user(store: Store, people: People) -> None:
    await people.user("alice", subject="sub")
    stranger = User(new_id(), "bob")
    with pytest.raises(UsernameTaken):
        await store.create_user(stranger, password_hash=None, subject="sub", created_at=START)
    await store.create_user(stranger, password_hash="x", subject="sub 2", created_at=START)
    assert await store.find_subject("sub 2", None) == stranger
