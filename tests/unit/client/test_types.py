"""A type checker sees the client's types in a program that uses it."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
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


def test_the_wheel_has_the_marker_of_typed_packages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "pulse_trio/py.typed" in archive.namelist()
