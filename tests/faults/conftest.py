"""Fixtures of the fault tests."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.server import Server

ROOT = Path(__file__).resolve().parents[2]
HYPERCORN = str(Path(sys.executable).with_name("hypercorn"))


@pytest.fixture
def start_inspected(database: str, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts `tests/faults/inspected.py` on the test's database, with these settings."""
    servers: list[Server] = []
    config = tmp_path / "hypercorn.toml"
    lines = (ROOT / "hypercorn.toml").read_text().splitlines()
    config.write_text("\n".join(["bind = ['127.0.0.1:0']", *(line for line in lines if not line.startswith("bind"))]))

    def start(**settings: str) -> Server:
        command = [HYPERCORN, "--config", str(config), "tests.faults.inspected:make_app()"]
        servers.append(Server({"DATABASE_URL": database, **settings}, command=command, cwd=ROOT))
        return servers[-1].wait_ready()

    yield start
    for server in servers:
        server.stop()
