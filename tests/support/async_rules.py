"""Runs flake8-async with one tree a file: `python -m tests.support.async_rules --disable CODES FILES`.

flake8-async builds the tree of a file and its positions anew for each of its visitors, which takes two thirds of its
time. Without autofix no visitor changes the tree, so all of them can share it. Files that were clean with the same
options are not read again: `.async_cache` has an empty file for each.
"""

import hashlib
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import libcst
from flake8_async import main, runner

CACHE: Final = Path(".async_cache")


class SharedTree:
    """Stands in for libcst.MetadataWrapper: keeps the last wrapper, and returns the module unchanged."""

    _last: libcst.MetadataWrapper | None = None

    def __init__(self, module: libcst.Module, *, unsafe_skip_copy: bool) -> None:
        if SharedTree._last is None or SharedTree._last.module is not module:
            SharedTree._last = libcst.MetadataWrapper(module, unsafe_skip_copy=unsafe_skip_copy)
        self._wrapper = SharedTree._last

    def visit(self, visitor: libcst.CSTTransformer) -> libcst.Module:
        self._wrapper.visit(visitor)
        return self._wrapper.module


class LibcstWithSharedTree:
    """The libcst that flake8-async's runner sees."""

    MetadataWrapper = SharedTree

    def __getattr__(self, name: str) -> Any:
        return getattr(libcst, name)


def clean_mark(file: str, options: list[str]) -> Path:
    """Returns the path that exists once this content of a file was clean with these options."""
    said = repr((version("flake8-async"), options, file)).encode()
    return CACHE / hashlib.sha256(said + Path(file).read_bytes()).hexdigest()


def run(arguments: list[str]) -> int:
    """Checks the files of a command line that are not known to be clean; returns the exit code."""
    options = [argument for argument in arguments if not argument.endswith(".py")]
    files = {argument: clean_mark(argument, options) for argument in arguments if argument.endswith(".py")}
    changed = [file for file, mark in files.items() if not mark.exists()]
    if not changed:
        return 0
    runner.cst = LibcstWithSharedTree()
    sys.argv[1:] = [*options, *changed]
    code = main()
    if code == 0:
        CACHE.mkdir(exist_ok=True)
        for file in changed:
            files[file].touch()
    return code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
