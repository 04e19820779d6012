"""The page that shows the API's OpenAPI document to people; it fetches nothing from anywhere else."""

from importlib.resources import files
from typing import Final

from quart import Blueprint, Response
from quart_schema import hide

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
    """The page."""
    return _static("docs.html")


@documents.get("/docs.css")
@hide
async def docs_css() -> Response:
    """Its style."""
    return _static("docs.css")


@documents.get("/docs.js")
@hide
async def docs_js() -> Response:
    """Its program."""
    return _static("docs.js")


def _static(name: str) -> Response:
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
    return Response(_CONTENT[name], 200, headers=headers, content_type=_FILES[name])
