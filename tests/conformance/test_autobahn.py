"""Autobahn's cases for WebSocket servers, run by kosoku against the production server.

`make test` leaves out the groups 9 (large messages), 12 and 13 (compression, which is not negotiated);
`make conformance` runs all.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import SECRET, Server

ROOT = Path(__file__).parent.parent.parent
HYPERCORN = str(Path(sys.executable).with_name("hypercorn"))
KOSOKU = str(Path(sys.executable).with_name("kosoku"))
LONG_GROUPS = ("9.*", "12.*", "13.*")

# Cases that RFC 6455 lets a server answer in more than one way. This list does not grow unseen.
NON_STRICT = {"3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"}
# A text that is not UTF-8 is refused when its frame is whole, not in the middle of it: section 8.1 asks for no more.
NON_STRICT |= {"6.4.3", "6.4.4"}


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Server]:
    """The production server with the echo route."""
    text = (ROOT / "hypercorn.toml").read_text()
    # The cases count every event, and a ping of the server's own is one that they do not expect.
    text = re.sub(r"^websocket_ping_interval = .*$", "", text, flags=re.MULTILINE)
    config = tmp_path / "hypercorn.toml"
    config.write_text(re.sub(r"^bind = .*$", 'bind = ["127.0.0.1:0"]', text, flags=re.MULTILINE))
    server = Server(
        # Some cases send a message in tens of thousands of pieces.
        {"SECRET_KEY": SECRET, "PULSE_MAX_FRAME_BYTES": "16777216", "PULSE_PIECES_PER_SECOND": "0"},
        command=[HYPERCORN, "--config", str(config), "tests.support.echo:make_app()"],
        cwd=ROOT,
    )
    yield server.wait_ready()
    server.stop()


def results(server: Server, folder: Path, *, is_long: bool) -> dict[str, str]:
    """Returns the outcome of each case."""
    excluded = [] if is_long else [part for group in LONG_GROUPS for part in ("-x", group)]
    done = subprocess.run(
        [KOSOKU, "-p", "2", *excluded, "-o", str(folder), f"127.0.0.1:{server.port}"],
        capture_output=True,
        text=True,
        timeout=1_800 if is_long else 240,
        check=False,
    )
    report = folder / "index.json"
    assert report.exists(), done.stdout + done.stderr
    (cases,) = json.loads(report.read_text()).values()
    return {case: result["behavior"] for case, result in cases.items()}


def test_no_case_fails(echo: Server, tmp_path: Path) -> None:
    is_long = os.environ.get("PULSE_TEST_ALL_CONFORMANCE") == "1"
    found = results(echo, tmp_path / "report", is_long=is_long)
    counts = Counter(found.values())
    assert len(found) >= 247, counts
    # The service offers no compression (a bomb is small on the wire), which is for it to say: groups 12 and 13.
    compressed = {case: behavior for case, behavior in found.items() if case.startswith(("12.", "13."))}
    assert set(compressed.values()) <= {"UNIMPLEMENTED"}
    assert not [
        case
        for case, behavior in found.items()
        if behavior not in {"OK", "NON-STRICT", "INFORMATIONAL"} and case not in compressed
    ]
    assert {case for case, behavior in found.items() if behavior == "NON-STRICT"} <= NON_STRICT
