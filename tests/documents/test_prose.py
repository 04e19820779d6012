"""Documents have lines of one width, links that lead somewhere, and name files that exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.support.blocks import DOCUMENTS, ROOT

WIDTH = 120  # characters; tables and code may be wider
LEADING = {ROOT / "docs" / "tour.md", ROOT / "docs" / "architecture.md"}
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"`((?:pulse_trio|tests|migrations|benchmarks|docs)/[\w./-]*)`")


def too_wide(text: str) -> Iterator[str]:
    """Yields each line that is wider than `WIDTH`, but for tables, code, comments and single words."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    exempt = {
        line
        for token in tokens
        if token.type in {"fence", "table_open", "html_block"} and token.map is not None
        for line in range(*token.map)
    }
    for number, line in enumerate(text.splitlines()):
        is_one_word = " " not in line.strip().removeprefix("- ")
        if len(line) > WIDTH and number not in exempt and not is_one_word:
            yield f"{number + 1}: {line}"


def anchors(document: Path) -> set[str]:
    """Returns the anchors of a document's headings, as GitHub makes them: a repeated one gets -1, -2 …"""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE):
        name = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if name in found else name)
        found[name] = found.get(name, 0) + 1
    return names


def dead_links(document: Path, text: str) -> Iterator[str]:
    """Yields each link to a file that does not exist, or to an anchor that its file does not have."""
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = document if not name else document.parent / name
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


def missing(text: str) -> list[str]:
    """Returns the files, modules and folders that a text names and that do not exist."""
    return [name for name in NAMED.findall(text) if not any((ROOT / f"{name}{end}").exists() for end in ("", ".py"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_lines_have_one_width(document: Path) -> None:
    assert not list(too_wide(document.read_text()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    assert not list(dead_links(document, document.read_text()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_files_that_are_named_exist(document: Path) -> None:
    text = document.read_text()
    assert document not in LEADING or NAMED.search(text)
    assert not missing(text)


def test_faults_of_a_document_are_found() -> None:
    wide = "x " * 61
    page = f"{wide}\n\n```text\n{wide}\n```\n\n| {wide} |\n|---|\n| {wide} |\n\n- {'x' * 121}\n"
    assert list(too_wide(page)) == [f"1: {wide}"]
    document = ROOT / "docs" / "protocol.md"
    links = "[a](rest.md#errors) [b](rest.md#none) [c](none.md) [d](https://a.example) [e](#message-1) [f](#message-9)"
    assert list(dead_links(document, links)) == ["rest.md#none", "none.md", "#message-9"]
    assert missing("`pulse_trio/rooms/hub.py`, `pulse_trio/rooms/none.py`") == ["pulse_trio/rooms/none.py"]
