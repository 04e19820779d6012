"""Answers without the framework: one id for a request, however often its answer is made."""

from typing import Any

import pytest
from structlog.contextvars import get_contextvars

from pulse_trio.edge.server.plain_responses import Asked, PlainResponses
from pulse_trio.edge.server.websocket_handshake import EARLY_DATA, error_response
from pulse_trio.edge.tracing import begin_request, end_request
from pulse_trio.errors import PulseError
from pulse_trio.settings import Settings


@pytest.mark.parametrize("given", [[], [(b"x-request-id", b"mine")]], ids=["none", "given"])
@pytest.mark.parametrize("error", [None, EARLY_DATA], ids=["no handshake", "early data"])
async def test_the_answer_to_a_handshake_has_the_id_of_its_request(given: Any, error: PulseError | None) -> None:
    headers = [(b"host", b"chat.example"), *given]
    asked = Asked.of(headers)
    made, _ = error_response(400, headers, PlainResponses(Settings()), error)
    assert dict(made)[b"x-request-id"].decode() == asked.request_id
    assert get_contextvars()["request_id"] == asked.request_id, "of its lines in the log"
    assert begin_request([]) == asked.request_id, "of the application"


async def test_the_next_request_of_a_connection_has_another_id() -> None:
    first = Asked.of([])
    end_request()
    assert "request_id" not in get_contextvars()
    assert Asked.of([]).request_id != first.request_id
