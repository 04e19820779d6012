"""Tokens renewed over REST, on the real process."""

import time
from collections.abc import Callable

import jwt
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support.client import Api, Person
from tests.support.server import SECRET, Server

RENEW = "/api/auth/renew"
DAY = 86_400


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_token_is_changed_for_a_new_one_that_keeps_a_connection(server: Server) -> None:
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        first = jwt.decode(alice.token, SECRET, algorithms=["HS256"])
        renewed = await alice.api.post(RENEW)
        assert renewed.status_code == 200, renewed.text
        assert set(renewed.json()) == {"access_token", "token_type", "expires_in"}
        assert (renewed.json()["token_type"], renewed.json()["expires_in"]) == ("bearer", 3_600)
        second = jwt.decode(renewed.json()["access_token"], SECRET, algorithms=["HS256"])
        assert (second["sub"], second["auth_time"]) == (alice.id, first["iat"])
        assert (await alice.api.get("/api/auth/me", headers=bearer(renewed.json()["access_token"]))).status_code == 200
        # The old one is not ended by it.
        assert (await alice.api.get("/api/auth/me")).status_code == 200
        async with alice.session() as chat:
            await chat.send({"type": "auth", "token": renewed.json()["access_token"]})
            assert (await chat.receive_type("auth"))["expires_in"] > 3_500


async def test_the_sign_in_ends_on_its_day_and_no_token_lasts_beyond(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_SIGN_IN_DAYS="2")
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")

        async def renew(**claims: float) -> tuple[int, dict[str, object]]:
            payload = {"sub": alice.id, "exp": time.time() + 600, **claims}
            answer = await Api(server.base_url, bearer(jwt.encode(payload, SECRET, algorithm="HS256"))).post(RENEW)
            return answer.status_code, answer.json()

        now = int(time.time())
        status, body = await renew(auth_time=now - 2 * DAY + 60)
        assert status == 200
        assert 0 < int(str(body["expires_in"])) <= 60
        for claims in ({"auth_time": now - 2 * DAY}, {"iat": now - 2 * DAY}, {}):
            status, body = await renew(**claims)
            assert (status, body["code"]) == (401, "invalid_token"), claims
        # What has ended is renewed by nobody.
        status, body = await renew(auth_time=now, exp=now - 1)
        assert (status, body["code"]) == (401, "invalid_token")


async def test_an_identity_providers_tokens_are_not_renewed(start_server: Callable[..., Server]) -> None:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    provider = {
        "ALGORITHM": "EdDSA",
        "PULSE_PUBLIC_KEY": public,
        "PULSE_PROVISION_USERS": "true",
        "PULSE_TOKEN_ISSUER": "https://id.example",
        "PULSE_TOKEN_AUDIENCE": "chat",
    }
    now = time.time()
    claims = {"sub": "auth0|5", "iss": "https://id.example", "aud": "chat"}
    token = jwt.encode({**claims, "iat": now, "auth_time": now, "exp": now + 600}, key, algorithm="EdDSA")
    with trio.fail_after(90):
        server = start_server(**provider)
        refused = await Api(server.base_url, bearer(token)).post(RENEW)
        assert (refused.status_code, refused.json()["code"]) == (403, "login_disabled")
        server.stop()
        # Also of a service that gives out tokens itself.
        server = start_server(**provider, PULSE_PRIVATE_KEY=private)
        refused = await Api(server.base_url, bearer(token)).post(RENEW)
        assert (refused.status_code, refused.json()["code"]) == (401, "invalid_token")
        assert (await (await Person.register(server.base_url, "alice")).api.post(RENEW)).status_code == 200


async def test_renewals_of_a_user_are_limited(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_RENEWALS_PER_USER="2")
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        bob = await Person.register(server.base_url, "bob")
        answers = [await alice.api.post(RENEW) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].json()["code"] == "rate_limited"
        assert int(answers[2].headers["Retry-After"]) > 0
        assert (await bob.api.post(RENEW)).status_code == 200
