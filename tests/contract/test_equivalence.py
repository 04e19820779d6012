"""Both stores return the same results for the same random operations."""

from typing import Any, TypeAlias
from uuid import UUID

import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pulse_trio.store.base import NewConversation, NewMessage, ReadMark, Revision, Store, StoreError, UnknownUsers, User
from tests.contract.conftest import LIMIT, StoreKind
from tests.contract.people import at

Operation: TypeAlias = tuple[str, tuple[Any, ...], dict[str, Any]]

# Few of each, so that operations interact; one more than are created, so that some do not exist.
NAMES = ["ann", "ANN", "Bo", "bo_", "b%", "Cé", "ce\u0301"]
_USERS = [UUID(int=n) for n in range(1, 6)]
_CONVERSATIONS = [UUID(int=100 + n) for n in range(4)]
_MESSAGES = [UUID(int=200 + n) for n in range(12)]
_REVISIONS = [UUID(int=300 + n) for n in range(6)]

users = st.sampled_from(_USERS)
conversations = st.sampled_from(_CONVERSATIONS)
moments = st.integers(0, 50).map(at)
texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=5)
bounds = st.one_of(st.none(), st.integers(-2, 15))
limits = st.integers(1, 5)
offsets = st.integers(0, 12)
client_ids = st.sampled_from([None, None, "a", "b"])


def _call(name: str, *arguments: st.SearchStrategy[Any], **named: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(name), st.tuples(*arguments), st.fixed_dictionaries(named))


@st.composite
def _new_conversation(draw: st.DrawFn) -> NewConversation:
    is_group = draw(st.booleans())
    size = draw(st.integers(1, 4)) if is_group else 2
    members = draw(st.lists(users, min_size=size, max_size=size, unique=True))
    # `_prepare` sets its id: the contract excludes an existing one.
    return NewConversation(
        _CONVERSATIONS[0], draw(texts), draw(texts), is_group, members[0], tuple(members), draw(moments)
    )


@st.composite
def _batch(draw: st.DrawFn) -> list[NewMessage]:
    places = draw(st.lists(st.sampled_from(range(len(_MESSAGES))), min_size=1, max_size=5, unique=True))
    batch: dict[object, NewMessage] = {}
    for place in places:
        conversation, sender = draw(_home(place))
        new = NewMessage(_MESSAGES[place], conversation, sender, draw(texts), draw(client_ids), draw(moments))
        batch.setdefault((conversation, sender, new.client_id) if new.client_id else new.id, new)
    return list(batch.values())


@st.composite
def _revision(draw: st.DrawFn) -> Revision:
    place = draw(st.sampled_from(range(len(_MESSAGES))))
    conversation, actor = draw(_home(place))
    content = draw(st.one_of(st.none(), texts))
    return Revision(draw(st.sampled_from(_REVISIONS)), conversation, _MESSAGES[place], actor, content, draw(moments))


def _home(place: int) -> st.SearchStrategy[tuple[UUID, UUID]]:
    """Conversation and user for a message: mostly its own, so that repeats occur."""
    home = st.just((_CONVERSATIONS[place % 2], _USERS[place // 2 % 2]))
    return st.one_of(home, home, home, st.tuples(conversations, users))


_changes = st.fixed_dictionaries({}, optional={key: st.one_of(st.none(), texts) for key in ("name", "description")})

operations: st.SearchStrategy[Operation] = st.one_of(
    _call(
        "create_user",
        st.builds(User, st.sampled_from(_USERS[3:]), st.sampled_from(NAMES)),
        password_hash=st.sampled_from([None, "h1"]),
        subject=st.sampled_from([None, "s1", "s2"]),
        created_at=moments,
    ),
    _call("find_account", st.sampled_from(NAMES)),
    _call("find_subject", st.sampled_from(["s1", "s2"]), st.one_of(st.none(), users)),
    _call("set_password_hash", users, st.sampled_from(["h1", "h2"]), old_hash=st.sampled_from(["h1", "h2"])),
    _call("search_users", st.sampled_from(["", "b", "B_", "%", *NAMES]), limit=limits, offset=offsets),
    _call("create_conversation", _new_conversation()),
    _call("get_conversation", conversations, users),
    _call("list_conversations", users, limit=limits, offset=st.integers(0, 3)),
    _call("membership", conversations, users),
    _call("add_members", conversations, users, st.lists(users, max_size=4), limit=st.integers(1, 5), now=moments),
    _call("remove_member", conversations, users, users, now=moments),
    _call("memberships", users, st.one_of(st.none(), st.lists(conversations, max_size=4))),
    _call("members", conversations),
    _call("rename", conversations, users, _changes, now=moments),
    _call("head", conversations),
    _call("append", _batch()),
    _call("append", _batch()),
    _call("append", _batch()),
    _call("revise", _revision()),
    _call("revise", _revision()),
    _call("mark_read", st.lists(st.builds(ReadMark, conversations, users, st.integers(1, 8)), max_size=4)),
    _call("mark_read", st.lists(st.builds(ReadMark, conversations, users, st.integers(1, 8)), max_size=4)),
    _call("page_members", conversations, users, limit=limits),
    _call("mark_seen", st.dictionaries(users, moments, max_size=3)),
    _call("acquaintances", users, st.lists(users, max_size=4)),
    _call("changes", conversations, after_rev=st.integers(0, 15), limit=limits),
    _call("page_messages", conversations, users, limit=limits, offset=offsets),
    _call("page_messages", conversations, users, limit=limits, before_seq=bounds, after_seq=bounds),
)


async def _outcome(store: Store, operation: Operation) -> object:
    name, arguments, named = operation
    try:
        if name == "page_members":
            return await _members_by_page(store, *arguments, **named)
        return await getattr(store, name)(*arguments, **named)
    except UnknownUsers as error:
        return "UnknownUsers", list(error.ids)
    except StoreError as error:
        return type(error).__name__


async def _members_by_page(store: Store, conversation_id: UUID, user_id: UUID, limit: int) -> object:
    """Reads all pages of members, without positions, which differ between stores."""
    pages, after = [], 0
    while True:
        page = await store.page_members(conversation_id, user_id, limit=limit, after=after)
        pages.append(([(member.user, member.read_seq) for member in page.members], page.total))
        if page.next_after is None:
            return pages
        after = page.next_after


async def _set_up(store: Store) -> None:
    for user_id, name in zip(_USERS[:3], ("Xenia", "yves", "Zoë"), strict=True):
        await store.create_user(User(user_id, name), password_hash="h1", subject=None, created_at=at(0))
    group = NewConversation(_CONVERSATIONS[0], "Team", None, True, _USERS[0], tuple(_USERS[:3]), at(0))
    await store.create_conversation(group)
    pair = NewConversation(_CONVERSATIONS[1], None, None, False, _USERS[1], (_USERS[1], _USERS[0]), at(0))
    await store.create_conversation(pair)


# Random draws alone rarely succeed.
_FIRST: list[Operation] = [
    ("remove_member", (_CONVERSATIONS[0], _USERS[0], _USERS[2]), {"now": at(1)}),
    ("add_members", (_CONVERSATIONS[0], _USERS[1], [_USERS[2]]), {"limit": 3, "now": at(2)}),
]


def _prepare(drawn: list[Operation]) -> list[Operation]:
    """Gives each created object a unique id: the contract excludes duplicates."""
    prepared, new_conversations, new_users = [], iter(_CONVERSATIONS[2:]), iter(_USERS[3:])
    for name, arguments, named in drawn:
        if name == "create_conversation":
            new = arguments[0]
            conversation_id = next(new_conversations, None)
            if conversation_id is None:
                continue
            values = (new.name, new.description, new.is_group, new.owner_id, new.member_ids, new.created_at)
            prepared.append((name, (NewConversation(conversation_id, *values),), named))
        elif name == "create_user":
            user_id = next(new_users, None)
            if user_id is None:
                continue
            prepared.append((name, (User(user_id, arguments[0].username),), named))
        else:
            prepared.append((name, arguments, named))
    return prepared


def test_same_operations_give_the_same_results(postgres_kind: StoreKind) -> None:
    met: set[str] = set()

    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # shrinking takes minutes, and the differing operation says enough
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(drawn=st.lists(operations, min_size=20, max_size=80))
    def compare(drawn: list[Operation]) -> None:
        async def main() -> None:
            with trio.fail_after(LIMIT):
                async with StoreKind(None).open() as memory, postgres_kind.open() as postgres:
                    for store in (memory, postgres):
                        await _set_up(store)
                    for operation in [*_FIRST, *_prepare(drawn)]:
                        expected = await _outcome(memory, operation)
                        assert await _outcome(postgres, operation) == expected, operation
                        met.add(expected if isinstance(expected, str) else operation[0])
                    for conversation in _CONVERSATIONS:
                        last = ("changes", (conversation,), {"after_rev": 0, "limit": 99})
                        assert await _outcome(postgres, last) == await _outcome(memory, last)

        trio.run(main)

    compare()
    # The operations are useful only if some succeed and some fail.
    assert met >= {"mark_read", "page_members", "mark_seen", "acquaintances"}, met
    assert met >= {"append", "revise", "changes", "page_messages", "add_members", "remove_member", "NotAMember"}, met
