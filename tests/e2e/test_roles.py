"""Settings that a role brings along: the service works all the same, or is refused in one line, as the doctor says."""

from collections.abc import Callable

import psycopg
import pytest
import trio
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.e2e.test_doctor import findings
from tests.e2e.test_serve import assert_refused, run_serve
from tests.support.client import Person
from tests.support.cluster import Cluster
from tests.support.server import SECRET, Server

TEXT = "日本 \U0001f600"


def set_for_role(conninfo: str, **settings: str) -> None:
    """Makes settings the role's, in this database."""
    name = str(conninfo_to_dict(conninfo)["dbname"])
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for setting, value in settings.items():
            statement = sql.SQL("ALTER ROLE pulse IN DATABASE {} SET {} = {}")
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(setting), sql.Literal(value)))


@pytest.mark.parametrize(
    "setting",
    [
        {"client_encoding": "LATIN1"},
        {"client_encoding": "SQL_ASCII"},
        {"datestyle": "German", "intervalstyle": "sql_standard", "timezone": "Asia/Kolkata"},
        {"datestyle": "SQL, DMY"},
        {"default_transaction_isolation": "serializable"},
        {"idle_session_timeout": "200ms"},
    ],
    ids=lambda setting: " ".join(setting.values()),
)
async def test_the_service_works_whatever_the_role_has_set(
    cluster: Cluster, start_server: Callable[..., Server], setting: dict[str, str]
) -> None:
    database = cluster.new_database(migrated=False)
    set_for_role(database, **setting)
    settings = {"DATABASE_URL": database, "SECRET_KEY": SECRET}
    with trio.fail_after(90):
        found = findings(**settings)
        assert "failed" not in {check["status"] for check in found.values()}, found
        server = start_server(**settings)
        alice = await Person.register(server.base_url, "alice")
        bob = await Person.register(server.base_url, "bob")
        group = await alice.create_group(bob, name=TEXT)
        path = f"/api/chat/conversations/{group}"
        async with alice.connect(group) as chat:
            await chat.send({"type": "message", "content": TEXT})
            await chat.receive_type("message")
        renames = []
        async with trio.open_nursery() as nursery:

            async def rename(person: Person, number: int) -> None:
                answer = await person.api.patch(path, json={"name": f"{TEXT} {number}"})
                renames.append(answer.status_code)

            for number in range(10):
                nursery.start_soon(rename, (alice, bob)[number % 2], number)
        assert renames == [200] * 10
        assert TEXT in [message["content"] for message in (await alice.history(group))["messages"]]
        assert findings(**settings)["schema"]["status"] == "ok"
        assert server.stop() == 0
    assert "service lock connection lost" not in server.output
    assert "Traceback" not in server.output


@pytest.mark.parametrize("migrated", [True, False], ids=["used", "new"])
@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ({"default_transaction_read_only": "on"}, "default_transaction_read_only"),
        ({"search_path": ""}, "search_path"),
    ],
    ids=["read-only", "no schema"],
)
def test_what_only_the_operator_may_change_is_refused(
    cluster: Cluster, setting: dict[str, str], part: str, migrated: bool
) -> None:
    database = cluster.new_database(migrated=migrated)
    set_for_role(database, **setting)
    settings = {"DATABASE_URL": database, "SECRET_KEY": SECRET}
    done = run_serve(**settings)
    assert_refused(done, part)
    found = findings(**settings)["own sessions"]
    assert (found["status"], f"pulse-trio: {found['text']}") == ("failed", done.stderr.strip())
