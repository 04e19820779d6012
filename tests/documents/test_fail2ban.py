"""The filter for fail2ban in docs/operations.md, on lines as the service writes them."""

import configparser
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog

from pulse_trio import logs
from pulse_trio.edge.audit import Audit, SecurityEvent
from pulse_trio.settings import Settings
from tests.support.blocks import ROOT, blocks

(WRITTEN,) = (block.text for block in blocks(ROOT / "docs" / "operations.md") if block.text.startswith("[Definition]"))
FILTER = configparser.RawConfigParser()
FILTER.read_string(WRITTEN)
# As fail2ban replaces the word, for IPv4 and IPv6.
FAILURE = re.compile(FILTER["Definition"]["failregex"].replace("<ADDR>", r"(?P<addr>[0-9.]+|[0-9a-fA-F:]+)"))


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """The log of the service, in memory."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    logs.configure(Settings(log_format="json"))
    written = io.StringIO()
    assert isinstance(root.handlers[0], logging.StreamHandler)
    root.handlers[0].setStream(written)
    yield written
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
async def test_the_filter_finds_the_address_of_a_failed_login(written: io.StringIO, address: str) -> None:
    audit = Audit()
    for event in (SecurityEvent.LOGIN_FAILED, SecurityEvent.LOGIN_LIMITED):
        audit.record(event, address, address=address, code="invalid_credentials", username_digest="0123456789abcdef")
    lines = written.getvalue().splitlines()
    assert len(lines) == 2
    for line in lines:
        found = FAILURE.search(line)
        assert found is not None, line
        assert found["addr"] == address
        pattern = FILTER["Definition"]["datepattern"].replace("%%", "%")
        fields = {"%Y": r"\d{4}", "%m": r"\d\d", "%d": r"\d\d", "%H": r"\d\d", "%M": r"\d\d", "%S": r"\d\d"}
        for name, digits in fields.items():
            pattern = pattern.replace(name, digits)
        assert re.search(pattern, line), line


async def test_the_filter_leaves_other_lines_alone(written: io.StringIO) -> None:
    audit = Audit()
    audit.record(SecurityEvent.LOGIN, "192.0.2.7", address="192.0.2.7")
    audit.record(SecurityEvent.HANDSHAKE_REFUSED, "192.0.2.7", address="192.0.2.7", code="invalid_token")
    text = '"event": "login failed", "kind": "security", "address": "192.0.2.7"'
    structlog.get_logger(__name__).warning("something else", kind=text, address=text)
    for line in written.getvalue().splitlines():
        json.loads(line)
        assert FAILURE.search(line) is None, line
