"""The code in the documents works unchanged; `tests/support/blocks.py` says how a block is marked."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.support.blocks import DOCUMENTS, JSON, ROOT, Block, blocks, programs, uncommented
from tests.support.client import Person
from tests.support.programs import Running, node, running
from tests.support.server import SECRET, Server, environment

BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
CLIENT = ROOT / "pulse_trio" / "web" / "pulse-client.js"

# Between a block and the one that continues it: a person would wait for the first one's output.
PAUSES = {
    "sh": "read -r _\n",
    "python": "input()\n",
    "javascript": "await standardInput.next();\n",
}
# The parts of a browser page that Node.js lacks, and the input that `PAUSES` reads.
PAGE = """
import { createInterface } from "node:readline";
const standardInput = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
for (const name of ["sessionStorage", "localStorage"]) {
  const items = new Map();
  const value = {
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, text) => { items.set(key, String(text)); },
    removeItem: (key) => { items.delete(key); },
  };
  Object.defineProperty(globalThis, name, { value, configurable: true });
}
"""


def by_place(block: Block) -> str:
    return block.place


@pytest.mark.parametrize("program", programs(BLOCKS), ids=lambda program: program[0].place)
async def test_a_program_prints_the_lines_of_its_document(
    program: list[Block], database: str, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    language = program[0].language
    missing = [name for block in program for name in block.needs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    text = PAUSES[language].join(block.text for block in program)
    settings = {"DATABASE_URL": database, "SECRET_KEY": SECRET, "HOME": str(tmp_path)}
    if program[0].how == "server":
        server = start_server()
        for name in program[0].people:
            await Person.register(server.base_url, name, f"a password of {name}")
        for address in ("127.0.0.1:8000", "localhost:8000"):
            text = text.replace(address, f"127.0.0.1:{server.port}")
        text = text.replace('from "/pulse-client.js"', f'from "{CLIENT.as_uri()}"')
    if language == "javascript":
        text = PAGE + text
    with trio.fail_after(90):
        async with running(
            *command(language, text, tmp_path),
            stdin=subprocess.PIPE,
            cwd=tmp_path,
            env={**environment(**settings), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        ) as run:
            await follow(run, program)


def command(language: str, text: str, folder: Path) -> list[str]:
    """Returns the command that runs a program."""
    match language:
        case "sh":
            suffix, start = "sh", ["sh", "-eu"]
        case "python":
            suffix, start = "py", [sys.executable, "-u"]
        case _:
            suffix, start = "mjs", node()
    file = folder / f"program.{suffix}"
    file.write_text(text)
    return [*start, str(file)]


async def follow(run: Running, program: list[Block]) -> None:
    """Waits for the lines of each block before the next one starts, and for the end of the program."""
    standard_input = run.process.stdin
    assert standard_input is not None
    for block in program:
        if block is not program[0]:
            await standard_input.send_all(b"\n")
        for line in block.prints:
            await run.wait_line(line)
    await standard_input.aclose()
    if not program[-1].goes_on:
        assert await run.wait_end() == 0, run.lines


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in JSON], ids=by_place)
def test_json_is_valid(block: Block) -> None:
    json.loads(uncommented(block.text) if block.language == "jsonc" else block.text)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.how == "in"], ids=by_place)
def test_the_named_test_reads_the_document(block: Block) -> None:
    assert Path(block.document).name in (ROOT / block.test).read_text()


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.how in {"none", "in"} and block.language in PAUSES], ids=by_place
)
def test_code_that_is_not_run_has_valid_syntax(block: Block, tmp_path: Path) -> None:
    match block.language:
        case "python":
            compile(block.text, block.place, "exec")
        case "sh":
            subprocess.run(["sh", "-n"], input=block.text, text=True, check=True)
            for line in block.text.splitlines():
                if line.startswith("make "):  # there is such a target; nothing of it is done
                    subprocess.run(
                        ["sh", "-c", f"make --dry-run {line[5:]}"], cwd=ROOT, check=True, capture_output=True
                    )
        case "javascript":
            file = tmp_path / "program.mjs"
            file.write_text(block.text)
            subprocess.run([*node(), "--check", str(file)], check=True)
