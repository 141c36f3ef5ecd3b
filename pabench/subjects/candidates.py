# SPDX-License-Identifier: Apache-2.0
"""Reads from a Python file, without running it, what in it could be meant as a subject."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from pathlib import Path

from pabench.subjects.reference import BACKEND

ARGUMENTS = 6
"""Of a decode function: q, k_cache, v_cache, block_table, kv_lens, sm_scale."""
METHODS = {"backend": {"plan", "run", "fetch"}, "allocator": {"alloc", "append", "free"}}
BASE = "PageAllocator"
WANTED = {
    "backend": f"a function of {ARGUMENTS} arguments, or a class with plan, run and fetch",
    "allocator": f"a class that inherits from {BASE}",
}


def candidates(kind: str, file: Path) -> list[str]:
    """Return the public functions and classes of ``file`` that fit, in their order.

    Raises:
        SyntaxError: it is no Python.
        OSError, ValueError: it cannot be read.
    """
    body = ast.parse(file.read_bytes(), str(file)).body
    return [
        node.name
        for node in body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and (_class_fits(kind, node) if isinstance(node, ast.ClassDef) else _function_fits(kind, node))
    ]


def near(name: str, names: Iterable[str]) -> str:
    """Return the nearest of ``names`` as the end of a message, empty where none is near."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""


def _function_fits(kind: str, node: ast.FunctionDef) -> bool:
    given = node.args
    most = len(given.posonlyargs) + len(given.args)
    least = most - len(given.defaults)
    keywords = [
        argument
        for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
        if default is None
    ]
    return (
        kind == BACKEND
        and not keywords
        and least <= ARGUMENTS
        and (most >= ARGUMENTS or given.vararg is not None)
    )


def _class_fits(kind: str, node: ast.ClassDef) -> bool:
    defined = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    if METHODS[kind] <= defined:
        return True
    # the rest may be inherited
    return any(base.endswith(kind.capitalize()) for base in bases)
