"""The commands of docs/operations.md, as they stand there, beside a service that runs."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import trio

from pulse_trio.cli import main
from tests.support.blocks import ROOT, blocks
from tests.support.client import Person
from tests.support.programs import require_program
from tests.support.server import PROGRAM, Server, environment

TEXT = (ROOT / "docs/operations.md").read_text()
HERE = [block.text for block in blocks(ROOT / "docs/operations.md") if block.test == "tests/e2e/test_operations.py"]
(RESTORE,) = (text for text in HERE if text.startswith("pulse-trio restore"))
RUN = [text for text in HERE if text != RESTORE]


def sh(commands: str, folder: Path, **settings: str) -> str:
    """Runs these commands of the document in a folder and returns their output; each must succeed."""
    path = f"{Path(PROGRAM).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", commands],
        env=environment(PATH=path, **settings),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_the_commands_of_the_document_work(folder: Path) -> None:
    require_program("curl", "curl")
    data = folder / "data"
    server = Server({"PULSE_DATA_DIR": str(data), "PULSE_METRICS_BIND": "127.0.0.1:0"}).wait_ready()
    try:
        with trio.fail_after(120):
            line = next(line for line in server.output.splitlines() if "metrics are served" in line)
            metrics = json.loads(line)["address"][1]
            alice = await Person.register(server.base_url, "alice")
            group = await alice.create_group()
            for commands in RUN:
                commands = commands.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
                commands = commands.replace("127.0.0.1:9464", f"127.0.0.1:{metrics}")
                commands = commands.replace("pulse-trio doctor", f"pulse-trio doctor --port {server.port}")
                said = await trio.to_thread.run_sync(lambda text=commands: sh(text, folder, PULSE_DATA_DIR=str(data)))
                assert said
    finally:
        assert server.stop() == 0
    assert len(RUN) == 4
    # A restore as the document has it, with the key of the data folder.
    *restore, serve = RESTORE.strip().splitlines()
    shutil.copy(data / "secret_key", folder)
    sh("\n".join(restore), folder)
    second = Server({}, command=[PROGRAM, *serve.split()[1:], "--port", "0"], cwd=folder).wait_ready()
    try:
        with trio.fail_after(60):
            alice = Person(second.base_url, "alice", alice.id, alice.token)
            assert (await alice.history(group))["total"] == 0
    finally:
        assert second.stop() == 0


def test_every_command_is_in_the_document_and_every_one_there_exists() -> None:
    named = set(re.findall(r"`?pulse-trio (\w+)", TEXT)) - {"process"}
    assert named == set(main.commands)


def test_every_file_that_the_document_names_exists() -> None:
    for path in re.findall(r"`(deploy/[\w/.-]+)`", TEXT):
        assert (ROOT / path).exists(), path
