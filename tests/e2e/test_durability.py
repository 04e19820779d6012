"""The service does not start where a power cut may lose what it would acknowledge."""

from pathlib import Path

from tests.e2e.test_serve import Start, assert_refused, data_dir, launch, run_serve  # noqa: F401
from tests.support.server import SECRET


def test_a_server_that_may_lose_commits_is_refused_unless_allowed(
    launch: Start,  # noqa: F811
    database: str,
) -> None:
    done = run_serve(DATABASE_URL=database, SECRET_KEY=SECRET, PULSE_ALLOW_LOSING_COMMITS="false")
    assert_refused(done, "fsync", "PULSE_ALLOW_LOSING_COMMITS")
    server = launch(DATABASE_URL=database, PULSE_ALLOW_LOSING_COMMITS="true").wait_ready()
    assert server.stop() == 0


def test_the_embedded_server_keeps_its_commits(launch: Start, data_dir: Path) -> None:  # noqa: F811
    server = launch("--data-dir", str(data_dir), PULSE_ALLOW_LOSING_COMMITS="false").wait_ready()
    assert server.stop() == 0
