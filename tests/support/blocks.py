"""Blocks of code in the documents, and the comment before each that says how it is tested.

A comment precedes each block of `sh`, `python` or `javascript`, and of any other language that no test reads:

    <!-- test: server -->             run while a service runs; http://127.0.0.1:8000 in it becomes its address
    <!-- test: alone -->              run without a service
    <!-- test: continues -->          continues the block before it, once that has printed its lines
    <!-- test: in tests/e2e/x.py -->  that test reads the block from the document
    <!-- test: none, because … -->    not run; its syntax is checked nevertheless

More lines may follow in the comment of a block that is run:

    prints: text                      prints a line that contains this text; may be repeated
    people: alice, bob                these have accounts, with the passwords "a password of alice" and so on
    needs: curl, jq                   programs without which the test is skipped
    goes on                           does not end by itself: it is killed once it has printed its lines
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt

ROOT: Final = Path(__file__).parent.parent.parent
DOCUMENTS: Final = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])

RUN: Final = ("sh", "python", "javascript")
JSON: Final = ("json", "jsonc")
"""Read by a test in any case; `jsonc` is JSON with comments."""
PLAIN: Final = ("text", *JSON, "mermaid")
"""No comment needed: drawings, answers and JSON."""

_JSON_TEXT: Final = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*')
_COMMENT: Final = re.compile(r"<!-- test: (.*?)\s*-->", re.DOTALL)
_HEAD: Final = re.compile(r"server|alone|continues|in (?P<test>tests/\S+\.py)|none, because (?P<reason>\S.*)")


@dataclass
class Block:
    """One fenced block.

    Raises:
        ValueError: its comment is missing or unknown.
    """

    document: str
    """The path of its document, from the root of the project."""
    line: int
    language: str
    text: str
    how: str = ""
    """The first word of the comment: server, alone, continues, in, none; empty without one."""
    test: str = ""
    prints: list[str] = field(default_factory=list)
    people: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    goes_on: bool = False

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"

    def read_comment(self, comment: str) -> None:
        """Parses the text of a comment."""
        head, *rest = (line.strip() for line in comment.splitlines())
        found = _HEAD.fullmatch(head)
        if found is None:
            raise ValueError(f"{self.place}: no such comment: {head}; see tests/support/blocks.py")
        self.how = head.split(",")[0].split()[0]
        self.test = found["test"] or ""
        for line in rest:
            name, _, value = line.partition(": ")
            match name:
                case "prints" if value:
                    self.prints.append(value)
                case "people" | "needs" if value:
                    setattr(self, name, value.split(", "))
                case "goes on":
                    self.goes_on = True
                case _:
                    raise ValueError(f"{self.place}: no such line in a comment: {line}")
        if rest and self.how in {"in", "none"}:
            raise ValueError(f"{self.place}: it is not run: {rest[0]}")
        if self.people and self.how != "server":
            raise ValueError(f"{self.place}: people have accounts only where a service runs from the beginning")
        if self.goes_on and not self.prints:
            raise ValueError(f"{self.place}: a program that goes on must print something")

    def check(self) -> None:
        """Rejects a block that is neither run nor says why not."""
        if self.language not in (*PLAIN, *RUN) and self.how not in {"in", "none"}:
            raise ValueError(f"{self.place}: nothing runs {self.language or 'a block without a language'}: `text`?")
        if self.language in RUN and not self.how:
            raise ValueError(f"{self.place}: a comment must say how it is run, or why not; see tests/support/blocks.py")
        if self.language in PLAIN and self.how not in {"", "none"}:
            raise ValueError(f"{self.place}: {self.language} is not run")


def blocks(document: Path, root: Path = ROOT) -> Iterator[Block]:
    """Yields the blocks of a document.

    Raises:
        ValueError: one is not fenced, or does not say how it is tested.
    """
    name = str(document.relative_to(root))
    comment: str | None = None
    for token in MarkdownIt("commonmark").parse(document.read_text()):
        if token.type == "html_block" and token.content.startswith("<!-- test:"):
            if comment is not None:
                raise ValueError(f"{name}: no block follows: {comment}")
            found = _COMMENT.match(token.content)
            if found is None:
                raise ValueError(f"{name}: the comment does not end: {token.content}")
            comment = found[1]
            continue
        if token.type in {"fence", "code_block"}:
            assert token.map is not None
            block = Block(name, token.map[0] + 1, token.info.strip(), token.content)
            if token.type == "code_block":
                raise ValueError(f"{block.place}: fence it, and name its language")
            if comment is not None:
                block.read_comment(comment)
            block.check()
            yield block
            comment = None
        elif comment is not None and token.block and not token.hidden:
            raise ValueError(f"{name}: no block follows: {comment}")
    if comment is not None:
        raise ValueError(f"{name}: no block follows: {comment}")


def uncommented(text: str) -> str:
    """Returns JSON without its `//` comments; those inside a string are text."""
    return _JSON_TEXT.sub(lambda found: found[1] or "", text)


def programs(all_blocks: list[Block]) -> list[list[Block]]:
    """Returns the programs to run: each is a block and those that continue it.

    Raises:
        ValueError: a block has nothing of its language to continue.
    """
    found: list[list[Block]] = []
    latest: dict[tuple[str, str], list[Block]] = {}
    for block in all_blocks:
        key = (block.document, block.language)
        if block.how in {"server", "alone"}:
            latest[key] = [block]
            found.append(latest[key])
        elif block.how == "continues":
            if key not in latest or latest[key][-1].goes_on:
                raise ValueError(f"{block.place}: nothing to continue")
            latest[key].append(block)
    return found
