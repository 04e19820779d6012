"""Both stores return the same results for the same random operations."""

from dataclasses import replace
from typing import Any, TypeAlias
from uuid import UUID

import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pulse_trio.model import AddMembers, Command, Delete, Edit, Kind, Leave, Post, RemoveMember, SetProperties
from pulse_trio.store.base import (
    Conversation,
    NewConversation,
    ReadMark,
    StaleRev,
    Store,
    StoreError,
    UnknownUsers,
    User,
)
from tests.contract.conftest import LIMIT, StoreKind
from tests.support.commands import at

Operation: TypeAlias = tuple[str, tuple[Any, ...], dict[str, Any]]

# Few of each, so that operations interact; one more than are created, so that some do not exist.
NAMES = ["ann", "ANN", "Bo", "bo_", "b%", "Cé", "ce\u0301"]
_USERS = [UUID(int=n) for n in range(1, 6)]
_CONVERSATIONS = [UUID(int=100 + n) for n in range(4)]
_MESSAGES = [UUID(int=200 + n) for n in range(8)]
_EDITS = [UUID(int=300 + n) for n in range(6)]

# Mostly those that exist from the start, so that much succeeds.
users = st.sampled_from([*_USERS[:3], *_USERS])
conversations = st.sampled_from([*_CONVERSATIONS[:1] * 3, *_CONVERSATIONS])
moments = st.integers(0, 50).map(at)
texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=5)
bounds = st.one_of(st.none(), st.integers(-2, 15))
limits = st.integers(1, 5)
offsets = st.integers(0, 12)
page_bytes = st.sampled_from([None, 1, 1_000, 2_500])
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
def _posts(draw: st.DrawFn) -> list[Command]:
    places = draw(st.lists(st.sampled_from(range(len(_MESSAGES))), min_size=1, max_size=5, unique=True))
    posts: dict[object, Command] = {}
    for place in places:
        home, sender = draw(_home(place))
        client_id = draw(client_ids)
        new = Post(
            id=_MESSAGES[place],
            conversation_id=home,
            actor_id=sender,
            at=draw(moments),
            content=draw(texts),
            client_id=client_id,
        )
        posts.setdefault((home, sender, client_id) if client_id else new.id, new)
    return list(posts.values())


@st.composite
def _revisions(draw: st.DrawFn) -> list[Command]:
    """Several of a few messages, with ids of their own: a call has none twice."""
    return draw(st.lists(_revision(), min_size=1, max_size=5, unique_by=lambda command: command.id))


@st.composite
def _revision(draw: st.DrawFn) -> Command:
    place = draw(st.sampled_from(range(len(_MESSAGES))))
    home, actor = draw(_home(place))
    command = Delete(
        id=draw(st.sampled_from(_EDITS)),
        conversation_id=home,
        actor_id=actor,
        at=draw(moments),
        message_id=_MESSAGES[place],
    )
    if draw(st.booleans()):
        return command
    if_rev = draw(st.one_of(st.none(), st.none(), st.integers(1, 6)))
    values: dict[str, Any] = {"id": command.id, "conversation_id": home, "actor_id": actor, "at": command.at}
    return Edit(**values, message_id=command.message_id, content=draw(texts), if_rev=if_rev)


@st.composite
def _group_command(draw: st.DrawFn) -> list[Command]:
    """One that changes members or properties. `_prepare` sets its id."""
    actors = st.one_of(st.just(_USERS[0]), users)  # often the owner, who may do everything
    home = draw(st.one_of(st.just(_CONVERSATIONS[0]), conversations))
    values: dict[str, Any] = {"id": _EDITS[0], "conversation_id": home, "actor_id": draw(actors), "at": draw(moments)}
    match draw(st.sampled_from(["add", "add", "remove", "remove", "leave", "set"])):
        case "add":
            added = draw(st.lists(users, max_size=4, unique=True))
            return [AddMembers(**values, user_ids=tuple(added), limit=draw(st.integers(1, 5)))]
        case "remove":
            return [RemoveMember(**values, user_id=draw(users))]
        case "leave":
            return [Leave(**values)]
        case _:
            return [SetProperties(**values, values=draw(_properties))]


def _home(place: int) -> st.SearchStrategy[tuple[UUID, UUID]]:
    """Conversation and user for a message: mostly its own, so that repeats occur."""
    home = st.just((_CONVERSATIONS[place % 2], _USERS[place // 2 % 2]))
    return st.one_of(*[home] * 5, st.tuples(conversations, users))


_properties = st.fixed_dictionaries({}, optional={key: st.one_of(st.none(), texts) for key in ("name", "description")})
# One mark of a user in a call: which of several takes the first of the user's numbers is not promised.
_marks = st.lists(
    st.builds(ReadMark, conversations, users, st.integers(1, 8)), max_size=4, unique_by=lambda mark: mark.user_id
)

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
    _call("users_by_page", st.sampled_from(["", "b", *NAMES]), limit=limits),
    _call("create_conversation", _new_conversation()),
    _call("get_conversation", conversations, users),
    _call("conversations_by_page", users, limit=limits),
    _call("membership", conversations, users),
    _call("admission", conversations, st.sampled_from(["s1", "s2"]), st.one_of(st.none(), users)),
    _call("apply", _group_command()),
    _call("apply", _group_command()),
    _call("apply", _group_command()),
    _call("repeat", st.integers(0, 10)),
    _call("memberships", users, st.one_of(st.none(), st.lists(conversations, max_size=4))),
    _call("members", conversations),
    _call("head", conversations),
    _call("apply", _posts()),
    _call("apply", _posts()),
    _call("apply", _posts()),
    _call("apply", _revisions()),
    _call("apply", _revisions()),
    _call("mark_read", _marks),
    _call("mark_read", _marks),
    _call("members_by_page", conversations, users, limit=limits),
    _call("mark_seen", st.dictionaries(users, moments, max_size=3)),
    _call("acquaintances", users, st.lists(users, max_size=4)),
    _call("changes", conversations, after_rev=st.integers(0, 15), kinds=st.integers(0, Kind.ALL), limit=limits),
    _call("user_changes", users, after_rev=st.integers(0, 10), limit=limits),
    _call("page_messages", conversations, users, limit=limits, offset=offsets),
    _call("page_messages", conversations, users, limit=limits, before_seq=bounds, after_seq=bounds),
    _call("page_messages", conversations, users, limit=limits, after_seq=bounds, max_bytes=page_bytes),
)


async def _outcome(store: Store, operation: Operation) -> object:
    name, arguments, named = operation
    try:
        match name:
            case "members_by_page":
                return await _members_by_page(store, *arguments, **named)
            case "conversations_by_page":
                return await _conversations_by_page(store, *arguments, **named)
            case "users_by_page":
                return await _users_by_page(store, *arguments, **named)
            case "search_users":
                page = await store.search_users(*arguments, **named)
                return page.users, page.total, page.next_after is None  # a cursor is the store's own
            case "apply":
                return [_comparable(outcome) for outcome in await store.apply(*arguments)]
        return await getattr(store, name)(*arguments, **named)
    except StoreError as error:
        return _comparable(error)


def _comparable(outcome: object) -> object:
    match outcome:
        case UnknownUsers():
            return "UnknownUsers", list(outcome.ids)
        case StaleRev():
            return "StaleRev", outcome.current
        case StoreError():
            return type(outcome).__name__
    return outcome


async def _members_by_page(store: Store, conversation_id: UUID, user_id: UUID, limit: int) -> object:
    """Reads all pages of members, without positions, which differ between stores."""
    pages, after = [], 0
    while True:
        page = await store.page_members(conversation_id, user_id, limit=limit, after=after)
        pages.append(([(member.user, member.read_seq) for member in page.members], page.total))
        if page.next_after is None:
            return pages
        after = page.next_after


async def _conversations_by_page(store: Store, user_id: UUID, limit: int) -> object:
    """Reads all pages of conversations; which of one call's posts is the latest activity is not promised."""
    found: list[Conversation] = []
    sizes, before = [], None
    while True:
        page = await store.list_conversations(user_id, limit=limit, before=before)
        found += page.conversations
        sizes.append((len(page.conversations), page.total))
        before = page.next_before
        if before is None:
            return sorted(found, key=lambda conversation: conversation.id), sizes


async def _users_by_page(store: Store, prefix: str, limit: int) -> object:
    pages, after = [], None
    while True:
        page = await store.search_users(prefix, limit=limit, after=after)
        pages.append((page.users, page.total))
        after = page.next_after
        if after is None:
            return pages


async def _set_up(store: Store) -> None:
    for user_id, name in zip(_USERS[:3], ("Xenia", "yves", "Zoë"), strict=True):
        await store.create_user(User(user_id, name), password_hash="h1", subject=None, created_at=at(0))
    group = NewConversation(_CONVERSATIONS[0], "Team", None, True, _USERS[0], tuple(_USERS[:3]), at(0))
    await store.create_conversation(group)
    pair = NewConversation(_CONVERSATIONS[1], None, None, False, _USERS[1], (_USERS[1], _USERS[0]), at(0))
    await store.create_conversation(pair)


_COMMAND: dict[str, Any] = {"conversation_id": _CONVERSATIONS[0], "at": at(1)}


def _first_post(place: int) -> Post:
    home, sender = _CONVERSATIONS[place % 2], _USERS[place // 2 % 2]
    return Post(id=_MESSAGES[place], conversation_id=home, actor_id=sender, at=at(0), content="first")


# Random draws alone rarely succeed.
_FIRST: list[Operation] = [
    ("apply", ([RemoveMember(id=UUID(int=1), actor_id=_USERS[0], user_id=_USERS[2], **_COMMAND)],), {}),
    ("apply", ([AddMembers(id=UUID(int=2), actor_id=_USERS[1], user_ids=(_USERS[2],), limit=3, **_COMMAND)],), {}),
]
_FIRST_POSTS: Operation = ("apply", ([_first_post(place) for place in range(4)],), {})


def _prepare(drawn: list[Operation]) -> list[Operation]:
    """Gives each created object, and each command on a group, a unique id: the contract excludes duplicates.

    A "repeat" becomes an earlier command on a group, once more.
    """
    prepared: list[Operation] = []
    new_conversations, new_users = iter(_CONVERSATIONS[2:]), iter(_USERS[3:])
    repeatable = list(_FIRST)
    for number, (name, arguments, named) in enumerate(drawn):
        match name, arguments[0]:
            case "create_conversation", new:
                conversation_id = next(new_conversations, None)
                if conversation_id is not None:
                    prepared.append((name, (replace(new, id=conversation_id),), named))
            case "create_user", user:
                user_id = next(new_users, None)
                if user_id is not None:
                    prepared.append((name, (replace(user, id=user_id),), named))
            case "repeat", back:
                prepared.append(repeatable[-1 - back % len(repeatable)])
            case "apply", [AddMembers() | RemoveMember() | Leave() | SetProperties() as command]:
                prepared.append((name, ([replace(command, id=UUID(int=1_000 + number))],), named))
                repeatable.append(prepared[-1])
            case _:
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
                    for operation in [*_FIRST, _FIRST_POSTS, *_prepare(drawn)]:
                        expected = await _outcome(memory, operation)
                        assert await _outcome(postgres, operation) == expected, operation
                        met.update(_met(operation, expected))
                    everything = {"after_rev": 0, "limit": 99}
                    for conversation in _CONVERSATIONS:
                        last: Operation = ("changes", (conversation,), {**everything, "kinds": Kind.ALL})
                        assert await _outcome(postgres, last) == await _outcome(memory, last)
                    for user in _USERS:
                        last = ("user_changes", (user,), everything)
                        assert await _outcome(postgres, last) == await _outcome(memory, last)

        trio.run(main)

    compare()
    # The operations are useful only if some succeed and some fail.
    assert met >= {"mark_read", "members_by_page", "mark_seen", "acquaintances", "page_messages", "changes"}, met
    assert met >= {"Post", "Edit", "Delete", "AddMembers", "RemoveMember", "Leave", "SetProperties", "NotAMember"}, met


def _met(operation: Operation, outcome: object) -> set[str]:
    """Names what happened: operations and commands that succeeded, and errors."""
    name, arguments, _ = operation
    if name != "apply" or not isinstance(outcome, list):
        return {outcome if isinstance(outcome, str) else name}
    met = set()
    for command, each in zip(arguments[0], outcome, strict=True):
        match each:
            case str():
                met.add(each)
            case (str() as refusal, _):
                met.add(refusal)
            case tuple() if each:
                met.add(type(command).__name__)
    return met
