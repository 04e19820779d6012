"""Accounts over REST on the real process: register, log in, search users, tokens of an identity provider."""

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import argon2
import jwt
import psycopg
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support.client import PASSWORD, Api, Person
from tests.support.server import SECRET, Server

REGISTER, LOGIN = "/api/auth/register", "/api/auth/login"


def credentials(username: str, password: str = PASSWORD) -> dict[str, str]:
    return {"username": username, "password": password}


async def test_a_login_token_names_its_user_and_lifetime(server: Server) -> None:
    with trio.fail_after(60):
        api = Api(server.base_url)
        made = await api.post(REGISTER, json=credentials("Ada.Lovelace-1"))
        assert made.status_code == 201
        assert set(made.json()) == {"id", "username"}
        assert made.json()["username"] == "Ada.Lovelace-1"
        user_id = made.json()["id"]
        assert UUID(user_id).version == 7

        before = time.time()
        let_in = await api.post(LOGIN, json=credentials("Ada.Lovelace-1"))
        assert let_in.status_code == 200
        assert set(let_in.json()) == {"access_token", "token_type", "expires_in"}
        assert let_in.json()["token_type"] == "bearer"
        assert let_in.json()["expires_in"] == 3_600
        claims = jwt.decode(let_in.json()["access_token"], SECRET, algorithms=["HS256"])
        assert claims["sub"] == user_id
        assert claims["exp"] - claims["iat"] == 3_600
        assert before - 2 <= claims["iat"] <= time.time() + 2

        me = await api.get("/api/auth/me", headers={"Authorization": f"Bearer {let_in.json()['access_token']}"})
        assert (me.status_code, me.json()) == (200, made.json())


async def test_the_settings_set_the_lifetime_of_a_token(start_server: Callable[..., Server]) -> None:
    server = start_server(ACCESS_TOKEN_EXPIRE_MINUTES="7")
    with trio.fail_after(60):
        api = Api(server.base_url)
        assert (await api.post(REGISTER, json=credentials("ada"))).status_code == 201
        let_in = (await api.post(LOGIN, json=credentials("ada"))).json()
        claims = jwt.decode(let_in["access_token"], SECRET, algorithms=["HS256"])
        assert let_in["expires_in"] == claims["exp"] - claims["iat"] == 420


async def test_usernames_are_unique_in_every_case_and_form(server: Server) -> None:
    with trio.fail_after(60):
        api = Api(server.base_url)
        for name in ("Alice", "strasse", "\N{LATIN SMALL LETTER E WITH ACUTE}mile"):
            assert (await api.post(REGISTER, json=credentials(name))).status_code == 201
        twins = ["alice", "ALICE", "aLiCe", "STRASSE", "stra\N{LATIN SMALL LETTER SHARP S}e"]
        twins.append("\N{LATIN CAPITAL LETTER E WITH ACUTE}MILE")
        for twin in twins:
            refused = await api.post(REGISTER, json=credentials(twin))
            assert refused.status_code == 409, twin
            assert (refused.json()["code"], refused.json()["field"]) == ("username_taken", "username")
        # Names that are not in normal form are rejected for that.
        for twin in (
            "\N{FULLWIDTH LATIN SMALL LETTER A}lice",
            "e\N{COMBINING ACUTE ACCENT}mile",
            "\N{LATIN SMALL LIGATURE FI}x",
        ):
            refused = await api.post(REGISTER, json=credentials(twin))
            assert (refused.status_code, refused.json()["field"]) == (422, "username"), twin
        # A login accepts the name in any case and form.
        for same in ("ALICE", "\N{FULLWIDTH LATIN SMALL LETTER A}lice"):
            assert (await api.post(LOGIN, json=credentials(same))).status_code == 200, same


async def test_one_of_many_parallel_registrations_gets_the_name(server: Server) -> None:
    statuses: list[int] = []
    with trio.fail_after(60):

        async def register(name: str) -> None:
            statuses.append((await Api(server.base_url).post(REGISTER, json=credentials(name))).status_code)

        async with trio.open_nursery() as nursery:
            for name in ("neo", "Neo", "nEo", "neO", "NEO", "neo"):
                nursery.start_soon(register, name)
    assert sorted(statuses) == [201, 409, 409, 409, 409, 409]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"username": "", "password": PASSWORD}, "username"),
        ({"username": "x" * 33, "password": PASSWORD}, "username"),
        ({"username": "with space", "password": PASSWORD}, "username"),
        ({"username": "<b>", "password": PASSWORD}, "username"),
        ({"username": "-dash", "password": PASSWORD}, "username"),
        ({"username": "\N{CYRILLIC SMALL LETTER A}dmin", "password": PASSWORD}, "username"),
        ({"username": "a\N{ZERO WIDTH SPACE}b", "password": PASSWORD}, "username"),
        ({"username": 7, "password": PASSWORD}, "username"),
        ({"username": None, "password": PASSWORD}, "username"),
        ({"username": ["a"], "password": PASSWORD}, "username"),
        ({"password": PASSWORD}, "username"),
        ({"username": "ada"}, "password"),
        ({"username": "ada", "password": "short"}, "password"),
        ({"username": "ada", "password": "x" * 257}, "password"),
        ({"username": "ada", "password": {}}, "password"),
    ],
)
async def test_registration_names_the_invalid_field(shared: Server, body: object, field: str) -> None:
    with trio.fail_after(30):
        refused = await Api(shared.base_url).post(REGISTER, json=body)
        assert refused.status_code == 422
        assert set(refused.json()) == {"code", "message", "field"}
        assert (refused.json()["code"], refused.json()["field"]) == ("invalid_field", field)


async def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(shared: Server) -> None:
    with trio.fail_after(60):
        api = Api(shared.base_url)
        await Person.register(shared.base_url, "known")
        wrong = await api.post(LOGIN, json=credentials("known", "not the password"))
        unknown = await api.post(LOGIN, json=credentials("unknown", "not the password"))
        # Nobody can register this name, so an answer before the password check reveals nothing.
        impossible = await api.post(LOGIN, json=credentials("no such name!", ""))
        for answer in (wrong, unknown, impossible):
            assert answer.status_code == 401
            assert answer.content == wrong.content
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            names = sorted(name for name, _ in answer.headers.items())
            assert names == sorted(name for name, _ in wrong.headers.items())
        assert wrong.json()["code"] == "invalid_credentials"


@pytest.mark.parametrize(("size", "statuses"), [(1_000_000, {413}), (60_000, {422}), (257, {422})])
@pytest.mark.parametrize("path", [REGISTER, LOGIN])
async def test_a_huge_password_is_rejected_before_it_is_hashed(
    shared: Server, path: str, size: int, statuses: set[int]
) -> None:
    with trio.fail_after(30):
        refused = await Api(shared.base_url).post(path, json=credentials("ada", "p" * size))
        assert refused.status_code in statuses
        assert refused.json()["code"] in {"too_large", "invalid_field"}
        assert "ppp" not in refused.text


async def test_a_password_may_have_any_character_and_is_stored_as_argon2id(server: Server, database: str) -> None:
    password = "пароль \N{PILE OF POO}\t'\"; DROP TABLE users; --"
    with trio.fail_after(60):
        await Person.register(server.base_url, "ada", password)
        near = await Api(server.base_url).post(LOGIN, json=credentials("ada", password + " "))
        assert near.status_code == 401
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT password_hash FROM users").fetchall()
    assert [row[0].split("$")[1] for row in rows] == ["argon2id"]


async def test_a_hash_of_weaker_parameters_is_replaced_at_the_next_login(server: Server, database: str) -> None:
    password = "a password from before"
    weaker = argon2.PasswordHasher(time_cost=1, memory_cost=8_192, parallelism=1).hash(password)

    def stored() -> str:
        with psycopg.connect(database) as connection:
            (row,) = connection.execute("SELECT password_hash FROM users WHERE username = 'ada'").fetchall()
        return str(row[0])

    with trio.fail_after(60):
        await Person.register(server.base_url, "ada")
        with psycopg.connect(database) as connection:
            connection.execute("UPDATE users SET password_hash = %s WHERE username = 'ada'", (weaker,))
        api = Api(server.base_url)
        assert (await api.post(LOGIN, json=credentials("ada", "not the password"))).status_code == 401
        assert stored() == weaker, "only who knows the password"
        assert (await api.post(LOGIN, json=credentials("ada", password))).status_code == 200
        replaced = stored()
        parameters = argon2.extract_parameters(replaced)
        assert parameters.memory_cost >= 19_456
        assert parameters.time_cost >= 2
        # The password is the same, and its new hash is not replaced again.
        assert (await api.post(LOGIN, json=credentials("ada", password))).status_code == 200
        assert stored() == replaced


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic YTpi", "Bearer a.b.c", "Token x", "Bearer \xff"])
async def test_me_requires_a_valid_token(shared: Server, header: str | None) -> None:
    with trio.fail_after(30):
        headers = {} if header is None else {"Authorization": header.encode("latin-1")}
        refused = await Api(shared.base_url).get("/api/auth/me", headers=headers)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert refused.json()["code"] in {"not_authenticated", "invalid_token"}


async def test_rest_ignores_a_token_in_the_query_string(shared: Server) -> None:
    with trio.fail_after(30):
        person = await Person.register(shared.base_url, "querytoken")
        refused = await Api(shared.base_url).get("/api/auth/me", params={"token": person.token})
        assert refused.status_code == 401


async def test_users_are_found_by_the_beginning_of_their_name_in_pages(server: Server) -> None:
    with trio.fail_after(60):
        people = [await Person.register(server.base_url, name) for name in ("Anna", "anton", "ANNE", "bert", "a_b")]
        api = people[0].api

        async def search(**query: object) -> dict[str, Any]:
            found = await api.get("/api/users", params=query)
            assert found.status_code == 200, found.text
            assert set(found.json()) == {"users", "total", "is_total_exact", "limit", "offset", "next_cursor"}
            result: dict[str, Any] = found.json()
            return result

        found = await search(query="aN")
        assert [user["username"] for user in found["users"]] == ["Anna", "ANNE", "anton"]
        assert (found["total"], found["limit"], found["offset"]) == (3, 50, 0)
        assert all(set(user) == {"id", "username"} for user in found["users"])
        page = await search(query="aN", limit=1, offset=1)
        assert [user["username"] for user in page["users"]] == ["ANNE"]
        assert (page["total"], page["limit"], page["offset"]) == (3, 1, 1)
        assert (await search())["total"] == 5
        # The wildcards of SQL's LIKE are ordinary characters.
        assert [user["username"] for user in (await search(query="a_"))["users"]] == ["a_b"]
        for nothing in ("%", "_", "\\", "a%", "' OR 1=1 --", "nn"):
            assert (await search(query=nothing))["users"] == [], nothing
        assert (await Api(server.base_url).get("/api/users")).status_code == 401


def key_pair(algorithm: str) -> tuple[str, str]:
    """Returns a private and a public key in PEM form."""
    key = generate_private_key(65_537, 2_048) if algorithm == "RS256" else Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return private, public


PROVIDER = {"PULSE_TOKEN_ISSUER": "https://id.example", "PULSE_TOKEN_AUDIENCE": "chat"}


def foreign_token(private: str, algorithm: str, **claims: object) -> str:
    """Returns a token as an identity provider issues it."""
    now = int(time.time())
    given = {"iss": "https://id.example", "aud": "chat", "iat": now, "exp": now + 600, **claims}
    return jwt.encode(given, private, algorithm=algorithm)


def with_token(server: Server, token: str) -> Api:
    return Api(server.base_url, {"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize("algorithm", ["RS256", "EdDSA"])
async def test_tokens_of_an_identity_provider_create_users_if_enabled(
    start_server: Callable[..., Server], algorithm: str
) -> None:
    private, public = key_pair(algorithm)
    server = start_server(ALGORITHM=algorithm, PULSE_PUBLIC_KEY=public, PULSE_PROVISION_USERS="true", **PROVIDER)
    with trio.fail_after(60):
        for path in (REGISTER, LOGIN):
            off = await Api(server.base_url).post(path, json=credentials("ada"))
            assert (off.status_code, off.json()["code"]) == (403, "login_disabled")
            # An invalid body gets an error of the same shape.
            assert set((await Api(server.base_url).post(path, json={})).json()) >= {"code", "message"}

        ada = foreign_token(private, algorithm, sub="idp|ada", preferred_username="ada", name="Ada L.")
        first = await with_token(server, ada).get("/api/auth/me")
        assert (first.status_code, first.json()["username"]) == (200, "ada")
        again = foreign_token(private, algorithm, sub="idp|ada", preferred_username="renamed there")
        assert (await with_token(server, again).get("/api/auth/me")).json() == first.json()
        grace = foreign_token(private, algorithm, sub=str(uuid4()), name="grace")
        assert (await with_token(server, grace).get("/api/auth/me")).json()["username"] == "grace"

        # Both users can exchange messages.
        other = (await with_token(server, grace).get("/api/auth/me")).json()["id"]
        made = await with_token(server, ada).post("/api/chat/conversations", json={"participant_ids": [other]})
        assert made.status_code == 201

        stranger_private, _ = key_pair(algorithm)
        forged = foreign_token(stranger_private, algorithm, sub="idp|ada")
        by_secret = foreign_token(SECRET, "HS256", sub="idp|ada")
        late = foreign_token(private, algorithm, sub="idp|ada", exp=int(time.time()) - 60)
        elsewhere = foreign_token(private, algorithm, sub="idp|ada", aud="wiki")
        other_issuer = foreign_token(private, algorithm, sub="idp|ada", iss="https://other.example")
        for wrong in (forged, by_secret, late, elsewhere, other_issuer):
            refused = await with_token(server, wrong).get("/api/auth/me")
            assert (refused.status_code, refused.json()["code"]) == (401, "invalid_token")


@pytest.mark.parametrize("algorithm", ["RS256", "EdDSA"])
async def test_an_unknown_foreign_user_is_rejected_without_provisioning(
    start_server: Callable[..., Server], algorithm: str
) -> None:
    private, public = key_pair(algorithm)
    server = start_server(ALGORITHM=algorithm, PULSE_PUBLIC_KEY=public, **PROVIDER)
    with trio.fail_after(60):
        token = foreign_token(private, algorithm, sub="idp|ada", preferred_username="ada")
        refused = await with_token(server, token).get("/api/auth/me")
        assert (refused.status_code, refused.json()["code"]) == (401, "invalid_token")


async def test_with_the_private_key_the_service_issues_tokens(
    start_server: Callable[..., Server],
) -> None:
    private, public = key_pair("EdDSA")
    server = start_server(ALGORITHM="EdDSA", PULSE_PUBLIC_KEY=public, PULSE_PRIVATE_KEY=private)
    with trio.fail_after(60):
        person = await Person.register(server.base_url, "ada")
        assert jwt.decode(person.token, public, algorithms=["EdDSA"])["sub"] == person.id
        assert (await person.api.get("/api/auth/me")).json() == {"id": person.id, "username": "ada"}


@pytest.fixture(scope="module")
def shared(cluster: Any) -> Any:
    """A server for tests that leave nothing behind that affects others."""
    server = Server({"DATABASE_URL": cluster.new_database()})
    try:
        yield server.wait_ready()
    finally:
        server.stop()
