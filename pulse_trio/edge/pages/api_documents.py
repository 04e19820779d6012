"""The AsyncAPI document, and the page that shows the OpenAPI document; it loads nothing from other hosts."""

from importlib.resources import files
from typing import Final

import msgspec
from quart import Blueprint, Response, request
from quart_schema import hide

from pulse_trio.edge.pages import asyncapi
from pulse_trio.edge.services import app_parts, services

documents = Blueprint("documents", __name__)

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES: Final = {
    "docs.html": "text/html; charset=utf-8",
    "docs.css": "text/css; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
}
_CONTENT: Final = {name: (files(__package__) / "static" / name).read_bytes() for name in _FILES}


@documents.get("/docs")
@hide
async def docs() -> Response:
    """Returns the page."""
    return _static("docs.html")


@documents.get("/docs.css")
@hide
async def docs_css() -> Response:
    """Returns its style sheet."""
    return _static("docs.css")


@documents.get("/docs.js")
@hide
async def docs_js() -> Response:
    """Returns its script."""
    return _static("docs.js")


@documents.get("/asyncapi.json")
@hide
async def asyncapi_json() -> Response:
    """Returns the AsyncAPI document."""
    settings = services().settings
    peer = request.scope.get("client")
    # Only a trusted proxy can tell that it terminated TLS: any client may send this header.
    is_proxied = app_parts().proxies.is_proxy(None if peer is None else peer[0])
    terminated = is_proxied and request.headers.get("X-Forwarded-Proto") == "https"
    document = asyncapi.document(settings, request.host, is_tls=terminated or request.scheme == "https")
    return Response(msgspec.json.encode(document), 200, content_type="application/json")


def _static(name: str) -> Response:
    headers = {
        "Content-Security-Policy": _POLICY,
        "Cache-Control": "no-cache",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    return Response(_CONTENT[name], 200, headers=headers, content_type=_FILES[name])
