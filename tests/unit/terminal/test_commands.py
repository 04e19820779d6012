"""Input that the command line rejects before it asks a server."""

import subprocess

import pytest

from tests.support.server import PROGRAM, environment

ODD = b"\xff"  # no UTF-8


@pytest.mark.parametrize(
    "arguments",
    [
        (b"send", b"x", b"y", b"--client-id", ODD),
        (b"send", b"x", b"y", b"--client-id", b""),
        (b"send", b"x", b"y", b"--client-id", b"x" * 65),
        (b"send", b"x", b"y", b"--token", ODD),
        (b"send", b"x", b"y", b"--token", b"\xc3\xa9"),
        (b"send", b"x", b"y", b"--token", b"a-secret\n"),
        (b"send", b"x", b"y", b"--timeout", b"nan"),
        (b"tail", b"x", b"--server", b"http://" + ODD),
        (b"login", ODD, b"--password-stdin"),
        (b"register", ODD, b"--password-stdin"),
        (b"login", b"alice", b"--password-stdin"),
    ],
    ids=str,
)
def test_what_no_server_can_be_sent_is_wrong_usage(arguments: tuple[bytes, ...]) -> None:
    settings = environment(PULSE_TOKEN="x", PULSE_URL="http://127.0.0.1:9")
    done = subprocess.run([PROGRAM, *arguments], input=ODD, capture_output=True, env=settings, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, b""), done
    assert b"Traceback" not in done.stderr
    assert b"a-secret" not in done.stderr
