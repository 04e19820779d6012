"""The service's documents read by the tools of others: a generated client, and the official parser of AsyncAPI."""

import json
import os
from pathlib import Path

import pytest
import trio

from tests.npm.test_package import MODULES, NPM, errors_of_types
from tests.support.client import Api
from tests.support.server import Server

pytestmark = pytest.mark.skipif(not NPM, reason="make test-npm runs them")

CLIENT = """
import createClient from "openapi-fetch";
import type { paths } from "./schema.js";

const url = process.env.PULSE_URL!;
const api = createClient<paths>({ baseUrl: url });

/** The data of an answer, which must not be an error. */
function of<T>({ data, error }: { data?: T; error?: unknown }): T {
  if (data === undefined) throw new Error(JSON.stringify(error));
  return data;
}

const account = { username: "generated", password: "a password of code" };
of(await api.POST("/api/auth/register", { body: account }));
const { access_token } = of(await api.POST("/api/auth/login", { body: account }));
const headers = { Authorization: `Bearer ${access_token}` };
const team = of(await api.POST("/api/chat/conversations", { headers, body: { name: "Team", is_group: true } }));
const path = { conversation_id: team.id };
const sent = of(await api.POST("/api/chat/conversations/{conversation_id}/messages", {
  headers, params: { path }, body: { content: "Hello" },
}));
const page = of(await api.GET("/api/chat/conversations/{conversation_id}/messages", {
  headers, params: { path, query: { limit: 5 } },
}));
const [message] = page.messages;
if (message?.content !== "Hello" || message.seq !== 1 || message.id !== sent.id) throw new Error(JSON.stringify(page));
const other = { conversation_id: "01890a5d-ac96-774b-bcce-b302099a8057" };
const refused = await api.GET("/api/chat/conversations/{conversation_id}", { headers, params: { path: other } });
console.log(refused.response.status, refused.error?.code);
"""
MISTAKES = """
import createClient from "openapi-fetch";
import type { paths } from "./schema.js";
const api = createClient<paths>({ baseUrl: "" });
await api.GET("/api/chat/conversation");
await api.POST("/api/auth/login", { body: { username: "me" } });
await api.GET("/api/chat/conversations", { params: { query: { limit: "many" } } });
"""
PARSE = """
import { Parser } from "@asyncapi/parser";
import { readFileSync } from "node:fs";
const { document, diagnostics } = await new Parser().parse(readFileSync(0, "utf8"));
const serious = diagnostics.filter(({ severity }) => severity <= 1);
const faults = serious.map(({ path, message }) => `${path.join(".")}: ${message}`);
const [messages, operations] = [document?.allMessages().length ?? 0, document?.allOperations().length ?? 0];
console.log(JSON.stringify({ faults, messages, operations }));
"""


async def run(name: str, *arguments: str, folder: Path, stdin: str = "", **environment: str) -> str:
    """Runs a program of npm, or `node`; returns what it prints."""
    command = ["node" if name == "node" else str(MODULES / ".bin" / name), *arguments]
    env = {**os.environ, **environment}
    done = await trio.run_process(
        command, cwd=folder, stdin=stdin.encode(), env=env, capture_stdout=True, capture_stderr=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout.decode()


async def served(server: Server, path: str) -> str:
    """Returns a document of the service."""
    answer = await Api(server.base_url).get(path)
    assert answer.status_code == 200
    return answer.text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with the modules of npm."""
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "node_modules").symlink_to(MODULES)
    return tmp_path


async def test_a_client_generated_from_openapi_works(server: Server, folder: Path) -> None:
    with trio.fail_after(300):
        (folder / "openapi.json").write_text(await served(server, "/openapi.json"))
        # A field with a default may be left out of a request.
        generate = ["openapi-typescript", "openapi.json", "--default-non-nullable=false", "--output", "schema.d.ts"]
        await run(*generate, folder=folder)
        (folder / "client.ts").write_text(CLIENT)
        (folder / "mistakes.ts").write_text(MISTAKES)
        errors = errors_of_types(folder, "client.ts", "mistakes.ts", emits=True)
        places = sorted({error.partition(",")[0] for error in errors})
        assert places == ["mistakes.ts(5", "mistakes.ts(6", "mistakes.ts(7"], "a path, a missing field, a type"
        assert await run("node", "client.js", folder=folder, PULSE_URL=server.base_url) == "404 not_found\n"


async def test_the_official_parser_accepts_the_asyncapi_document(server: Server, folder: Path) -> None:
    with trio.fail_after(120):
        document = await served(server, "/asyncapi.json")
        (folder / "parse.mjs").write_text(PARSE)
        found = json.loads(await run("node", "parse.mjs", folder=folder, stdin=document))
        assert found["faults"] == []
        assert found["messages"] > 20
        assert found["operations"] >= 2
        broken = json.loads(document)
        broken["operations"][next(iter(broken["operations"]))]["action"] = "shout"
        assert json.loads(await run("node", "parse.mjs", folder=folder, stdin=json.dumps(broken)))["faults"]
