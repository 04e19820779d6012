"""The JavaScript client as a package: installed and packed by npm, with types that accept the documents' examples."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.npm.declarations import CLIENT, declarations
from tests.support.blocks import ROOT, blocks, programs
from tests.support.server import Server

NPM = os.environ.get("PULSE_TEST_NPM", "")
MODULES = Path(NPM).resolve() / "node_modules"
pytestmark = pytest.mark.skipif(not NPM, reason="make test-npm runs them")

STRICT = {
    "strict": True,
    "allowJs": True,
    "checkJs": True,
    "noEmit": True,
    "target": "es2023",
    "module": "nodenext",
    "lib": ["es2023", "dom"],
    "types": ["node"],
}
MISSPELT = """
import { PulseClient } from "@pulse-trio/client";
const client = new PulseClient({ url: "http://127.0.0.1:8000" });
client.addEventListener("mesage", ({ detail }) => detail);
client.addEventListener("message", ({ detail }) => detail.text);
client.addEventListener("message_deleted", ({ detail }) => detail.content.length);
client.send("id", 5);
new PulseClient({ urls: "http://127.0.0.1:8000" });
"""


def npm(*arguments: str, folder: Path) -> str:
    """Runs npm; returns what it prints."""
    command = ["npm", *arguments, "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def project(folder: Path, **package: object) -> Path:
    """Makes a project that has the client, the types of Node.js and ws; returns its folder."""
    (folder / "package.json").write_text(json.dumps({"name": "shop", "version": "1.0.0", **package}))
    modules = folder / "node_modules"
    (modules / "@types").mkdir(parents=True)
    shutil.copytree(CLIENT, modules / "@pulse-trio" / "client")
    for name in ("@types/node", "@types/ws", "undici-types", "ws"):
        (modules / name).symlink_to(MODULES / name)
    return folder


def errors_of_types(folder: Path, *files: str, emits: bool = False) -> list[str]:
    """Type-checks files of a project; returns the errors. `emits`: also writes them as JavaScript."""
    (folder / "tsconfig.json").write_text(
        json.dumps({"compilerOptions": {**STRICT, "noEmit": not emits}, "files": list(files)})
    )
    command = [str(MODULES / ".bin" / "tsc"), "--project", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    lines = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert (done.returncode == 0) == (not lines), done.stdout
    return lines


def test_the_declarations_are_those_of_the_modules() -> None:
    """`make types` writes them."""
    assert {path.name: path.read_text() for path in CLIENT.glob("*.d.ts")} == declarations(Path(NPM))


def test_the_examples_of_the_document_have_no_error_of_types(tmp_path: Path) -> None:
    found = [block for block in blocks(ROOT / "docs" / "javascript.md") if block.language == "javascript"]
    folder = project(tmp_path, type="module")
    names = []
    for number, program in enumerate([*programs(found), *([block] for block in found if block.how == "none")]):
        text = "\n".join(block.text for block in program).replace('"/pulse-client.js"', '"@pulse-trio/client"')
        names.append(f"example_{number}.js")
        (folder / names[-1]).write_text(text)
    assert len(names) >= 2
    assert errors_of_types(folder, *names) == []


def test_misspelt_events_fields_and_options_are_errors_of_types(tmp_path: Path) -> None:
    (project(tmp_path, type="module") / "program.js").write_text(MISSPELT)
    errors = errors_of_types(tmp_path, "program.js")
    first = MISSPELT.splitlines().index('client.addEventListener("mesage", ({ detail }) => detail);') + 1
    assert [int(error.partition("(")[2].partition(",")[0]) for error in errors] == list(range(first, first + 5)), errors


def test_a_typescript_project_names_the_types(tmp_path: Path) -> None:
    program = """
    import { PulseClient, PulseError, type Message, type Events } from "@pulse-trio/client";
    import WebSocket from "ws";
    const client = new PulseClient({ url: "http://127.0.0.1:8000", WebSocket });
    const shown: Message[] = (await client.history("id", { limit: 5 })).messages;
    const onMessage = ({ detail }: CustomEvent<Events["message"]>): number => detail.seq + shown.length;
    client.addEventListener("message", onMessage);
    client.removeEventListener("message", onMessage);
    client.addEventListener("error", ({ detail }) => console.log(detail instanceof PulseError && detail.code));
    """
    (project(tmp_path, type="module") / "program.ts").write_text(program)
    assert errors_of_types(tmp_path, "program.ts") == []


@pytest.mark.parametrize("kind", ["commonjs", "module"])
def test_npm_installs_the_served_package(server: Server, tmp_path: Path, kind: str) -> None:
    """The client connects with the WebSocket of the package ws, sends, and lets the process end at once."""
    npm("init", "-y", folder=tmp_path)
    npm("pkg", "set", f"type={kind}", folder=tmp_path)
    npm("install", f"{server.base_url}/pulse-client.tgz", folder=tmp_path)
    (tmp_path / "node_modules" / "ws").symlink_to(MODULES / "ws")
    (tmp_path / "index.mjs").write_text(f"""
        import {{ PulseClient }} from "@pulse-trio/client";
        import WebSocket from "ws";
        const client = new PulseClient({{ url: "{server.base_url}", WebSocket }});
        await client.register("{kind}", "a password of node");
        await client.login("{kind}", "a password of node");
        const {{ id }} = await client.createConversation({{ name: "Team", isGroup: true }});
        client.connect();
        console.log((await client.send(id, "Hello")).seq);
        client.close();
    """)
    done = subprocess.run(["node", "index.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_npm_packs_the_folder_of_the_client(tmp_path: Path) -> None:
    (packed,) = json.loads(npm("pack", "--json", f"--pack-destination={tmp_path}", str(CLIENT), folder=tmp_path))
    assert sorted(file["path"] for file in packed["files"]) == sorted(path.name for path in CLIENT.iterdir())
