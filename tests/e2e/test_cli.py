"""The commands beside `serve`: migrate, user add, token; alone, and while the service runs."""

import shutil
import socket
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import trio

from pulse_trio.database.schema import MIGRATION_LOCK
from tests.support.client import PASSWORD, Api, Person
from tests.support.cluster import Cluster, traversable_folder
from tests.support.server import PROGRAM, SECRET, Server, environment


def run(*arguments: str, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs `pulse-trio` with these arguments."""
    return subprocess.run(
        [PROGRAM, *arguments],
        env=environment(**settings),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def answer(*arguments: str, stdin: str = "", **settings: str) -> str:
    """Returns the stdout of `pulse-trio` with these arguments; it must succeed with an empty stderr."""
    done = run(*arguments, stdin=stdin, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def refusal(*arguments: str, stdin: str = "", **settings: str) -> str:
    """The one line in which `pulse-trio` with these arguments refuses."""
    done = run(*arguments, stdin=stdin, **settings)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("pulse-trio: ")
    return line


async def login(base_url: str, username: str, password: str) -> int:
    """The status of a login."""
    body = {"username": username, "password": password}
    return (await Api(base_url).post("/api/auth/login", json=body)).status_code


@pytest.fixture
def own_database(database: str) -> dict[str, str]:
    """Settings of a database of one's own."""
    return {"DATABASE_URL": database, "SECRET_KEY": SECRET}


@pytest.fixture
def embedded() -> Iterator[dict[str, str]]:
    """Settings of an embedded PostgreSQL whose data folder is not there yet."""
    folder = traversable_folder()
    yield {"PULSE_DATA_DIR": str(folder / "data")}
    shutil.rmtree(folder)


@pytest.fixture(params=["own_database", "embedded"])
def settings(request: pytest.FixtureRequest) -> dict[str, str]:
    """Settings of either database."""
    found: dict[str, str] = request.getfixturevalue(request.param)
    return found


def test_migrate_makes_the_schema_once(cluster: Cluster) -> None:
    empty = cluster.new_database(migrated=False)
    settings = {"DATABASE_URL": empty, "SECRET_KEY": SECRET}
    first = answer("migrate", **settings)
    with psycopg.connect(empty) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    assert row is not None
    assert first == f"Schema none → {row[0]}."
    assert answer("migrate", **settings) == f"Schema {row[0]}."


def test_migrate_makes_the_data_folder(embedded: dict[str, str]) -> None:
    assert answer("migrate", **embedded).startswith("Schema none → ")
    assert not answer("migrate", "--data-dir", embedded["PULSE_DATA_DIR"]).startswith("Schema none")


@pytest.mark.parametrize("command", [("migrate",), ("serve", "--port", "0")], ids=["migrate", "serve"])
def test_a_wait_for_another_that_migrates_is_told_and_ends(own_database: dict[str, str], command: list[str]) -> None:
    with psycopg.connect(own_database["DATABASE_URL"], autocommit=True, application_name="the other") as other:
        other.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        done = run(*command, **own_database, PULSE_MIGRATION_WAIT="3.5")
        holder = f"(pid {other.info.backend_pid}, the other)"
    assert (done.returncode, done.stdout) == (1, "")
    first, last = done.stderr.splitlines()
    assert first == f"pulse-trio: waiting for another session that migrates the database {holder}"
    assert last.startswith(
        f"pulse-trio: another session has been migrating the database for more than 3.5 seconds {holder}"
    )


async def test_commands_work_while_the_service_runs(settings: dict[str, str]) -> None:
    server = Server(settings).wait_ready()
    try:
        with trio.fail_after(60):
            assert "→" not in answer("migrate", **settings)
            user_id = answer("user", "add", "alice", "--password", "-", stdin=PASSWORD, **settings)
            assert await login(server.base_url, "alice", PASSWORD) == 200
            alice = Person(server.base_url, "alice", user_id, answer("token", "ALICE", **settings))
            me = await alice.api.get("/api/auth/me")
            assert (me.status_code, me.json()["id"], me.json()["username"]) == (200, user_id, "alice")
            assert await alice.create_group()
        assert server.process.poll() is None
    finally:
        assert server.stop() == 0


async def test_users_and_tokens_made_before_the_service_runs_work(settings: dict[str, str]) -> None:
    user_id = answer("user", "add", "alice", "--password", "-", stdin=f"{PASSWORD}\n", **settings)
    assert uuid.UUID(user_id)
    token = answer("token", "alice", **settings)
    server = Server(settings).wait_ready()
    try:
        with trio.fail_after(60):
            me = await Person(server.base_url, "alice", user_id, token).api.get("/api/auth/me")
            assert (me.status_code, me.json()["id"]) == (200, user_id)
            assert await login(server.base_url, "alice", PASSWORD) == 200
    finally:
        assert server.stop() == 0


async def test_a_password_comes_from_a_file_or_with_a_warning_from_an_argument(
    own_database: dict[str, str], start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """Arguments are in the list of processes, which every account may read."""
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\nsecond line\n")
    answer("user", "add", "alice", "--password-file", str(file), **own_database)
    done = run("user", "add", "bob", "--password", PASSWORD, **own_database)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert "list of processes" in line
    assert PASSWORD not in line
    both = run("user", "add", "carol", "--password", "-", "--password-file", str(file), stdin=PASSWORD, **own_database)
    assert both.returncode == 2
    file.write_bytes(b"\xff\n")
    assert "UTF-8" in refusal("user", "add", "carol", "--password-file", str(file), **own_database)
    server = start_server()
    with trio.fail_after(60):
        for name in ("alice", "bob"):
            assert await login(server.base_url, name, PASSWORD) == 200


def test_a_taken_name_is_refused(own_database: dict[str, str]) -> None:
    answer("user", "add", "alice", "--password", "-", stdin=PASSWORD, **own_database)
    assert "Alice is taken" in refusal("user", "add", "Alice", "--password", "-", stdin=PASSWORD, **own_database)


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "x" * 500, "new\nline"])
def test_a_bad_name_is_refused_before_anything_is_started(name: str, embedded: dict[str, str]) -> None:
    assert "the username" in refusal("user", "add", name, "--password", "-", stdin=PASSWORD, **embedded)
    assert not Path(embedded["PULSE_DATA_DIR"]).exists()


@pytest.mark.parametrize("password", ["", "short", "x" * 2000])
def test_a_bad_password_is_refused_and_not_shown(password: str, embedded: dict[str, str]) -> None:
    line = refusal("user", "add", "alice", "--password", "-", stdin=password, **embedded)
    assert "the password must have 8 to" in line
    assert not password or password not in line
    assert not Path(embedded["PULSE_DATA_DIR"]).exists()


def test_a_token_of_an_unknown_user_is_refused(own_database: dict[str, str]) -> None:
    assert "there is no user nobody" in refusal("token", "nobody", **own_database)


def test_a_token_cannot_be_made_without_the_private_key(own_database: dict[str, str], tmp_path: Path) -> None:
    key = tmp_path / "public.pem"
    # From RFC 8410, section 10.1.
    key.write_text(
        "-----BEGIN PUBLIC KEY-----\n"
        "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
        "-----END PUBLIC KEY-----\n"
    )
    answer("user", "add", "alice", "--password", "-", stdin=PASSWORD, **own_database)
    line = refusal("token", "alice", ALGORITHM="EdDSA", PULSE_PUBLIC_KEY=str(key), **own_database)
    assert "identity provider" in line


def test_a_database_that_takes_a_connection_and_says_nothing_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://pulse:hunter2@127.0.0.1:{silent.getsockname()[1]}/pulse"
        line = refusal("migrate", DATABASE_URL=url, SECRET_KEY=SECRET)
        assert "cannot be used" in line
        assert "timeout" in line
        assert "hunter2" not in line


@pytest.mark.parametrize("arguments", [("migrate",), ("user", "add", "alice", "--password", "-"), ("token", "a")])
def test_every_command_refuses_wrong_settings_in_one_line(arguments: tuple[str, ...]) -> None:
    assert "PULSE_POOL_MAX" in refusal(*arguments, stdin=PASSWORD, PULSE_POOL_MAX="many")
    url = "postgresql://pulse:hunter2@127.0.0.1:1/pulse"
    line = refusal(*arguments, stdin=PASSWORD, DATABASE_URL=url, SECRET_KEY=SECRET)
    assert "DATABASE_URL" in line
    assert "hunter2" not in line


@pytest.mark.parametrize("arguments", [("serve", "--port", "65536"), ("serve", "--port", "http"), ("user", "remove")])
def test_a_wrong_argument_is_refused_without_a_traceback(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_version_and_help_need_nothing() -> None:
    assert "0." in answer("--version", PULSE_POOL_MAX="many")
    assert "serve" in answer("--help")


async def test_after_restored_clients_are_told_to_load_afresh(own_database: dict[str, str]) -> None:
    first = Server(own_database).wait_ready()
    with trio.fail_after(60):
        alice = await Person.register(first.base_url, "alice")
        conversation = await alice.create_group()
        async with alice.connect(conversation) as chat:
            epoch = (await chat.receive())["epoch"]
    assert first.stop() == 0
    assert "new epoch" in answer("restored", **own_database)
    second = Server(own_database).wait_ready()
    with trio.fail_after(60):
        alice = Person(second.base_url, "alice", alice.id, alice.token)
        async with alice.connect(conversation, after=0, epoch=epoch) as chat:
            assert (await chat.receive())["code"] == "cannot_resume"
            assert await chat.wait_closed() == 4409
    assert second.stop() == 0


@pytest.mark.parametrize("command", [("token", "alice"), ("migrate",), ("doctor", "--json")])
def test_output_that_cannot_be_written_is_one_line(command: tuple[str, ...], database: str) -> None:
    settings = {"DATABASE_URL": database, "SECRET_KEY": SECRET}
    answer("user", "add", "alice", "--password", "-", stdin=PASSWORD, **settings)
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [PROGRAM, *command],
            env=environment(**settings),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    line = "pulse-trio: done, but the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, line)
