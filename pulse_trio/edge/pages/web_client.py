"""The web client and the JavaScript library: files that are loaded once, at the start, and cached by their ETag.

The content security policy allows scripts and styles from files of this package only, and no conversion of text to
markup (`require-trusted-types-for`), so no part of an address or a message can run as code.

`/pulse-client.tgz` is the folder of the library as `npm pack` makes it: `npm install` takes its address.
"""

import hashlib
import html
import io
import re
import tarfile
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

import trio
from quart import Blueprint, Quart, Response, request
from quart_schema import hide
from werkzeug.exceptions import NotFound

from pulse_trio.edge.compression import GZIP, Coding, chosen_coding, compress_often_sent
from pulse_trio.settings import Settings

LIBRARY: Final = "pulse-client"
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".tgz": "application/gzip",
    ".ts": "application/typescript; charset=utf-8",
    ".webmanifest": "application/manifest+json",
}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src {connect}; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
# The hosts that may appear in the policy: a `Host` header is text that the client chose.
_HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}(?::\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::\d{1,5})?")


@dataclass(slots=True)
class _File:
    """A file to serve.

    Attributes:
        content: its bytes.
        content_type: its type.
        etag: names these bytes.
        is_compressible: it is no archive.
        compressed: its bytes in each coding (by name) that a client has asked for: made at the first request, because
            the smallest form of all files takes half a second, which no start should.
    """

    content: bytes
    content_type: str
    etag: str
    is_compressible: bool
    compressed: dict[str, bytes] = field(default_factory=dict)
    _compressing: trio.Lock = field(default_factory=trio.Lock)

    async def encode(self, coding: Coding) -> bytes:
        """Returns the file in a coding, which is made once: requests that come meanwhile wait for it."""
        if coding.name not in self.compressed:
            async with self._compressing:
                if coding.name not in self.compressed:
                    self.compressed[coding.name] = await compress_often_sent(self.content, coding)
        return self.compressed[coding.name]


def install(app: Quart, settings: Settings) -> None:
    """Adds the routes of the library, and of the web client if the settings enable it.

    Raises:
        OSError: a file of the package cannot be read.
    """
    folder = files("pulse_trio") / "web"
    web = Blueprint("web", __name__)
    library = _load(folder / f"{LIBRARY}.js")
    modules = _load_all(folder / LIBRARY)
    package = _file(f"{LIBRARY}.tgz", _pack(folder / LIBRARY), is_compressible=False)

    @web.get(f"/{LIBRARY}.js")
    @hide
    async def client_library() -> Response:
        """Returns the JavaScript library, which pages of `PULSE_ALLOWED_ORIGINS` may import, too."""
        return await _answer(library)

    @web.get(f"/{LIBRARY}.tgz")
    @hide
    async def client_package() -> Response:
        """Returns the library as a package for `npm install`."""
        return await _answer(package)

    @web.get(f"/{LIBRARY}/<name>")
    @hide
    async def client_module(name: str) -> Response:
        """Returns a module that the library imports by a relative address."""
        return await _answer_one(modules, name)

    if settings.web_client:
        page = _load(folder / "index.html", _filled_in(settings))
        beside = {name: _load(folder / name) for name in ("favicon.svg", "manifest.webmanifest")}
        parts = _load_all(folder / "app")

        @web.get("/")
        @hide
        async def client_page() -> Response:
            """Returns the page."""
            return await _answer(page)

        @web.get("/favicon.svg")
        @hide
        async def client_icon() -> Response:
            """Returns its icon."""
            return await _answer(beside["favicon.svg"])

        @web.get("/manifest.webmanifest")
        @hide
        async def client_manifest() -> Response:
            """Returns its web app manifest."""
            return await _answer(beside["manifest.webmanifest"])

        @web.get("/app/<name>")
        @hide
        async def client_part(name: str) -> Response:
            """Returns one of its scripts and style sheets."""
            return await _answer_one(parts, name)

    app.register_blueprint(web)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]


def _load_all(folder: Traversable) -> dict[str, _File]:
    return {entry.name: _load(entry) for entry in folder.iterdir() if _suffix(entry.name) in _TYPES}


def _load(path: Traversable, values: dict[str, str] | None = None) -> _File:
    content = path.read_bytes()
    for name, value in (values or {}).items():
        content = content.replace(f"{{{{{name}}}}}".encode(), html.escape(value).encode())
    return _file(path.name, content)


def _file(name: str, content: bytes, *, is_compressible: bool = True) -> _File:
    return _File(content, _TYPES[_suffix(name)], hashlib.sha256(content).hexdigest()[:32], is_compressible)


def _pack(folder: Traversable) -> bytes:
    """Returns the files in the form of `npm pack`; the same files make the same bytes, whose hash npm locks."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
            content = entry.read_bytes()
            member = tarfile.TarInfo(f"package/{entry.name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return GZIP.best(packed.getvalue())


def _filled_in(settings: Settings) -> dict[str, str]:
    """Returns the limits that the page checks itself."""
    return {
        "max_content_chars": str(settings.max_content_chars),
        "password_min_chars": str(settings.password_min_chars),
    }


async def _answer_one(files: dict[str, _File], name: str) -> Response:
    if name not in files:
        raise NotFound
    return await _answer(files[name])


async def _answer(file: _File) -> Response:
    """Returns the file, or 304 if the browser has it."""
    coding = chosen_coding(request) if file.is_compressible else None
    # Each form has an ETag of its own (RFC 9110, section 8.8.3.3).
    etag = file.etag if coding is None else f"{file.etag}-{coding.name}"
    is_known = request.if_none_match.contains_weak(etag)
    content = b""
    if not is_known:
        content = file.content if coding is None else await file.encode(coding)
    response = Response(content, 304 if is_known else 200, content_type=file.content_type)
    response.set_etag(etag)
    headers = response.headers
    response.vary.add("Accept-Encoding")
    if coding is not None and not is_known:
        headers["Content-Encoding"] = coding.name
    headers["Cache-Control"] = "no-cache"
    headers["Content-Security-Policy"] = _POLICY.format(connect=_sources(request.host))
    headers["Cross-Origin-Opener-Policy"] = "same-origin"
    if is_known:
        del headers["Content-Type"], headers["Content-Length"]
    return response


def _sources(host: str) -> str:
    """Returns the `connect-src` of the policy: this host. Older browsers do not count its WebSockets as 'self'."""
    return f"'self' ws://{host} wss://{host}" if _HOST.fullmatch(host) else "'self'"
