"""The program: each half is imported only when one of its commands runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


def test_closed_streams_are_no_place_for_sockets(tmp_path: Path) -> None:
    """A C library or a child that writes to a standard stream would write to whatever has got its descriptor."""
    result = tmp_path / "result"
    program = (
        "import os, sys\n"
        "from pulse_trio.program import main\n"
        "try:\n"
        "    main(['--version'])\n"
        "finally:\n"
        "    null = os.stat(os.devnull).st_rdev\n"
        "    found = [os.fstat(fd).st_rdev == null and os.get_inheritable(fd) for fd in range(3)]\n"
        "    open(sys.argv[1], 'w').write(str(found))\n"
    )
    command = ["/bin/sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program, str(result)]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
    assert result.read_text() == "[True, True, True]"


def test_sending_does_not_import_the_server() -> None:
    done = run(
        "import sys\n"
        "from pulse_trio.program import main\n"
        "try:\n"
        "    main(['send', '--help'])\n"
        "finally:\n"
        "    print({'quart', 'hypercorn', 'psycopg', 'pydantic'} & set(sys.modules))\n"
    )
    assert done.stdout.endswith("set()\n"), done


@pytest.mark.parametrize("missing", ["httpx2", "trio_websocket"])
def test_a_missing_package_is_named(missing: str) -> None:
    done = run(
        f"import sys\nsys.modules[{missing!r}] = None\n"
        "from pulse_trio.program import main\nmain(['send', 'Team', 'x'])\n"
    )
    assert done.returncode == 1
    assert done.stderr == "pulse-trio: this command needs more packages: pip install 'pulse-trio[client]'\n"


def test_without_the_clients_packages_the_help_lists_all_and_says_what_is_missing() -> None:
    done = run("import sys\nsys.modules['httpx2'] = None\nfrom pulse_trio.program import main\nmain(['--help'])")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^  chat +Needs more packages: pip install 'pulse-trio\[client\]'", done.stdout, re.MULTILINE)
    assert re.search(r"^  serve +Run the service", done.stdout, re.MULTILINE)


def test_without_the_servers_packages_the_clients_commands_work() -> None:
    hidden = "import sys\nsys.modules.update(dict.fromkeys(['quart', 'hypercorn', 'psycopg', 'structlog']))\n"
    done = run(hidden + "from pulse_trio.program import main\nmain(['--help'])")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^  chat +\w", done.stdout, re.MULTILINE)
    done = run(hidden + "from pulse_trio.program import main\nmain(['serve', '--port', '1', 'x'])")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "pulse-trio: this command needs more packages: pip install pulse-trio\n"


def test_every_command_is_listed() -> None:
    done = run("from pulse_trio.program import main\nmain(['--help'])")
    for command in ("serve", "migrate", "token", "chat", "tail", "send", "list", "login"):
        assert f"  {command} " in done.stdout


def test_the_package_is_runnable_as_a_module() -> None:
    command = [sys.executable, "-m", "pulse_trio", "send", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: pulse-trio send ")
