"""Serving of the web client and of the JavaScript library."""

import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import trio

import pulse_trio
from tests.support.client import Api
from tests.support.programs import node, running
from tests.support.server import Server

ROOT = Path(__file__).parent.parent.parent
WEB = ROOT / "pulse_trio" / "web"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".ts": "application/typescript; charset=utf-8",
    ".webmanifest": "application/manifest+json",
}
FILES = sorted(path for path in WEB.rglob("*.*") if path.suffix in TYPES and path != WEB / "package.json")
ADDRESSES = ["/", *(f"/{path.relative_to(WEB)}" for path in FILES if path.name != "index.html")]
LIBRARY = [address for address in ADDRESSES if address.startswith("/pulse-client")]
TO_MARKUP = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function"


class Elements(HTMLParser):
    """Collects the addresses in a page, which must have no inline script or style."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._is_in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_in_script = tag == "script"
        for name, value in attrs:
            assert not name.startswith("on"), f"a handler in the page: {name}"
            assert name != "style", "an inline style"
            if name in {"href", "src", "action"}:
                assert value is not None
                self.found.append(value)
        assert tag != "style", "an inline style"

    def handle_endtag(self, tag: str) -> None:
        self._is_in_script = False

    def handle_data(self, data: str) -> None:
        assert not self._is_in_script, "an inline script"


@pytest.mark.parametrize("address", ADDRESSES)
async def test_files_are_cached_by_their_etag(server: Server, address: str) -> None:
    with trio.fail_after(30):
        api = Api(server.base_url)
        answer = await api.get(address)
        path = WEB / (address[1:] or "index.html")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == TYPES[path.suffix]
        if path.name != "index.html":
            assert answer.content == path.read_bytes()
        headers = answer.headers
        assert headers["Cache-Control"] == "no-cache"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        for known in (headers["ETag"], f'"other", W/{headers["ETag"]}', "*"):
            again = await api.get(address, headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b""), known
            assert again.headers["ETag"] == headers["ETag"]
            assert "Content-Type" not in again.headers
        changed = await api.get(address, headers={"If-None-Match": '"another"'})
        assert (changed.status_code, changed.content) == (200, answer.content)
        head = await api.request("HEAD", address)
        assert (head.status_code, head.content, head.headers["ETag"]) == (200, b"", headers["ETag"])


async def test_pages_of_listed_origins_may_import_the_library(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_ALLOWED_ORIGINS="https://shop.example", PULSE_WEB_CLIENT="false")
    assert "/pulse-client/index.js" in LIBRARY
    with trio.fail_after(30):
        api = Api(server.base_url)
        for address in LIBRARY:
            answer = await api.get(address, headers={"Origin": "https://shop.example"})
            assert (answer.status_code, answer.headers["Content-Type"]) == (200, TYPES[Path(address).suffix])
            assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example"
            assert "Origin" in answer.headers["Vary"]
            other = await api.get(address, headers={"Origin": "https://evil.example"})
            assert "Access-Control-Allow-Origin" not in other.headers
        assert (await api.get("/pulse-client/nothing.js")).status_code == 404


async def test_the_page_has_a_strict_policy_and_needs_no_other_host(server: Server) -> None:
    with trio.fail_after(30):
        api = Api(server.base_url)
        page = await api.get("/")
        host = server.base_url.removeprefix("http://")
        policy = dict(part.strip().partition(" ")[::2] for part in page.headers["Content-Security-Policy"].split(";"))
        assert policy == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self' data:",
            "connect-src": f"'self' ws://{host} wss://{host}",
            "manifest-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
            "require-trusted-types-for": "'script'",
            "trusted-types": "'none'",
        }
        elements = Elements()
        elements.feed(page.text)
        assert {"/app/main.js", "/app/base.css", "/favicon.svg", "/manifest.webmanifest"} <= set(elements.found)
        # Imports of imports would be requested one round trip after the other.
        modules = {address for address in LIBRARY if address.endswith(".js")}
        assert modules - {"/pulse-client.js", "/pulse-client/types.js"} <= set(elements.found)
        for address in elements.found:
            assert (await api.get(address)).status_code == 200, address
    for path in FILES:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"""["'(]\s*(https?:)?//[a-z0-9-]+\.[a-z]""", text), path
        assert not re.search(TO_MARKUP, text), path


@pytest.mark.parametrize("host", ["evil'; script-src *", "a b", "a;b", "x" * 300, "[::1]:8000", "chat.example"])
async def test_only_a_valid_host_enters_the_policy(server: Server, host: str) -> None:
    with trio.fail_after(30):
        answer = await Api(server.base_url).get("/", headers={"Host": host})
        policy = answer.headers.get("Content-Security-Policy", "")
        assert "script-src *" not in policy
        if answer.status_code == 200:
            expected = f"connect-src 'self' ws://{host} wss://{host};"
            assert (expected in policy) or "connect-src 'self';" in policy
            assert (expected in policy) == (host in {"[::1]:8000", "chat.example"})


async def test_the_page_contains_the_limits_of_the_service(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_MAX_CONTENT_CHARS="123", PULSE_PASSWORD_MIN_CHARS="12")
    with trio.fail_after(30):
        page = (await Api(server.base_url).get("/")).text
    assert '<meta name="pulse-max-content-chars" content="123">' in page
    assert '<meta name="pulse-password-min-chars" content="12">' in page
    assert server.base_url in server.output


async def test_the_page_can_be_switched_off(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_WEB_CLIENT="false", PULSE_LOG_FORMAT="console")
    with trio.fail_after(30):
        api = Api(server.base_url)
        for address in ADDRESSES:
            answer = await api.get(address)
            if address in LIBRARY:
                assert answer.status_code == 200
            else:
                assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), address
    assert "Chat in the browser" not in server.output


def test_the_files_are_in_the_wheel(tmp_path: Path) -> None:
    build = f"import sys; from hatchling.build import build_wheel; print(build_wheel({str(tmp_path)!r}))"
    command = [sys.executable, "-c", build]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        names = set(wheel.namelist())
    assert {f"pulse_trio/web/{path.relative_to(WEB)}" for path in FILES} <= names


async def test_the_package_is_what_a_project_of_node_installs(server: Server, tmp_path: Path) -> None:
    """The project is what `npm init -y` makes: its own files are no ES modules unless they say so."""
    with trio.fail_after(60):
        api = Api(server.base_url)
        answer = await api.get("/pulse-client.tgz")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/gzip")
        again = await api.get("/pulse-client.tgz", headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status_code == 304
    (tmp_path / "package.json").write_text('{"name": "shop", "version": "1.0.0", "main": "index.js"}')
    installed = tmp_path / "node_modules" / "@pulse-trio" / "client"
    installed.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        names = archive.getnames()
        for member in archive.getmembers():
            content = archive.extractfile(member)
            assert content is not None
            (installed / member.name.removeprefix("package/")).write_bytes(content.read())
    assert names == sorted(f"package/{path.name}" for path in (WEB / "pulse-client").iterdir())
    assert {"package/package.json", "package/index.js", "package/index.d.ts", "package/LICENSE"} <= set(names)
    (tmp_path / "index.js").write_text(f"""
        import("@pulse-trio/client").then(async ({{ PulseClient, PulseError }}) => {{
          const client = new PulseClient({{ url: "{server.base_url}" }});
          await client.register("node_user", "a password of node");
          console.log((await client.login("node_user", "a password of node")).token_type);
          await client.history("no-id").catch((error) => console.log(error instanceof PulseError));
        }});
    """)
    with trio.fail_after(60):
        async with running(*node(), "index.js", cwd=tmp_path) as program:
            assert await program.wait_end() == 0, program.lines
    assert program.lines == ["bearer", "true"]


def test_the_package_has_the_version_and_licence_of_the_service() -> None:
    package = json.loads((WEB / "pulse-client" / "package.json").read_text())
    assert (package["version"], package["private"]) == (pulse_trio.__version__, True)
    assert (WEB / "pulse-client" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
