"""The clients that take part."""

from pathlib import Path

from tests.javascript_fuzz.round import Client
from tests.support.programs import node

JS = Path(__file__).parent.parent / "js" / "fuzz_program.mjs"


def javascript_clients() -> list[Client]:
    """Returns a page that uses the JavaScript client, and the data layer of the web client; skips without Node.js."""
    command = [*node(), str(JS)]
    return [Client(kind, command, {"PULSE_KIND": kind}) for kind in ("page", "store")]
