"""Tokens and passwords: what is not exactly right is refused, and nothing in a token can cause another error."""

import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import argon2
import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from pulse_trio.auth.tokens import (
    LONGEST_LIFETIME,
    TOKEN_MAX_CHARS,
    Authenticator,
    Claims,
    Identity,
    Passwords,
    Tokens,
    bearer_token,
)
from pulse_trio.errors import ErrorCode, LaunchError, PulseError
from pulse_trio.ids import IdSource
from pulse_trio.settings import Settings
from pulse_trio.store.base import User, UsernameTaken
from pulse_trio.store.memory import MemoryStore

SECRET = "K7#pq-vB2!x_Lm9Zt4&wRs8*Yd3@Nf6%" * 2
START = datetime(2026, 2, 4, 10, 30, tzinfo=UTC)
NOW = int(START.timestamp())
ALICE = User(UUID("0198c5b6-f8a3-7c1e-9d2e-4b5a6c7d8e9f"), "alice")

RSA_KEY = generate_private_key(65_537, 2_048)
OTHER_RSA_KEY = generate_private_key(65_537, 2_048)
ED_KEY = Ed25519PrivateKey.generate()


class FakeClock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def public_pem(key: RSAPrivateKey | Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def private_pem(key: RSAPrivateKey | Ed25519PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def make_tokens(clock: Callable[[], datetime] | None = None, **settings: Any) -> Tokens:
    settings = {"secret_key": SecretStr(SECRET), **settings}
    return Tokens(Settings.model_construct(**settings), clock or FakeClock())


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims, but for the changes; None takes one out."""
    payload = {"sub": str(ALICE.id), "iat": NOW, "exp": NOW + 3_600, **changes}
    return {name: value for name, value in payload.items() if value is not None}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(header: Any, payload: Any, key: str = SECRET, digest: str = "sha256") -> str:
    """A token signed with HMAC, whatever its header says; text stays as it is."""
    parts = [b64((part if isinstance(part, str) else json.dumps(part)).encode()) for part in (header, payload)]
    signed = ".".join(parts)
    return f"{signed}.{b64(hmac.new(key.encode(), signed.encode(), getattr(hashlib, digest)).digest())}"


def good(**changes: Any) -> str:
    return forge({"alg": "HS256", "typ": "JWT"}, claims(**changes))


def refusal(tokens: Tokens, token: str) -> str:
    with pytest.raises(PulseError) as caught:
        tokens.verify(token)
    assert caught.value.code is ErrorCode.INVALID_TOKEN
    assert caught.value.code.status == 401
    assert len(token) < 60 or token not in caught.value.message
    return caught.value.message


# --- made and checked ---


def test_a_token_says_whose_it_is_and_until_when() -> None:
    tokens = make_tokens(access_token_expire_minutes=5)
    token = tokens.issue(ALICE)
    assert tokens.verify(token) == Claims(str(ALICE.id), NOW + 300, None, signed_in=NOW)
    assert jwt.decode(token, options={"verify_signature": False}) == {
        "sub": str(ALICE.id),
        "iat": NOW,
        "exp": NOW + 300,
        "auth_time": NOW,
    }
    assert jwt.get_unverified_header(token)["alg"] == "HS256"


def test_a_token_ends_when_it_says() -> None:
    clock = FakeClock()
    tokens = make_tokens(clock, access_token_expire_minutes=1)
    token = tokens.issue(ALICE)
    clock.advance(59.9)
    tokens.verify(token)
    clock.advance(0.1)
    assert "expired" in refusal(tokens, token)


def test_issuer_and_audience_of_the_settings_are_in_a_token_and_required_of_it() -> None:
    tokens = make_tokens(token_issuer="https://id.example", token_audience="chat")
    token = tokens.issue(ALICE)
    tokens.verify(token)
    refusal(make_tokens(token_issuer="https://other.example", token_audience="chat"), token)
    refusal(make_tokens(token_issuer="https://id.example", token_audience="other"), token)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_each_hmac_algorithm_takes_its_own_tokens_only(algorithm: str) -> None:
    token = make_tokens(algorithm=algorithm).issue(ALICE)
    for other in ("HS256", "HS384", "HS512"):
        tokens = make_tokens(algorithm=other)
        if other == algorithm:
            tokens.verify(token)
        else:
            assert "algorithm" in refusal(tokens, token)


# --- signatures ---


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "NONE", "", None, 5, ["HS256"], "hs256", "HS256 "])
def test_another_algorithm_in_the_header_is_refused(algorithm: Any) -> None:
    signed = forge({"alg": algorithm, "typ": "JWT"}, claims())
    unsigned = signed.rsplit(".", 1)[0] + "."
    for token in (signed, unsigned):
        refusal(make_tokens(), token)


def test_no_algorithm_in_the_header_is_refused() -> None:
    refusal(make_tokens(), forge({"typ": "JWT"}, claims()))


@pytest.mark.parametrize(("algorithm", "digest"), [("HS384", "sha384"), ("HS512", "sha512")])
def test_a_right_signature_of_another_strength_is_refused(algorithm: str, digest: str) -> None:
    assert "algorithm" in refusal(make_tokens(), forge({"alg": algorithm}, claims(), digest=digest))


def test_a_public_key_is_no_hmac_secret() -> None:
    """Key confusion: RS256's public key, which everybody may know, as HS256's secret."""
    pem = public_pem(RSA_KEY)
    tokens = make_tokens(algorithm="RS256", public_key=pem)
    for key in (pem, pem.strip(), public_pem(RSA_KEY).replace("\n", "\r\n")):
        for algorithm in ("HS256", "RS256"):
            refusal(tokens, forge({"alg": algorithm}, claims(), key))


@pytest.mark.parametrize(
    "extra",
    [
        {"kid": "../../../../dev/null"},
        {"kid": "' UNION SELECT 'key"},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/cert"},
        {"jwk": {"kty": "oct", "k": b64(b"an attacker's key that is long enough")}},
        {"x5c": ["MIIB"]},
    ],
)
def test_keys_that_a_token_brings_along_are_not_used(extra: dict[str, Any]) -> None:
    header = {"alg": "HS256", **extra}
    assert "signature" in refusal(make_tokens(), forge(header, claims(), "an attacker's key that is long enough"))
    make_tokens().verify(forge(header, claims()))  # and they do no harm beside a right signature


@pytest.mark.parametrize("extra", [{"crit": ["exp"]}, {"crit": ["b64"], "b64": False}, {"crit": []}, {"crit": "b64"}])
def test_extensions_that_must_be_understood_are_refused(extra: dict[str, Any]) -> None:
    refusal(make_tokens(), forge({"alg": "HS256", **extra}, claims()))


def test_a_kid_that_is_no_text_is_refused() -> None:
    refusal(make_tokens(), forge({"alg": "HS256", "kid": {"a": 1}}, claims()))


def test_a_changed_token_is_refused() -> None:
    tokens = make_tokens()
    header, payload, signature = good().split(".")
    other = b64(json.dumps(claims(sub="somebody else")).encode())
    other_key = forge({"alg": "HS256"}, claims(), SECRET + "x")
    for token in (
        f"{header}.{other}.{signature}",
        f"{header}.{payload}.",
        f"{header}.{payload}",
        f"{header}.{payload}.{signature[:-4]}",
        f"{header}.{payload}.{signature[::-1]}",
        f"{header}.{payload}.{signature}.{signature}",
        f".{payload}.{signature}",
        f"{header}..{signature}",
        other_key,
    ):
        refusal(tokens, token)


def test_every_truncated_token_is_refused() -> None:
    tokens, token = make_tokens(), good()
    for length in range(len(token)):
        refusal(tokens, token[:length])


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_no_text_causes_any_other_error(text: str) -> None:
    refusal(make_tokens(), text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64"]), json_values),
    st.dictionaries(
        st.sampled_from(["sub", "exp", "iat", "nbf", "aud", "iss", "jti", "name", "preferred_username"]), json_values
    ),
)
def test_a_signed_token_of_any_content_is_taken_or_refused(header: dict[str, Any], payload: dict[str, Any]) -> None:
    for tokens in (make_tokens(), make_tokens(token_audience="chat", token_issuer="https://id.example")):
        for token in (forge({"alg": "HS256"}, payload), forge({"alg": "HS256", **header}, {**claims(), **payload})):
            with contextlib.suppress(PulseError):
                found = tokens.verify(token)
                assert isinstance(found.subject, str)
                assert NOW < found.expires <= NOW + LONGEST_LIFETIME


@pytest.mark.parametrize(
    "payload", ["", "null", "[]", "5", '"text"', "{", "{}", "[" * 5_000, '{"exp":' + "1" * 5_000 + "}"]
)
def test_a_signed_payload_that_is_no_set_of_claims_is_refused(payload: str) -> None:
    refusal(make_tokens(), forge({"alg": "HS256"}, payload))


def test_a_token_of_a_megabyte_is_refused_before_it_is_read() -> None:
    assert "too long" in refusal(make_tokens(), "a" * 1_000_000)
    assert "too long" in refusal(make_tokens(), good(name="x" * 1_000_000))
    assert "too long" in refusal(make_tokens(), "a" * (TOKEN_MAX_CHARS + 1))


# --- claims ---


@pytest.mark.parametrize("claim", ["exp", "sub"])
def test_a_claim_that_is_needed_must_be_there(claim: str) -> None:
    assert claim in refusal(make_tokens(), good(**{claim: None}))


@pytest.mark.parametrize(
    "value",
    [
        *("NaN", "Infinity", "-Infinity", "true", "false", '"4000000000"', "[4000000000]", "{}"),
        *("1e400", "1e30", "1e15", str(10**30), str(-(10**30)), str(2**63), "9" * 400, "-" + "9" * 400),
    ],
    ids=lambda value: value[:20],
)
@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
def test_a_time_that_is_none_is_refused(claim: str, value: str) -> None:
    payload = json.dumps(claims(**{claim: "VALUE"})).replace('"VALUE"', value)
    refusal(make_tokens(), forge({"alg": "HS256"}, payload))


@pytest.mark.parametrize("value", [-(10**30), -(10**400)], ids=["30 digits", "400 digits"])
@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_time_before_all_calendars_causes_no_other_error(claim: str, value: int) -> None:
    refusal(make_tokens(), good(**{claim: value}))


def test_a_time_may_have_a_fraction() -> None:
    assert make_tokens().verify(good(exp=NOW + 0.5, iat=NOW - 0.5)).expires == NOW + 0.5


def test_a_lifetime_of_more_than_ten_years_is_refused() -> None:
    make_tokens().verify(good(exp=NOW + LONGEST_LIFETIME))
    assert "too far away" in refusal(make_tokens(), good(exp=NOW + LONGEST_LIFETIME + 1))


@pytest.mark.parametrize("exp", [0, -1, NOW - 1, NOW])
def test_there_is_no_leeway_after_the_end(exp: int) -> None:
    assert "expired" in refusal(make_tokens(token_leeway=30), good(exp=exp))


@pytest.mark.parametrize("leeway", [0, 5, 30])
@pytest.mark.parametrize("claim", ["iat", "nbf"])
def test_a_token_of_the_future_is_taken_within_the_leeway(claim: str, leeway: int) -> None:
    clock = FakeClock()
    tokens = make_tokens(clock, token_leeway=leeway)
    tokens.verify(good(**{claim: NOW + leeway - 1}))
    tokens.verify(good(**{claim: NOW + leeway}))
    early = good(**{claim: NOW + leeway + 1})
    assert "not valid yet" in refusal(tokens, early)
    clock.advance(1)
    tokens.verify(early)


@pytest.mark.parametrize("subject", ["", "x" * 256, 5, True, [], {}, "a\x00b", "\ud800"])
def test_a_subject_that_cannot_be_one_is_refused(subject: Any) -> None:
    refusal(make_tokens(), good(sub=subject))


def test_a_subject_of_an_identity_provider_is_any_text() -> None:
    for subject in ("auth0|507f1f77bcf86cd799439020", "x" * 255, "Jörg"):
        assert make_tokens().verify(good(sub=subject)).subject == subject


@pytest.mark.parametrize("audience", ["other", "", ["other"], [], 5, None, {"chat": 1}, "CHAT", ["x", 5]])
def test_a_token_for_somebody_else_is_refused(audience: Any) -> None:
    refusal(make_tokens(token_audience="chat"), good(aud=audience))


def test_an_audience_may_be_one_of_several() -> None:
    tokens = make_tokens(token_audience="chat")
    tokens.verify(good(aud="chat"))
    tokens.verify(good(aud=["other", "chat"]))
    make_tokens().verify(good(aud="anything"))  # nobody asked


@pytest.mark.parametrize("issuer", ["https://evil.example", "https://id.example/", "", 5, ["https://id.example"], None])
def test_a_token_of_another_issuer_is_refused(issuer: Any) -> None:
    refusal(make_tokens(token_issuer="https://id.example"), good(iss=issuer))


def test_the_name_is_the_preferred_one() -> None:
    tokens = make_tokens()
    assert tokens.verify(good(preferred_username="al", name="Alice")).name == "al"
    assert tokens.verify(good(name="Alice")).name == "Alice"
    assert tokens.verify(good(preferred_username=5, name="Alice")).name == "Alice"
    assert tokens.verify(good(preferred_username="", name=["x"])).name is None


# --- key pairs ---


@pytest.mark.parametrize(("algorithm", "key"), [("RS256", RSA_KEY), ("EdDSA", ED_KEY)])
def test_tokens_of_an_identity_provider_are_taken(algorithm: str, key: Any) -> None:
    tokens = make_tokens(algorithm=algorithm, public_key=public_pem(key), secret_key=None)
    token = jwt.encode(claims(sub="auth0|5"), key, algorithm=algorithm, headers={"kid": "1"})
    assert tokens.verify(token).subject == "auth0|5"
    assert not tokens.can_issue
    with pytest.raises(PulseError) as caught:
        tokens.issue(ALICE)
    assert caught.value.code is ErrorCode.LOGIN_DISABLED
    header, payload, signature = token.split(".")
    refusal(tokens, f"{header}.{payload}.{signature[:-8]}AAAAAAAA")
    refusal(tokens, jwt.encode(claims(), SECRET, algorithm="HS256"))


def test_a_key_of_somebody_else_is_refused() -> None:
    tokens = make_tokens(algorithm="RS256", public_key=public_pem(RSA_KEY))
    refusal(tokens, jwt.encode(claims(), OTHER_RSA_KEY, algorithm="RS256"))
    for other in ("RS384", "RS512", "PS256"):
        assert "algorithm" in refusal(tokens, jwt.encode(claims(), RSA_KEY, algorithm=other))


@pytest.mark.parametrize(("algorithm", "key"), [("RS256", RSA_KEY), ("EdDSA", ED_KEY)])
def test_with_the_private_key_tokens_are_made_here(algorithm: str, key: Any, tmp_path: Path) -> None:
    public, private = tmp_path / "public.pem", tmp_path / "private.pem"
    public.write_text(public_pem(key))
    private.write_text(private_pem(key))
    for settings in (
        {"public_key": public_pem(key), "private_key": SecretStr(private_pem(key))},
        {"public_key": str(public), "private_key": SecretStr(str(private))},
    ):
        tokens = make_tokens(algorithm=algorithm, **settings)
        assert tokens.verify(tokens.issue(ALICE)).subject == str(ALICE.id)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"algorithm": "RS256", "public_key": public_pem(ED_KEY)}, "PULSE_PUBLIC_KEY does not fit"),
        ({"algorithm": "EdDSA", "public_key": public_pem(RSA_KEY)}, "PULSE_PUBLIC_KEY does not fit"),
        ({"algorithm": "RS256", "public_key": "/nowhere/key.pem"}, "PULSE_PUBLIC_KEY: the file cannot be read"),
        ({"algorithm": "RS256", "public_key": "-----BEGIN nonsense"}, "PULSE_PUBLIC_KEY is not a public key"),
        ({"algorithm": "RS256", "public_key": private_pem(RSA_KEY)}, "PULSE_PUBLIC_KEY is not a public key"),
        (
            {"algorithm": "RS256", "public_key": public_pem(RSA_KEY), "private_key": SecretStr(private_pem(ED_KEY))},
            "PULSE_PRIVATE_KEY does not fit",
        ),
        (
            {"algorithm": "RS256", "public_key": public_pem(RSA_KEY), "private_key": SecretStr(public_pem(RSA_KEY))},
            "PULSE_PRIVATE_KEY is not a private key",
        ),
        (
            {
                "algorithm": "RS256",
                "public_key": public_pem(RSA_KEY),
                "private_key": SecretStr(private_pem(OTHER_RSA_KEY)),
            },
            "PULSE_PRIVATE_KEY does not belong to PULSE_PUBLIC_KEY",
        ),
        ({"secret_key": None}, "SECRET_KEY is missing"),
    ],
)
def test_keys_that_do_not_fit_stop_the_start(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(LaunchError, match=words) as caught:
        make_tokens(**settings)
    assert "\n" not in str(caught.value)
    assert "BEGIN PRIVATE" not in str(caught.value)


def test_a_short_rsa_key_stops_the_start() -> None:
    with pytest.raises(LaunchError, match="at least 2048 bits"):
        make_tokens(algorithm="RS256", public_key=public_pem(generate_private_key(65_537, 1_024)))


# --- who it is ---


class Front:
    """An authenticator on a store in memory."""

    def __init__(self, *, provision_users: bool = False, store: MemoryStore | None = None) -> None:
        self.store = store or MemoryStore()
        clock = FakeClock()
        self.authenticator = Authenticator(
            make_tokens(clock), self.store, provision_users=provision_users, clock=clock, ids=IdSource(clock)
        )

    async def user(self, **changes: Any) -> User:
        found = await self.authenticator.authenticate(good(**changes))
        return getattr(found, "user", found)  # type: ignore[return-value]


async def test_a_token_finds_its_user() -> None:
    front = Front()
    await front.store.create_user(ALICE, password_hash=None, subject=None, created_at=START)
    assert await front.user() == ALICE


@pytest.mark.parametrize("token", [None, ""])
async def test_no_token_is_told_from_a_bad_one(token: str | None) -> None:
    with pytest.raises(PulseError) as caught:
        await Front().authenticator.authenticate(token)
    assert caught.value.code is ErrorCode.NOT_AUTHENTICATED


@pytest.mark.parametrize("subject", [str(ALICE.id), "auth0|5"])
async def test_a_user_who_does_not_exist_is_refused_unless_users_are_provisioned(subject: str) -> None:
    with pytest.raises(PulseError) as caught:
        await Front().user(sub=subject)
    assert caught.value.code is ErrorCode.INVALID_TOKEN
    assert (await Front(provision_users=True).user(sub=subject)).username == "user"


async def test_a_provisioned_user_is_the_same_the_next_time() -> None:
    front = Front(provision_users=True)
    user = await front.user(sub="auth0|5", preferred_username="Alice Smith")
    assert user.username == "Alice_Smith"
    assert await front.user(sub="auth0|5", preferred_username="Renamed") == user


async def test_a_name_that_is_taken_gets_a_number() -> None:
    front = Front(provision_users=True)
    names = [
        (await front.user(sub=f"s{n}", name=name)).username for n, name in enumerate(["Bob", "bob", "BOB", "ｂob"])
    ]
    assert names == ["Bob", "bob-2", "BOB-3", "bob-4"]
    long = [(await front.user(sub=f"l{n}", name="x" * 40)).username for n in range(3)]
    assert long == ["x" * 32, "x" * 30 + "-2", "x" * 30 + "-3"]
    nameless = [(await front.user(sub=f"n{n}", name="\N{WAVING HAND SIGN}")).username for n in range(2)]
    assert nameless == ["user", "user-2"]


async def test_one_user_is_made_of_many_first_requests_at_once() -> None:
    front = Front(provision_users=True)
    found: list[User] = []

    async def ask() -> None:
        found.append(await front.user(sub="auth0|5", name="Alice"))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
    assert len(set(found)) == 1
    assert (await front.store.search_users("", limit=10, offset=0))[1] == 1


async def test_when_every_name_is_taken_the_answer_is_a_refusal() -> None:
    class Full(MemoryStore):
        async def create_user(self, *arguments: Any, **options: Any) -> None:
            await trio.lowlevel.checkpoint()
            raise UsernameTaken

    with pytest.raises(PulseError) as caught:
        await Front(provision_users=True, store=Full()).user(sub="auth0|5")
    assert caught.value.code is ErrorCode.INVALID_TOKEN


async def test_an_ordinary_user_is_not_taken_over_by_a_provider_who_calls_somebody_by_their_name() -> None:
    front = Front(provision_users=True)
    await front.store.create_user(ALICE, password_hash="h", subject=None, created_at=START)
    other = await front.user(sub="auth0|5", preferred_username="alice")
    assert other.id != ALICE.id
    assert other.username == "alice-2"


# --- renewal ---


def identity_of(tokens: Tokens, token: str) -> Identity:
    claims = tokens.verify(token)
    return Identity(ALICE, claims.expires, claims.signed_in)


def payload_of(token: str) -> dict[str, Any]:
    payload: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return payload


def test_a_renewed_token_is_as_good_as_the_first_and_of_the_same_sign_in() -> None:
    clock = FakeClock()
    tokens = make_tokens(
        clock, access_token_expire_minutes=60, token_issuer="https://id.example", token_audience="chat"
    )
    token = tokens.issue(ALICE)
    for round_number in range(1, 4):
        clock.advance(45 * 60)
        now = NOW + round_number * 45 * 60
        token, seconds = tokens.renew(identity_of(tokens, token))
        assert seconds == 3_600
        payload = {"sub": str(ALICE.id), "iat": now, "exp": now + 3_600, "auth_time": NOW}
        assert payload_of(token) == {**payload, "iss": "https://id.example", "aud": "chat"}


def test_no_renewal_outlasts_the_sign_in() -> None:
    clock = FakeClock()
    tokens = make_tokens(clock, access_token_expire_minutes=60, sign_in_days=2)
    token = tokens.issue(ALICE)
    end = NOW + 2 * 86_400
    while payload_of(token)["exp"] < end:
        clock.advance(30 * 60)
        token, _ = tokens.renew(identity_of(tokens, token))
    assert clock.now.timestamp() == end - 3_600
    clock.advance(3_599)
    token, seconds = tokens.renew(identity_of(tokens, token))
    assert (seconds, payload_of(token)["exp"]) == (1, end)
    last = identity_of(tokens, token)
    clock.advance(1)
    with pytest.raises(PulseError, match="log in again") as caught:
        tokens.renew(last)
    assert caught.value.code is ErrorCode.INVALID_TOKEN


@pytest.mark.parametrize(
    ("changes", "signed_in"),
    [
        ({"auth_time": NOW - 100}, NOW - 100),
        ({}, NOW),  # of the same service before it kept the time
        ({"auth_time": None, "iat": None}, None),
        ({"auth_time": NOW + 5}, NOW + 5),
        ({"auth_time": NOW + 6}, None),
        *(({"auth_time": value}, None) for value in ("yesterday", True, [], float("1e300"), -1e300)),
    ],
)
def test_a_sign_in_counts_from_auth_time_else_from_iat(changes: dict[str, Any], signed_in: float | None) -> None:
    tokens = make_tokens()
    identity = identity_of(tokens, good(**changes))
    assert identity.signed_in == signed_in
    if signed_in is None:
        with pytest.raises(PulseError) as caught:
            tokens.renew(identity)
        assert caught.value.code is ErrorCode.INVALID_TOKEN
    else:
        assert payload_of(tokens.renew(identity)[0])["auth_time"] == signed_in


async def test_a_token_of_an_identity_provider_is_not_renewed() -> None:
    front = Front(provision_users=True)
    await front.store.create_user(ALICE, password_hash="h", subject=None, created_at=START)
    assert (await front.authenticator.authenticate(good())).signed_in == NOW
    assert (await front.authenticator.authenticate(good(sub="auth0|5"))).signed_in is None
    tokens = make_tokens(algorithm="RS256", public_key=public_pem(RSA_KEY))
    with pytest.raises(PulseError) as caught:
        tokens.renew(Identity(ALICE, NOW + 60.0, NOW))
    assert caught.value.code is ErrorCode.LOGIN_DISABLED


# --- passwords ---


async def test_a_password_is_hashed_with_argon2id_of_at_least_the_advised_parameters() -> None:
    with trio.fail_after(30):
        hashed = await Passwords(2).hash("correct horse battery staple")
    parameters = argon2.extract_parameters(hashed)
    assert hashed.startswith("$argon2id$")
    assert parameters.memory_cost >= 19_456
    assert parameters.time_cost >= 2
    assert parameters.salt_len >= 16
    assert parameters.hash_len >= 32


async def test_only_the_right_password_is_right() -> None:
    passwords = Passwords(2)
    with trio.fail_after(30):
        hashed = await passwords.hash("correct horse")
        assert await passwords.hash("correct horse") != hashed
        assert await passwords.check(hashed, "correct horse")
        for wrong in ("", "Correct horse", "correct horse ", "correct horse\x00"):
            assert not await passwords.check(hashed, wrong)
        assert not await passwords.check("not a hash", "correct horse")


async def test_an_unknown_user_costs_a_check_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the time of the answer tells which names exist."""
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


# --- the header ---


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (None, None),
        ("Bearer abc", "abc"),
        ("bearer abc", "abc"),
        ("BEARER   abc ", "abc"),
        ("Bearer", ""),
        ("Bearer ", ""),
        ("Basic abc", None),
        ("abc", None),
        ("", None),
        ("Bearerabc", None),
    ],
)
def test_the_token_of_an_authorization_header(header: str | None, token: str | None) -> None:
    assert bearer_token(header) == token
