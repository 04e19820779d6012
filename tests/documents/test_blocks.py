"""Blocks of code in documents: each says how it is tested."""

import json
from pathlib import Path

import pytest

from tests.support.blocks import Block, blocks, programs, uncommented


def read(folder: Path, text: str) -> list[Block]:
    document = folder / "page.md"
    document.write_text(text)
    return list(blocks(document, folder))


def fenced(language: str, comment: str = "", text: str = "true") -> str:
    return f"{comment}\n```{language}\n{text}\n```\n"


def test_blocks_that_continue_are_one_program_with_the_first(tmp_path: Path) -> None:
    page = "".join(
        (
            "# Page\n\n",
            fenced(
                "python", "<!-- test: server\nprints: 1\nprints: 2: 3\npeople: ann, bob\nneeds: curl\n-->", "print(1)"
            ),
            "Then, in a list:\n\n- this\n\n  <!-- test: alone -->\n  ```sh\n  echo 2\n  ```\n\n",
            fenced("json", text="{}"),
            fenced("python", "<!-- test: continues\nprints: 3\ngoes on\n-->", "print(3)"),
            fenced("ini", "<!-- test: none, because it is for a machine of\nyour own -->").replace("\nyour", " your"),
        )
    )
    found = read(tmp_path, page)
    assert [block.line for block in found] == [9, 17, 22, 29, 33]
    first, second = programs(found)
    assert [block.text for block in first] == ["print(1)\n", "print(3)\n"]
    assert (first[0].prints, first[0].people, first[0].needs) == (["1", "2: 3"], ["ann", "bob"], ["curl"])
    assert (first[0].goes_on, first[1].goes_on, first[1].place) == (False, True, "page.md:29")
    assert [block.text for block in second] == ["echo 2\n"]


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        (fenced("sh"), "a comment must say"),
        (fenced("python"), "a comment must say"),
        (fenced("javascript"), "a comment must say"),
        (fenced(""), "a block without a language"),
        (fenced("yaml"), "nothing runs yaml"),
        (fenced("yaml", "<!-- test: server -->"), "nothing runs yaml"),
        (fenced("json", "<!-- test: server -->"), "json is not run"),
        ("    make serve\n", "fence it"),
        (fenced("sh", "<!-- test: none -->"), "no such comment"),
        (fenced("sh", "<!-- test: none, because -->"), "no such comment"),
        (fenced("sh", "<!-- test: in production -->"), "no such comment"),
        (fenced("sh", "<!-- test: server\nprint: 1 -->"), "no such line"),
        (fenced("sh", "<!-- test: none, because so\nprints: 1 -->"), "it is not run"),
        (fenced("sh", "<!-- test: server\ngoes on -->"), "must print something"),
        (fenced("sh", "<!-- test: alone\npeople: ann -->"), "people have accounts"),
        (fenced("sh", "<!-- test: server -->\n\nBut first a word.\n\n"), "no block follows"),
        ("<!-- test: server -->\n", "no block follows"),
        (fenced("sh", "<!-- test: server -->\n\n<!-- test: alone -->"), "no block follows"),
    ],
)
def test_a_block_without_a_valid_comment_is_rejected(tmp_path: Path, page: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read(tmp_path, page)


@pytest.mark.parametrize(
    "before",
    [
        "",
        fenced("python", "<!-- test: server -->"),
        fenced("sh", "<!-- test: none, because so -->"),
        fenced("sh", "<!-- test: server\nprints: 1\ngoes on -->"),
    ],
)
def test_a_block_continues_only_a_running_one(tmp_path: Path, before: str) -> None:
    found = read(tmp_path, before + fenced("sh", "<!-- test: continues -->"))
    with pytest.raises(ValueError, match="nothing to continue"):
        programs(found)


def test_comments_of_json_are_removed_and_strings_kept() -> None:
    text = '{\n  "url": "http://a",  // an address\n  "quote": "\\"//"  // "in" a comment\n}\n// the end'
    assert json.loads(uncommented(text)) == {"url": "http://a", "quote": '"//'}
    with pytest.raises(json.JSONDecodeError):
        json.loads(uncommented('{"a": 1 / 2}'))
