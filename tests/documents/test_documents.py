"""The documents agree with the code: settings, error codes, frames and close codes."""

import json
import re
import typing
from pathlib import Path

import msgspec

from pulse_trio import protocol
from pulse_trio.errors import ErrorCode
from pulse_trio.protocol import FRAME_ERRORS, CloseCode, FrameReader
from pulse_trio.settings import Settings
from tests.support.blocks import uncommented

ROOT = Path(__file__).parent.parent.parent
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
REST = (ROOT / "docs" / "rest.md").read_text()


def shown(value: object) -> str:
    """Returns a value as the table of settings shows it."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def bounds(field: typing.Any) -> str:
    """Returns the bounds of a field as the table of settings shows them."""
    limits = {
        name: limit
        for part in field.metadata
        for name in ("ge", "gt", "le")
        if (limit := getattr(part, name, None)) is not None
    }
    if limits:
        least = shown(limits["ge"]) if "ge" in limits else f"> {shown(limits['gt'])}"
        return f"{least} – {shown(limits['le'])}"
    is_choice = typing.get_origin(field.annotation) is typing.Literal
    return ", ".join(typing.get_args(field.annotation)) if is_choice else ""


def settings_table() -> str:
    """Returns the table of settings that docs/operations.md must have."""
    rows = ["| variable | default | bounds | what it does |", "|---|---|---|---|"]
    rows += [
        f"| `{name}` | {shown(field.default)} | {bounds(field)} | {' '.join((field.description or '').split())} |"
        for name, field in Settings.variables().items()
    ]
    return "\n".join(rows)


def test_operations_lists_every_setting() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    listed = re.search(r"<!-- settings: .*? -->\n(.*)\n<!-- /settings -->", text, re.DOTALL)
    assert listed is not None
    assert listed[1] == settings_table()


def test_rest_lists_every_error_with_its_sentence() -> None:
    listed = re.search(r"\| status \| `code` \| `message` \|\n.*\n((\|.*\n)+)", REST)
    assert listed is not None
    rows = [f"| {code.status} | `{code.code}` | {code.sentence} |" for code in ErrorCode]
    assert sorted(listed[1].splitlines()) == sorted(rows)


def test_tables_of_codes_agree_with_the_code() -> None:
    closed = re.search(r"## Close codes\n\n.*\n.*\n((\|.*\n)+)", PROTOCOL)
    assert closed is not None
    rows = [f"| {int(code)} | {code.meaning} | {code.advice} |".replace("|  |", "| |") for code in CloseCode]
    assert closed[1].splitlines() == rows
    refused = re.search(r"### `error`\n[^#]*?\n\|---\|---\|\n((\|.*\n)+)", PROTOCOL)
    assert refused is not None
    assert refused[1].splitlines() == [f"| `{code.code}` | {meaning} |" for code, meaning in FRAME_ERRORS.items()]


def examples(section: str) -> list[dict[str, object]]:
    """Returns the example frames of a section of docs/protocol.md."""
    start = PROTOCOL.index(f"## {section}")
    end = PROTOCOL.index("\n## ", start + 1)
    texts = re.findall(r"```jsonc\n(.*?)```", PROTOCOL[start:end], re.DOTALL)
    return [json.loads(uncommented(text)) for text in texts]


def test_every_client_frame_has_an_example() -> None:
    reader = FrameReader(4_000)
    shown_types = {type(reader.read(json.dumps(example))) for example in examples("From the client")}
    assert shown_types == set(typing.get_args(protocol.ClientFrame))


def test_every_server_frame_has_an_example() -> None:
    frames = typing.get_args(protocol.ServerFrame)
    found = examples("From the server")
    for example in found:
        frame = msgspec.convert(example, typing.Union[frames], strict=True)  # noqa: UP007  # made from a tuple
        assert json.loads(protocol.encode(frame).text) == example
    assert {example["type"] for example in found} == {frame.__struct_config__.tag for frame in frames}
