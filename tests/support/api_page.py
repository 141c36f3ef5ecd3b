# SPDX-License-Identifier: Apache-2.0
"""Writes docs/api.md, the reference of the Python API, from signatures and docstrings: ``make api``."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
SHOWN = (
    ("pabench.check", "pabench.trial.check:check"),
    ("pabench.trial.result.CheckResult", "pabench.trial.result:CheckResult"),
    ("pabench.read", "pabench.analysis.frame:read"),
    ("pabench.compare", "pabench.comparison.compare:compare"),
    ("pabench.trial.live.judged", "pabench.trial.live:judged"),
    ("pabench.trial.live.Counts", "pabench.trial.live:Counts"),
    ("pabench.problem.profile.NumericsProfile", "pabench.problem.profile:NumericsProfile"),
    ("pabench.subjects.backends.base.Capabilities", "pabench.subjects.backends.base:Capabilities"),
)
"""What a program imports, with its place."""


def text() -> str:
    """Return the page."""
    parts = [
        "# Python API",
        "Signatures and docstrings of what programs import; `make api` writes this page. The protocols of"
        " [backends](backends.md) and [allocators](allocators.md) have their own pages.",
    ]
    for name, place in SHOWN:
        module, _, attribute = place.partition(":")
        parts.append(_entry(name, getattr(importlib.import_module(module), attribute)))
    return "\n\n".join(parts) + "\n"


def _entry(name: str, found: Any) -> str:
    lines = [f"## {name}", "", "```text"]
    short = name.rpartition(".")[2]
    lines += [] if inspect.isclass(found) else [_signature(short, found), ""]
    lines += [inspect.getdoc(found) or ""]
    if inspect.isclass(found):
        for method, value in vars(found).items():
            if not method.startswith("_") and inspect.isfunction(value):
                lines += ["", _signature(f"{short}.{method}", value), f"    {_first_line(value)}"]
            elif not method.startswith("_") and isinstance(value, property):
                lines += ["", f"{short}.{method}", f"    {_first_line(value.fget)}"]
    return "\n".join([*lines, "```"])


def _signature(name: str, function: Any) -> str:
    """One line, or one a parameter; annotations are texts, the same under every Python."""
    given = [
        re.sub(r": '([^']*)'", r": \1", str(one)) for one in inspect.signature(function).parameters.values()
    ]
    given = [one for one in given if one != "self"]
    kinds = [one.kind for one in inspect.signature(function).parameters.values() if one.name != "self"]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        given.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    returns = str(inspect.signature(function).return_annotation).replace("'", "")
    line = f"{name}({', '.join(given)}) -> {returns}"
    if len(line) <= 100:
        return line
    return "\n".join([f"{name}(", *(f"    {one}," for one in given), f") -> {returns}"])


def _first_line(function: Any) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
