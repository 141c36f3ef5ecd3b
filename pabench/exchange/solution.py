# SPDX-License-Identifier: Apache-2.0
"""A Solution of FlashInfer Trace: the source of a kernel for one Definition, with its entry point.

Source: github.com/flashinfer-ai/flashinfer-bench, docs/flashinfer-trace/solution.mdx.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pabench.errors import InvalidCase
from pabench.exchange.definition import SOLUTIONS
from pabench.exchange.json_files import field, parse, read_text
from pabench.text import one_line, shown_path

CALLED = ("python", "triton")
"""Languages whose entry point is a Python function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A kernel.

    Attributes:
        name: of the solution.
        definition: name of what it computes.
        language: such as ``python``.
        file, function: the entry point.
        passes_outputs: outputs come allocated as the last arguments (destination-passing style); else the
            function returns them.
        sources: path to text.
    """

    name: str
    definition: str
    language: str
    file: str
    function: str
    passes_outputs: bool
    sources: Mapping[str, str]

    @property
    def imports(self) -> frozenset[str]:
        """Top-level modules that its Python sources import."""
        found: set[str] = set()
        for path, text in self.sources.items():
            if not path.endswith(".py"):
                continue
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
        return frozenset(found)


def read_solution(path: Path) -> Solution:
    """Read a Solution; none of its code runs.

    Raises:
        UsageError: no such file, or no JSON object.
        InvalidCase: names the field and the rule.
    """
    where = f"solution {shown_path(path)}"
    data = parse(read_text(path, "solution"), where)
    spec = field(where, data, "spec", dict)
    file, colons, function = field(f"{where}: spec", spec, "entry_point", str).partition("::")
    if not colons or not file or not function.isidentifier():
        raise InvalidCase(f"{where}: spec.entry_point", spec["entry_point"], "must be file.py::function")
    field(where, data, "author", str)
    field(f"{where}: spec", spec, "target_hardware", list)
    sources = _sources(where, field(where, data, "sources", list))
    if file not in sources:
        raise InvalidCase(
            f"{where}: spec.entry_point", file, f"must be one of the sources {', '.join(sources)}"
        )
    return Solution(
        name=field(where, data, "name", str),
        definition=field(where, data, "definition", str),
        language=field(f"{where}: spec", spec, "language", str),
        file=file,
        function=function,
        passes_outputs=field(f"{where}: spec", spec, "destination_passing_style", bool, default=True),
        sources=sources,
    )


def solutions_in(root: Path) -> list[Path]:
    """Return the files of a trace set's solutions, in the order of their names."""
    return sorted((root / SOLUTIONS).rglob("*.json"))


def _sources(where: str, given: list[Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for at, source in enumerate(given):
        here = f"{where}: sources[{at}]"
        if not isinstance(source, dict):
            raise InvalidCase(here, source, "must be an object with path and content")
        path = field(here, source, "path", str)
        parts = PurePosixPath(path).parts
        if path.startswith("/") or "\\" in path or ".." in parts or path in found:
            raise InvalidCase(f"{here}.path", path, "must be a relative path without .., there once")
        content = source.get("content")
        if not isinstance(content, str):
            raise InvalidCase(f"{here}.content", content, "must be text")
        if path.endswith(".py"):
            try:
                ast.parse(content, path)
            except (SyntaxError, ValueError, RecursionError) as error:
                rule = f"must be Python: {one_line(str(error))}"
                raise InvalidCase(f"{here}.content", content, rule) from None
        found[path] = content
    if not found:
        raise InvalidCase(f"{where}: sources", [], "must hold at least one file")
    return found
