"""`make lint` runs flake8-async faster, and finds what it finds."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import async_rules

SOURCE = """
import trio


async def finish():
    try:
        await trio.sleep(1)
    finally:
        await trio.sleep(2)


async def numbers():
    with trio.fail_after(1):
        yield 1
    async with trio.open_nursery():
        yield 2  # noqa: ASYNC101


async def empty():
    with trio.move_on_after(1):
        pass


async def swallow():
    try:
        await trio.sleep(1)
    except BaseException:
        pass
"""


def found(module: str, *files: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-m", module, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    return done.stdout.splitlines()


def test_finds_what_flake8_async_finds(tmp_path: Path) -> None:
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text(SOURCE)
    second.write_text(f"{SOURCE}\n\nasync def last():\n    with trio.move_on_after(1):\n        pass\n")

    reported = found("tests.support.async_rules", first, second)

    assert reported == found("flake8_async", first, second)
    codes = {code for code in ("ASYNC100", "ASYNC101", "ASYNC102", "ASYNC103") for line in reported if code in line}
    assert codes == {"ASYNC100", "ASYNC101", "ASYNC102", "ASYNC103"}
    assert sum("ASYNC101" in line for line in reported) == 2, "the line with noqa is left out"


def test_a_clean_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_rules, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(sys, "argv", ["async_rules"])
    checked: list[list[str]] = []

    def check() -> int:
        checked.append(sys.argv[1:])
        return 0

    monkeypatch.setattr(async_rules, "main", check)
    file = tmp_path / "a.py"
    file.write_text("x = 1\n")
    for content in ("x = 1\n", "x = 1\n", "x = 2\n"):
        file.write_text(content)
        assert async_rules.run(["--disable", "ASYNC100", str(file)]) == 0
    assert async_rules.run([str(file)]) == 0
    assert checked == [["--disable", "ASYNC100", str(file)]] * 2 + [[str(file)]]


def test_a_file_with_findings_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_rules, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(sys, "argv", ["async_rules"])
    monkeypatch.setattr(async_rules, "main", lambda: 1)
    (tmp_path / "a.py").write_text("x = 1\n")
    assert [async_rules.run([str(tmp_path / "a.py")]) for _ in range(2)] == [1, 1]
