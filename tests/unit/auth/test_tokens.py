"""Tokens: whatever is not exactly right is rejected, and nothing in a token can cause another error."""

import contextlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from pulse_trio.auth.keys import Keys
from pulse_trio.auth.tokens import MAX_LIFETIME, MAX_TOKEN_CHARS, Claims, Identity, Tokens, bearer_token
from pulse_trio.errors import ErrorCode, LaunchError, PulseError

from .samples import (
    ALICE,
    ED_KEY,
    NOW,
    OTHER_RSA_KEY,
    RSA_KEY,
    SECRET,
    FakeClock,
    b64,
    claims,
    forge,
    good,
    make_tokens,
    private_pem,
    public_pem,
)


def refusal(tokens: Tokens, token: str) -> str:
    with pytest.raises(PulseError) as caught:
        tokens.verify(token)
    assert caught.value.code is ErrorCode.INVALID_TOKEN
    assert caught.value.code.status == 401
    assert len(token) < 60 or token not in caught.value.message
    return caught.value.message


# --- made and checked ---


def test_a_token_has_a_user_and_an_end() -> None:
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


def test_a_token_expires() -> None:
    clock = FakeClock()
    tokens = make_tokens(clock, access_token_expire_minutes=1)
    token = tokens.issue(ALICE)
    clock.advance(59.9)
    tokens.verify(token)
    clock.advance(0.1)
    assert "expired" in refusal(tokens, token)


def test_issuer_and_audience_are_written_and_required() -> None:
    tokens = make_tokens(token_issuer="https://id.example", token_audience="chat")
    token = tokens.issue(ALICE)
    tokens.verify(token)
    refusal(make_tokens(token_issuer="https://other.example", token_audience="chat"), token)
    refusal(make_tokens(token_issuer="https://id.example", token_audience="other"), token)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_each_hmac_algorithm_accepts_only_its_own_tokens(algorithm: str) -> None:
    token = make_tokens(algorithm=algorithm).issue(ALICE)
    for other in ("HS256", "HS384", "HS512"):
        tokens = make_tokens(algorithm=other)
        if other == algorithm:
            tokens.verify(token)
        else:
            assert "algorithm" in refusal(tokens, token)


# --- signatures ---


@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "NONE", "", None, 5, ["HS256"], "hs256", "HS256 "])
def test_another_algorithm_in_the_header_is_rejected(algorithm: Any) -> None:
    signed = forge({"alg": algorithm, "typ": "JWT"}, claims())
    unsigned = signed.rsplit(".", 1)[0] + "."
    for token in (signed, unsigned):
        refusal(make_tokens(), token)


def test_a_header_without_algorithm_is_rejected() -> None:
    refusal(make_tokens(), forge({"typ": "JWT"}, claims()))


@pytest.mark.parametrize(("algorithm", "digest"), [("HS384", "sha384"), ("HS512", "sha512")])
def test_a_signature_of_another_strength_is_rejected(algorithm: str, digest: str) -> None:
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
def test_keys_inside_a_token_are_ignored(extra: dict[str, Any]) -> None:
    header = {"alg": "HS256", **extra}
    assert "signature" in refusal(make_tokens(), forge(header, claims(), "an attacker's key that is long enough"))
    make_tokens().verify(forge(header, claims()))  # and they do no harm beside a right signature


@pytest.mark.parametrize("extra", [{"crit": ["exp"]}, {"crit": ["b64"], "b64": False}, {"crit": []}, {"crit": "b64"}])
def test_critical_extensions_are_rejected(extra: dict[str, Any]) -> None:
    refusal(make_tokens(), forge({"alg": "HS256", **extra}, claims()))


def test_a_kid_that_is_no_string_is_rejected() -> None:
    refusal(make_tokens(), forge({"alg": "HS256", "kid": {"a": 1}}, claims()))


def test_a_changed_token_is_rejected() -> None:
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


def test_every_truncated_token_is_rejected() -> None:
    tokens, token = make_tokens(), good()
    for length in range(len(token)):
        refusal(tokens, token[:length])


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_no_text_causes_another_error(text: str) -> None:
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
def test_any_signed_payload_is_accepted_or_rejected(header: dict[str, Any], payload: dict[str, Any]) -> None:
    for tokens in (make_tokens(), make_tokens(token_audience="chat", token_issuer="https://id.example")):
        for token in (forge({"alg": "HS256"}, payload), forge({"alg": "HS256", **header}, {**claims(), **payload})):
            with contextlib.suppress(PulseError):
                found = tokens.verify(token)
                assert isinstance(found.subject, str)
                assert NOW < found.expires <= NOW + MAX_LIFETIME


@pytest.mark.parametrize(
    "payload", ["", "null", "[]", "5", '"text"', "{", "{}", "[" * 5_000, '{"exp":' + "1" * 5_000 + "}"]
)
def test_a_signed_payload_without_claims_is_rejected(payload: str) -> None:
    refusal(make_tokens(), forge({"alg": "HS256"}, payload))


def test_a_token_of_a_megabyte_is_rejected_unread() -> None:
    assert "too long" in refusal(make_tokens(), "a" * 1_000_000)
    assert "too long" in refusal(make_tokens(), good(name="x" * 1_000_000))
    assert "too long" in refusal(make_tokens(), "a" * (MAX_TOKEN_CHARS + 1))


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
    make_tokens().verify(good(exp=NOW + MAX_LIFETIME))
    assert "too far away" in refusal(make_tokens(), good(exp=NOW + MAX_LIFETIME + 1))


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
def test_a_malformed_subject_is_rejected(subject: Any) -> None:
    refusal(make_tokens(), good(sub=subject))


def test_a_providers_subject_may_be_any_text() -> None:
    for subject in ("auth0|507f1f77bcf86cd799439020", "x" * 255, "Jörg"):
        assert make_tokens().verify(good(sub=subject)).subject == subject


@pytest.mark.parametrize("audience", ["other", "", ["other"], [], 5, None, {"chat": 1}, "CHAT", ["x", 5]])
def test_a_token_for_somebody_else_is_refused(audience: Any) -> None:
    refusal(make_tokens(token_audience="chat"), good(aud=audience))


def test_an_audience_may_be_one_of_several() -> None:
    tokens = make_tokens(token_audience="chat")
    tokens.verify(good(aud="chat"))
    tokens.verify(good(aud=["other", "chat"]))


@pytest.mark.parametrize("audience", ["other", "", ["other"], [], 5, {"chat": 1}])
def test_without_an_own_audience_tokens_for_another_are_refused(audience: Any) -> None:
    """RFC 7519, section 4.1.3: who does not identify itself with a value of `aud` must reject the token."""
    assert "`aud`" in refusal(make_tokens(), good(aud=audience))
    payload = json.dumps({**claims(), "aud": None})
    assert "`aud`" in refusal(make_tokens(), forge({"alg": "HS256"}, payload))


def test_a_setting_accepts_tokens_for_any_audience() -> None:
    make_tokens(allow_any_audience=True).verify(good(aud="other"))
    refusal(make_tokens(allow_any_audience=True, token_audience="chat"), good(aud="other"))


@pytest.mark.parametrize("kind", ["refresh", "dpop+jwt", "id_token", "logout+jwt", "", 5, None, ["JWT"]])
def test_another_type_in_the_header_is_refused(kind: Any) -> None:
    assert "`typ`" in refusal(make_tokens(), forge({"alg": "HS256", "typ": kind}, claims()))


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt"])
def test_the_types_of_access_tokens_are_taken(kind: str) -> None:
    make_tokens().verify(forge({"alg": "HS256", "typ": kind}, claims()))


@pytest.mark.parametrize("use", ["ID", "Refresh", "Offline", "Logout", 5])
def test_a_token_for_another_use_is_refused(use: Any) -> None:
    """As Keycloak marks ID and refresh tokens, in a claim."""
    assert "`typ`" in refusal(make_tokens(), good(typ=use))
    make_tokens().verify(good(typ="Bearer"))


@pytest.mark.parametrize("name", ["zip", "cty"])
def test_a_header_that_changes_the_payload_is_refused(name: str) -> None:
    assert f"`{name}`" in refusal(make_tokens(), forge({"alg": "HS256", name: "DEF"}, claims()))


@pytest.mark.parametrize("claim", ["sub", "jti"])
def test_a_claim_that_is_no_text_is_named(claim: str) -> None:
    assert f"`{claim}`" in refusal(make_tokens(), good(**{claim: 5}))


def test_the_claim_that_is_wrong_is_named() -> None:
    assert "`exp`" in refusal(make_tokens(), good(exp=NOW))
    assert "`nbf`" in refusal(make_tokens(), good(nbf=NOW + 60))
    assert "`iss`" in refusal(make_tokens(token_issuer="https://id.example"), good(iss="https://other.example"))
    assert "`aud`" in refusal(make_tokens(token_audience="chat"), good(aud="other"))


TWO_ALGORITHMS = b'{"alg": "HS256", "alg": "HS256"}'


def sign(signed: str) -> str:
    return f"{signed}.{b64(hmac.new(SECRET.encode(), signed.encode(), 'sha256').digest())}"


def other_texts(token: str) -> Iterator[tuple[str, str]]:
    """Yields tokens that a lax reader takes for this one, which is signed with the right key."""
    header, payload, signature = token.split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    yield "padding", token + "="
    yield "white space", token + "\n"
    yield "white space inside", f"{header}.{payload}.{signature[:9]} {signature[9:]}"
    yield "the other alphabet", f"{header}.{payload}.{signature.replace('-', '+').replace('_', '/')}"
    # 43 characters have 258 bits, and the signature 256: the last two are free.
    yield "free bits", f"{header}.{payload}.{signature[:-1]}{alphabet[alphabet.index(signature[-1]) + 1]}"
    text = json.dumps(claims())
    for name, data in (
        ("byte order mark", b"\xef\xbb\xbf" + text.encode()),
        ("UTF-16", text.encode("utf-16")),
        ("repeated name", text[:-1].encode() + b', "sub": "other"}'),
        ("not a number", text[:-1].encode() + b', "x": NaN}'),
    ):
        yield name, sign(f"{header}.{b64(data)}")
    yield "repeated name in the header", sign(f"{b64(TWO_ALGORITHMS)}.{payload}")
    yield "padding that is signed", sign(f"{header}=.{payload}")


def test_a_token_has_one_text() -> None:
    """So that its text may stand for it, in a list of what was revoked, say."""
    token = next(t for t in (good(name=f"n{number}") for number in range(200)) if {"-", "_"} & set(t.split(".")[2]))
    make_tokens().verify(token)
    for name, other in other_texts(token):
        assert other != token, name
        assert "cannot be read" in refusal(make_tokens(), other), name


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
def test_tokens_of_an_identity_provider_are_accepted(algorithm: str, key: Any) -> None:
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


def test_a_token_signed_with_another_key_is_rejected() -> None:
    tokens = make_tokens(algorithm="RS256", public_key=public_pem(RSA_KEY))
    refusal(tokens, jwt.encode(claims(), OTHER_RSA_KEY, algorithm="RS256"))
    for other in ("RS384", "RS512", "PS256"):
        assert "algorithm" in refusal(tokens, jwt.encode(claims(), RSA_KEY, algorithm=other))


@pytest.mark.parametrize(("algorithm", "key"), [("RS256", RSA_KEY), ("EdDSA", ED_KEY)])
def test_the_private_key_issues_tokens(algorithm: str, key: Any, tmp_path: Path) -> None:
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
        ({"secret_key": SecretStr(public_pem(RSA_KEY))}, "SECRET_KEY does not fit ALGORITHM=HS256"),
    ],
)
def test_unfit_keys_stop_the_start(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(LaunchError, match=words) as caught:
        make_tokens(**settings)
    assert "\n" not in str(caught.value)
    assert "BEGIN PRIVATE" not in str(caught.value)


def test_a_short_rsa_key_stops_the_start() -> None:
    with pytest.raises(LaunchError, match="at least 2048 bits"):
        make_tokens(algorithm="RS256", public_key=public_pem(generate_private_key(65_537, 1_024)))


# --- renewal ---


def identity_of(tokens: Tokens, token: str) -> Identity:
    claims = tokens.verify(token)
    return Identity(ALICE, claims.expires, claims.signed_in)


def payload_of(token: str) -> dict[str, Any]:
    payload: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return payload


def test_a_renewed_token_belongs_to_the_same_login() -> None:
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
def test_a_login_counts_from_auth_time_else_from_iat(changes: dict[str, Any], signed_in: float | None) -> None:
    tokens = make_tokens()
    identity = identity_of(tokens, good(**changes))
    assert identity.signed_in == signed_in
    if signed_in is None:
        with pytest.raises(PulseError) as caught:
            tokens.renew(identity)
        assert caught.value.code is ErrorCode.INVALID_TOKEN
    else:
        assert payload_of(tokens.renew(identity)[0])["auth_time"] == signed_in


def test_a_token_of_an_identity_provider_is_not_renewed() -> None:
    tokens = make_tokens(algorithm="RS256", public_key=public_pem(RSA_KEY))
    with pytest.raises(PulseError) as caught:
        tokens.renew(Identity(ALICE, NOW + 60.0, NOW))
    assert caught.value.code is ErrorCode.LOGIN_DISABLED


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
def test_bearer_tokens_are_read_from_the_header(header: str | None, token: str | None) -> None:
    assert bearer_token(header) == token


def test_keys_are_not_shown() -> None:
    assert "a secret" not in repr(Keys(verify="a secret", sign="a secret"))
