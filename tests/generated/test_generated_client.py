"""openapi-python-client reads `/openapi.json` without a warning, and what it generates talks to the service.

`make test-generated` installs it into an environment of its own: it is no dependency of this project.
"""

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from tests.support.server import Server

VARIABLE = "PULSE_TEST_GENERATED"
"""The folder with the programs of that environment."""

PROGRAM = Path(__file__).with_name("program.py")


@pytest.mark.skipif(VARIABLE not in os.environ, reason="part of `make test-generated`")
def test_a_generated_client_has_types_and_works(server: Server, tmp_path: Path) -> None:
    programs = Path(os.environ[VARIABLE]).resolve()
    document = tmp_path / "openapi.json"
    document.write_text(httpx2.get(f"{server.base_url}/openapi.json").text)

    def run(*command: str | Path) -> str:
        path = f"{programs}:{os.environ['PATH']}"  # the generator runs a formatter
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    generator = programs / "openapi-python-client"
    output = ("--output-path", tmp_path / "pulse_client", "--meta", "none", "--fail-on-warning")
    run(generator, "generate", "--path", document, *output)
    (tmp_path / "program.py").write_text(PROGRAM.read_text())
    # Silent about the generated package: its author's templates are not strict.
    strict = ("--strict", "--follow-imports", "silent", "--config-file=", "--cache-dir", "/dev/null")
    run(sys.executable, "-m", "mypy", "--python-executable", programs / "python", *strict, "program.py")
    assert "all is as generated" in run(programs / "python", "program.py", server.base_url)
