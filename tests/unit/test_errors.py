"""The table of errors: codes and sentences."""

import re

import pytest

from pulse_trio.errors import ErrorCode, PulseError, too_many


def test_codes_are_unique() -> None:
    assert len({code.code for code in ErrorCode}) == len(ErrorCode)


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.code)
def test_each_code_has_a_status_and_a_sentence(code: ErrorCode) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code.code)
    assert 400 <= code.status < 600
    assert code.sentence[0].isupper()
    assert not code.sentence.endswith(".")


def test_an_error_has_the_sentence_of_its_code_unless_it_has_its_own() -> None:
    assert PulseError(ErrorCode.NO_SUCH_MESSAGE).message == ErrorCode.NO_SUCH_MESSAGE.sentence
    assert str(PulseError(ErrorCode.INVALID_FIELD, "`limit` must be given once")) == "`limit` must be given once"


def test_a_rate_limit_tells_when_to_retry() -> None:
    error = too_many("logins", 2.1)
    assert (error.code, error.message) == (ErrorCode.RATE_LIMITED, "Too many logins; retry in 3 s")
    assert error.retry_after == 3.0
