"""`pulse-trio backup` and `restore`: a dump of a service that runs, in a new place, serves the same history."""

import os
import select
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pulse_trio.database.embedded import find_binaries
from tests.e2e.test_cli import answer, refusal
from tests.e2e.test_doctor import findings
from tests.support.client import PASSWORD, Api, Person
from tests.support.cluster import Cluster
from tests.support.programs import require_postgres
from tests.support.raw import connect_in_order
from tests.support.server import PROGRAM, SECRET, Server, environment
from tests.support.system_postgres import SystemPostgres


@pytest.fixture(scope="module")
def older() -> Iterator[SystemPostgres]:
    """A server of the system's own PostgreSQL."""
    server = SystemPostgres(require_postgres())
    yield server
    server.remove()


async def say(person: Person, group: str, *texts: str) -> None:
    async with person.connect(group) as chat:
        for text in texts:
            await chat.send({"type": "message", "content": text})
            await chat.receive_type("message")


@pytest.mark.parametrize("kind", ["embedded", "DATABASE_URL"])
async def test_a_dump_of_a_service_that_runs_serves_the_same_history_elsewhere(
    kind: str, folder: Path, cluster: Cluster, database: str
) -> None:
    file = folder / "pulse.dump"
    is_embedded = kind == "embedded"
    before = (
        {"PULSE_DATA_DIR": str(folder / "one")} if is_embedded else {"DATABASE_URL": database, "SECRET_KEY": SECRET}
    )
    server = Server(before).wait_ready()
    try:
        with trio.fail_after(60):
            alice = await Person.register(server.base_url, "alice")
            bob = await Person.register(server.base_url, "bob")
            group = await alice.create_group(bob)
            async with connect_in_order(group, alice, bob) as (one, two):
                await one.send({"type": "message", "content": "before", "client_id": "c-1"})
                message = await two.receive_type("message")
                await one.send({"type": "message", "content": "\U0001f600 \u202e 'quoted'"})
                await two.receive_type("message")
                await one.send({"type": "edit", "message_id": message["message_id"], "content": "edited"})
                last = await two.receive_type("message_updated")
                epoch = (await alice.api.get(f"/api/chat/conversations/{group}")).json()["epoch"]
                dumped = await trio.to_thread.run_sync(lambda: answer("backup", str(file), **before))
                assert dumped.endswith(" bytes.")
                assert stat.S_IMODE(file.stat().st_mode) == 0o600
                listed = await trio.to_thread.run_sync(
                    lambda: subprocess.check_output([str(find_binaries() / "pg_restore"), "--list", file], text=True)
                )
                assert "TABLE DATA public messages" in listed
                assert "TABLE public tickets" in listed
                assert "TABLE DATA public tickets" not in listed
                history = await alice.history(group)
                # The service went on meanwhile, and what came later is not in the dump.
                await one.send({"type": "message", "content": "after"})
                await two.receive_type("message")
    finally:
        assert server.stop() == 0

    if is_embedded:
        after = {"PULSE_DATA_DIR": str(folder / "two")}
    else:
        after = {"DATABASE_URL": cluster.new_database(migrated=False), "SECRET_KEY": SECRET}
    assert answer("restore", str(file), **after) == "Restored."
    if is_embedded:
        shutil.copy(folder / "one" / "secret_key", folder / "two" / "secret_key")  # as docs/operations.md says
    server = Server(after).wait_ready()
    try:
        with trio.fail_after(60):
            alice = Person(server.base_url, "alice", alice.id, alice.token)
            assert await alice.history(group) == history
            login = await Api(server.base_url).post("/api/auth/login", json={"username": "bob", "password": PASSWORD})
            assert login.status_code == 200
            # Who knows more than there is must not be left in the belief.
            async with alice.connect(group, after=last["rev"], epoch=epoch) as chat:
                assert (await chat.receive())["code"] == "cannot_resume"
                assert await chat.wait_closed() == 4409
            async with alice._open("/api/chat/ws", {}) as chat:
                assert (await chat.receive())["epoch"] != epoch
                await chat.send({"type": "resume", "revs": {group: last["rev"]}, "epoch": epoch})
                assert (await chat.receive_type("error"))["code"] == "cannot_resume"
            # And the history goes on where the dump ends.
            await say(alice, group, "goes on")
            found = await alice.history(group)
            assert [m["seq"] for m in found["messages"]] == [3, 2, 1]
            async with alice.connect(group) as chat:
                await chat.send({"type": "message", "content": "before", "client_id": "c-1"})
                assert (await chat.receive_type("message", "message_updated"))["seq"] == 1, "a resend is still one"
    finally:
        assert server.stop() == 0


def test_a_database_that_is_not_empty_is_not_touched(cluster: Cluster, database: str, folder: Path) -> None:
    settings = {"DATABASE_URL": database, "SECRET_KEY": SECRET}
    file = folder / "pulse.dump"
    answer("user", "add", "alice", "--password", "-", stdin=PASSWORD, **settings)
    answer("backup", str(file), **settings)
    assert "not empty" in refusal("restore", str(file), **settings)
    assert answer("token", "alice", **settings)


def stream(*, expected: int = 0, **settings: str) -> tuple[bytes, str]:
    """Runs `pulse-trio backup -`; returns what it writes to both streams."""
    done = subprocess.run(
        [PROGRAM, "backup", "-"], env=environment(**settings), capture_output=True, timeout=60, check=False
    )
    assert done.returncode == expected, done.stderr
    return done.stdout, done.stderr.decode()


def test_a_dump_is_streamed_to_another_program(database: str, cluster: Cluster, folder: Path) -> None:
    answer("user", "add", "alice", "--password", "-", stdin=PASSWORD, **own(database))
    before = set(Path().iterdir())
    data, said = stream(**own(database))
    assert data.startswith(b"PGDMP")
    assert said == f"{len(data):,} bytes.\n"
    assert set(Path().iterdir()) == before, "no file named -"
    file = folder / "pulse.dump"
    target = own(cluster.new_database(migrated=False))
    for part in (data[: len(data) // 3], data[: len(data) * 3 // 4], data[:-1]):  # such as of a full disk
        file.write_bytes(part)
        refusal("restore", str(file), **target)
    file.write_bytes(data)
    assert answer("restore", str(file), **target) == "Restored."
    assert users(**target) == ["alice"]


def test_a_closed_standard_output_is_an_error(database: str) -> None:
    command = ["/bin/sh", "-c", f'"{PROGRAM}" backup - >&-']
    done = subprocess.run(command, env=environment(**own(database)), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "pulse-trio: standard output is closed\n")


def test_a_stream_that_nobody_reads_is_an_error(database: str) -> None:
    with subprocess.Popen(
        [PROGRAM, "backup", "-"], env=environment(**own(database)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        (line,) = process.stderr.read().decode().splitlines()
        assert process.wait(60) == 1
    assert line == "pulse-trio: the dump cannot be written: Broken pipe"


def test_a_stream_that_fails_ends_with_one_line_and_an_exit_code(folder: Path, database: str) -> None:
    program = folder / "bin" / "pg_dump"
    program.parent.mkdir()
    for text, line in (
        ("printf PGDMP; echo 'pg_dump: error: the disk broke' >&2; exit 1", "pg_dump: error: the disk broke"),
        ("exit 0", "wrote no dump"),
        ("echo what is this", "something else than a dump"),
    ):
        program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "pg_dump (PostgreSQL) 18.0" && exit\n{text}\n')
        program.chmod(0o755)
        _, said = stream(expected=1, **own(database), PULSE_POSTGRES_BIN=str(program.parent))
        assert said.count("\n") == 1
        assert line in said


def test_a_dump_that_is_cut_short_or_none_restores_nothing(cluster: Cluster, database: str, folder: Path) -> None:
    file = folder / "pulse.dump"
    answer("user", "add", "alice", "--password", "-", stdin=PASSWORD, DATABASE_URL=database, SECRET_KEY=SECRET)
    answer("backup", str(file), DATABASE_URL=database, SECRET_KEY=SECRET)
    empty = {"DATABASE_URL": cluster.new_database(migrated=False), "SECRET_KEY": SECRET}
    data = file.read_bytes()
    for content in (data[: len(data) // 3], data[: len(data) * 3 // 4], data[:-1], b"not a dump", b""):
        file.write_bytes(content)
        refusal("restore", str(file), **empty)
        with psycopg.connect(empty["DATABASE_URL"]) as connection:
            row = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
            assert row == (0,)
    assert "there is no file" in refusal("restore", str(folder / "nothing"), **empty)
    file.write_bytes(data)
    assert answer("restore", str(file), **empty) == "Restored."


async def test_nothing_is_restored_under_a_service(database: str, folder: Path) -> None:
    settings = {"DATABASE_URL": database, "SECRET_KEY": SECRET}
    server = Server(settings).wait_ready()
    try:
        answer("backup", str(folder / "pulse.dump"), **settings)
        assert "another pulse-trio process" in refusal("restore", str(folder / "pulse.dump"), **settings)
    finally:
        assert server.stop() == 0


def test_a_backup_that_fails_leaves_the_last_one_as_it_was(database: str, folder: Path, own_cluster: Cluster) -> None:
    file = folder / "pulse.dump"
    settings = {"DATABASE_URL": own_cluster.new_database(), "SECRET_KEY": SECRET}
    answer("backup", str(file), **settings)
    good = file.read_bytes()
    with psycopg.connect(settings["DATABASE_URL"], autocommit=True) as connection:
        # A table that cannot be read, as after a fault of the disk.
        connection.execute(
            "INSERT INTO users (id, username, username_key, created_at, updated_at) "
            "SELECT gen_random_uuid(), n::text, n::text, now(), now() FROM generate_series(1, 1000) n"
        )
        connection.execute("CHECKPOINT")
        found = connection.execute("SELECT pg_relation_filepath('users')").fetchone()
    assert found is not None
    own_cluster.stop()
    path = own_cluster.folder / "data" / "data" / found[0]
    with path.open("r+b") as table:
        table.seek(0)
        table.write(os.urandom(8_192))
    own_cluster.start()
    assert "pg_dump" in refusal("backup", str(file), **settings)
    assert file.read_bytes() == good
    assert [one.name for one in folder.iterdir()] == ["pulse.dump"]
    assert "cannot be written" in refusal("backup", str(folder / "no" / "folder"), **settings)


def test_two_backups_at_once_and_files_beside_them_do_no_harm(database: str, folder: Path) -> None:
    file = folder / "pulse.dump"
    precious = folder / "precious"
    precious.write_text("precious")
    (folder / "pulse.dump.part").symlink_to(precious)
    with ThreadPoolExecutor() as threads:
        backups = [threads.submit(answer, "backup", str(file), **own(database)) for _ in range(3)]
    assert all(backup.result().endswith(" bytes.") for backup in backups)
    assert precious.read_text() == "precious"
    assert (folder / "pulse.dump.part").is_symlink()
    assert file.read_bytes().startswith(b"PGDMP")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(list(folder.iterdir())) == 3


def test_a_pipe_is_written_to_and_stays_a_pipe(database: str, folder: Path) -> None:
    """Renaming the dump over it would do the same to /dev/null, and leave the reader waiting."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    keeper = os.open(pipe, os.O_RDWR)  # so that reading ends neither before the dump nor never
    try:
        with ThreadPoolExecutor() as threads:
            running = threads.submit(
                subprocess.run,
                [PROGRAM, "backup", str(pipe)],
                env=environment(**own(database)),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            data = b""
            while not running.done() or select.select([keeper], [], [], 0)[0]:
                if select.select([keeper], [], [], 0.1)[0]:
                    data += os.read(keeper, 65_536)
    finally:
        os.close(keeper)
    done = running.result()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{len(data):,} bytes.\n")
    assert data.startswith(b"PGDMP")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [one.name for one in folder.iterdir()] == ["pipe"]


def test_a_link_stays_and_the_file_behind_it_is_replaced(database: str, folder: Path) -> None:
    behind = folder / "disk" / "of-today.dump"
    behind.parent.mkdir()
    link = folder / "pulse.dump"
    link.symlink_to(behind)
    for _ in range(2):
        answer("backup", str(link), **own(database))
        assert link.is_symlink()
        assert behind.read_bytes().startswith(b"PGDMP")
    assert stat.S_IMODE(behind.stat().st_mode) == 0o600


def test_what_no_dump_can_replace_is_refused(database: str, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        line = refusal("backup", str(folder / "socket"), **own(database))
    assert "neither a file, a pipe nor a character device" in line
    assert (folder / "socket").is_socket()
    loop = folder / "loop"
    loop.symlink_to(loop)
    assert "cannot be written" in refusal("backup", str(loop), **own(database))


def test_a_program_that_writes_nothing_makes_no_backup(own_cluster: Cluster, folder: Path) -> None:
    file = folder / "pulse.dump"
    file.write_bytes(b"of last night")
    program = folder / "bin" / "pg_dump"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "pg_dump (PostgreSQL) 18.0"\nexit 0\n')
    program.chmod(0o755)
    settings = {**own(own_cluster.new_database()), "PULSE_POSTGRES_BIN": str(program.parent)}
    assert "wrote no dump" in refusal("backup", str(file), **settings)
    assert file.read_bytes() == b"of last night"
    assert {one.name for one in folder.iterdir()} == {"pulse.dump", "bin"}


def test_what_is_not_ours_is_neither_restored_nor_restored_over(database: str, cluster: Cluster, folder: Path) -> None:
    file = folder / "pulse.dump"
    answer("backup", str(file), **own(database))
    other = cluster.new_database(migrated=False)
    with psycopg.connect(other, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA app; CREATE TABLE app.precious (n int)")
    assert "not empty (app.precious is there)" in refusal("restore", str(file), **own(other))
    with psycopg.connect(other) as connection:
        assert connection.execute("SELECT to_regclass('history')").fetchone() == (None,)

    theirs = folder / "theirs.dump"
    params = conninfo_to_dict(other)
    subprocess.run(
        [find_binaries() / "pg_dump", "--format=custom", f"--file={theirs}", f"--dbname={make_conninfo('', **params)}"],
        check=True,
    )
    empty = cluster.new_database(migrated=False)
    assert "a dump of something else" in refusal("restore", str(theirs), **own(empty))
    with psycopg.connect(empty) as connection:
        assert connection.execute("SELECT to_regclass('app.precious')").fetchone() == (None,)


def test_a_password_is_in_no_argument(own_cluster: Cluster, folder: Path) -> None:
    """Everybody on the machine may read the arguments of a program."""
    conninfo = own_cluster.new_database()
    seen = folder / "seen"
    programs = folder / "bin"
    programs.mkdir()
    for name in ("postgres", "initdb", "pg_dump"):
        path = programs / name
        path.write_text(
            '#!/bin/sh\n[ "$1" = --version ] && echo "pg_dump (PostgreSQL) 18.0" && exit\n'
            f'printf "%s\\n" "$@" > {seen}\nprintf "%s" "$PGPASSWORD" > {seen}.password\n'
            'for argument; do case "$argument" in --file=*) printf PGDMP > "${argument#--file=}";; esac; done\n'
        )
        path.chmod(0o755)
    done = subprocess.run(
        [PROGRAM, "backup", str(folder / "pulse.dump")],
        env=environment(
            DATABASE_URL=f"{conninfo} password=hunter2", SECRET_KEY=SECRET, PULSE_POSTGRES_BIN=str(programs)
        ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "dbname" in seen.read_text()
    assert "hunter2" not in seen.read_text()
    assert Path(f"{seen}.password").read_text() == "hunter2"


@pytest.mark.parametrize("command", [("backup", "{file}"), ("token", "alice"), ("restored",)])
def test_where_there_is_no_database_none_is_made(command: tuple[str, ...], folder: Path, cluster: Cluster) -> None:
    """An empty one in the wrong place would be dumped over last night's good dump."""
    file = folder / "pulse.dump"
    file.write_bytes(b"of last night")
    arguments = [part.format(file=file) for part in command]
    nowhere = folder / "nowhere"
    line = refusal(*arguments, PULSE_DATA_DIR=str(nowhere))
    assert str(nowhere) in line
    assert "--data-dir" in line
    assert not nowhere.exists()
    empty = cluster.new_database(migrated=False)
    assert "no data of this service" in refusal(*arguments, DATABASE_URL=empty, SECRET_KEY=SECRET)
    assert file.read_bytes() == b"of last night"


def test_a_dump_that_is_not_there_is_told_before_anything_is_made(folder: Path) -> None:
    nowhere = folder / "nowhere"
    assert "there is no file" in refusal("restore", str(folder / "no.dump"), PULSE_DATA_DIR=str(nowhere))
    assert not nowhere.exists()


def users(**settings: str) -> list[str]:
    """The usernames in a database."""
    with psycopg.connect(settings["DATABASE_URL"]) as connection:
        return [name for (name,) in connection.execute("SELECT username FROM users ORDER BY 1")]


def own(conninfo: str) -> dict[str, str]:
    return {"DATABASE_URL": conninfo, "SECRET_KEY": SECRET}


def test_an_older_servers_dump_is_restored_into_it_and_into_a_newer_one(
    older: SystemPostgres, cluster: Cluster, folder: Path
) -> None:
    file = folder / "pulse.dump"
    source = own(older.new_database())
    answer("user", "add", "alice", "--password", "-", stdin=PASSWORD, **source)
    answer("backup", str(file), **source)
    for target in (own(older.new_database()), own(cluster.new_database(migrated=False))):
        assert answer("restore", str(file), **target) == "Restored."
        assert users(**target) == ["alice"]


async def test_an_older_server_is_served_from_backed_up_and_restored_into(older: SystemPostgres, folder: Path) -> None:
    """A walk with a database of one's own: start, chat, doctor, stream, restore, start again."""
    settings = own(older.new_database())
    server = Server(settings).wait_ready()
    try:
        with trio.fail_after(90):
            alice = await Person.register(server.base_url, "alice")
            bob = await Person.register(server.base_url, "bob")
            group = await alice.create_group(bob)
            await say(alice, group, "one", "two")
            found = await trio.to_thread.run_sync(lambda: findings("--port", str(server.port), **settings))
            assert "failed" not in {check["status"] for check in found.values()}, found
            assert found["database"]["text"].startswith(f"PostgreSQL {older.major}")
            data, _ = await trio.to_thread.run_sync(lambda: stream(**settings))
            history = await bob.history(group)
    finally:
        assert server.stop() == 0
    assert "Traceback" not in server.output
    file = folder / "pulse.dump"
    file.write_bytes(data)
    restored = own(older.new_database())
    assert await trio.to_thread.run_sync(lambda: answer("restore", str(file), **restored)) == "Restored."
    server = Server(restored).wait_ready()
    try:
        with trio.fail_after(60):
            bob = Person(server.base_url, "bob", bob.id, bob.token)
            assert await bob.history(group) == history
            await say(bob, group, "three")
    finally:
        assert server.stop() == 0


def test_too_new_programs_are_refused_before_anything_is_written(older: SystemPostgres, folder: Path) -> None:
    """An older server cannot restore dumps of newer programs."""
    if older.major >= 17:
        pytest.skip("this server takes what newer programs write")
    file = folder / "pulse.dump"
    file.write_bytes(b"of last night")
    packaged = str(find_binaries())
    source = own(older.new_database())
    answer("user", "add", "alice", "--password", "-", stdin=PASSWORD, **source)
    for command, program, settings in (
        ("backup", "pg_dump", source),
        ("restore", "pg_restore", own(older.new_database())),
    ):
        line = refusal(command, str(file), PULSE_POSTGRES_BIN=packaged, **settings)
        assert f"{program} of PostgreSQL {older.major} is needed" in line
        assert f"{packaged}/{program} is of 18" in line
        assert f"apt-get install postgresql-client-{older.major}" in line
        assert "PULSE_POSTGRES_BIN" in line
    assert file.read_bytes() == b"of last night"
    assert [one.name for one in folder.iterdir()] == ["pulse.dump"]
    answer("backup", str(file), PULSE_POSTGRES_BIN=str(older.programs), **source)
    assert file.read_bytes().startswith(b"PGDMP")


def test_a_dump_of_a_newer_server_is_not_restored_and_the_line_says_why(
    older: SystemPostgres, database: str, folder: Path
) -> None:
    if older.major >= 17:
        pytest.skip("this server takes what newer programs write")
    file = folder / "pulse.dump"
    answer("backup", str(file), **own(database))
    target = own(older.new_database())
    line = refusal("restore", str(file), **target)
    assert "made by programs of a newer PostgreSQL" in line
    with psycopg.connect(target["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)
