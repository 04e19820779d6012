"""deploy/systemd: systemd reads the unit, finds it closed, and gives the service the time that it needs."""

import configparser
import re
import subprocess
import tomllib
from pathlib import Path

from pulse_trio.edge.server.gate import reserved_files
from pulse_trio.rooms.hub import DRAIN_TIMEOUT
from pulse_trio.settings import Settings
from tests.support.programs import require_program
from tests.support.server import PROGRAM

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy/systemd/pulse-trio.service"
STOPPING_POSTGRES = 14  # seconds at most: see EmbeddedPostgres.stop
EXPOSURE_MOST = 20  # tenths, of `systemd-analyze security`; a unit without any of it has 96


def service() -> dict[str, str]:
    """The settings of the service, the last of each name."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return dict(parser["Service"])


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = require_program("systemd-analyze", "systemd")
    unit = tmp_path / UNIT.name
    program = service()["ExecStart"].split()[0]
    unit.write_text(UNIT.read_text().replace(program, PROGRAM))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if UNIT.stem in line]
    assert (done.returncode, ours) == (0, [])
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restarts=on-failure"))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False)
    assert "Restarts" in done.stdout + done.stderr, "or this shows nothing"


def test_the_unit_is_closed(tmp_path: Path) -> None:
    analyze = require_program("systemd-analyze", "systemd")
    command = [analyze, "security", "--offline=true", f"--threshold={EXPOSURE_MOST}", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-500:]


def test_it_has_the_time_and_the_files_that_the_service_needs() -> None:
    found = service()
    hypercorn = tomllib.loads((ROOT / "hypercorn.toml").read_text())
    needed = DRAIN_TIMEOUT + hypercorn["graceful_timeout"] + hypercorn["shutdown_timeout"] + STOPPING_POSTGRES
    assert int(found["TimeoutStopSec"]) > needed
    assert int(found["LimitNOFILE"]) >= Settings().max_connections + reserved_files(Settings())
    assert found["LimitCORE"] == "0"
    # Its PostgreSQL is stopped by the service, after its clients: not by a signal of systemd's at the same time.
    assert found["KillMode"] == "mixed"
    assert found["Restart"] == "on-failure"
    for name in re.findall(r"(PULSE_\w+)=", UNIT.read_text()):
        assert name in Settings.variables()
