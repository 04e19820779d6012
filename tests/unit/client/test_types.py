"""A type checker sees the client's types in a program that uses it."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
from pulse_trio.client import Client, History

def pages(client: Client) -> History:
    return client.history("id")

async def wrong(client: Client) -> int:
    return (await client.send("id", 5)).content
"""


def test_a_program_is_checked(tmp_path: Path) -> None:
    (tmp_path / "bot.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", "/dev/null", "bot.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    errors = [line.partition("error: ")[2] for line in done.stdout.splitlines() if line.startswith("bot.py")]
    assert {error.rpartition("[")[2] for error in errors} == {"arg-type]", "return-value]"}, done.stdout + done.stderr
