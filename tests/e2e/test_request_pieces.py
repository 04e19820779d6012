"""Requests that arrive in very many pieces: bounded for a connection and for an address, on the real process."""

from collections.abc import Callable

import pytest
import trio

from tests.support.client import Person
from tests.support.raw import Answer, RawClient, open_raw
from tests.support.server import Server

Start = Callable[..., Server]
HEAD = (
    "POST /api/auth/login HTTP/1.1\r\nHost: chat.example\r\nContent-Type: application/json\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
)


def chunks(body: bytes, size: int = 1) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


async def pour(client: RawClient, data: bytes) -> None:
    """Sends all, or as much as the server takes before it ends the connection."""
    for at in range(0, len(data), 1_000):
        if not await client.send_some(data[at : at + 1_000]):
            return


async def answer_to(client: RawClient, data: bytes) -> Answer:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour, client, data)
        answer = await client.read_answer()
        nursery.cancel_scope.cancel()
    return answer


def assert_limited(answer: Answer) -> None:
    assert (answer.status, answer.json()["code"]) == (429, "rate_limited")
    assert int(answer.headers["retry-after"]) > 0


async def test_a_body_in_too_many_chunks_is_answered_and_its_connection_ends(start_server: Start) -> None:
    server = start_server(PULSE_PIECES_PER_SECOND="10", PULSE_PIECES_BURST="500")
    with trio.fail_after(60):
        await Person.register(server.base_url, "alice")
        body = b'{"username": "alice", "password": "' + b"x" * 200 + b'"}'
        async with open_raw(server.port) as client:
            assert (await answer_to(client, HEAD.encode() + chunks(body))).status == 401, "a few hundred are allowed"
            answer = await answer_to(client, HEAD.encode() + chunks(b" " * 10_000))
            assert_limited(answer)
            await client.wait_gone()
        async with open_raw(server.port) as client:
            assert (await answer_to(client, HEAD.encode() + chunks(body, 64))).status == 401


@pytest.mark.parametrize("begin", ["GET /healthz HTTP/1.1\r\nX-Long: ", HEAD + "5;"], ids=["a head", "a chunk"])
async def test_a_request_that_comes_byte_by_byte_is_answered_and_cut(start_server: Start, begin: str) -> None:
    server = start_server(PULSE_PIECES_PER_SECOND="1", PULSE_PIECES_BURST="100")
    with trio.fail_after(60):
        async with open_raw(server.port) as client, trio.open_nursery() as nursery:
            await client.send(begin.encode())

            async def drip() -> None:
                # As fast as the server reads: several bytes may still arrive as one piece.
                while await client.send_some(b"x"):
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(drip)
            assert_limited(await client.read_answer())
            nursery.cancel_scope.cancel()


async def test_pieces_count_as_requests_of_their_address(start_server: Start) -> None:
    """A new connection brings no new pieces; another address is served."""
    server = start_server(PULSE_REQUESTS_PER_SECOND="1", PULSE_REQUESTS_BURST="100", PULSE_CONNECTIONS_PER_ADDRESS="0")
    body = b'{"username": "alice", "password": "' + b"x" * 200 + b'"}'  # more than 200 pieces
    with trio.fail_after(60):
        statuses = []
        for _ in range(30):
            async with open_raw(server.port, address="127.0.0.2") as client:
                statuses.append((await answer_to(client, HEAD.encode() + chunks(body))).status)
        assert statuses[:6] == [401] * 6
        assert statuses[-1] == 429
        assert statuses.count(401) < 15
        async with open_raw(server.port, address="127.0.0.3") as client:
            assert (await client.request(b"GET /healthz HTTP/1.1\r\nHost: chat.example\r\n\r\n")).status == 200
