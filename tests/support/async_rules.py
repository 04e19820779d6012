"""Runs flake8-async with one tree a file: `python -m tests.support.async_rules --disable CODES FILES`.

flake8-async builds the tree of a file and its positions anew for each of its visitors, which takes two thirds of its
time. Without autofix no visitor changes the tree, so all of them can share it.
"""

import sys
from typing import Any

import libcst
from flake8_async import main, runner


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


if __name__ == "__main__":
    runner.cst = LibcstWithSharedTree()
    sys.exit(main())
