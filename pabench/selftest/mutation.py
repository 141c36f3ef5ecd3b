# SPDX-License-Identifier: Apache-2.0
"""Makes mutants by rule from the kernel sources: the faults that nobody thought of.

The rules change one token: a comparison, an operator, a whole number, a name for its neighbour, a statement
that is left out.  The same number and seed give the same mutants while the sources stay as they are.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pabench.errors import UsageError
from pabench.resources import resource_dir
from pabench.selftest.mutants import Mutant
from pabench.selftest.own_subjects import SUBJECTS

NO_CODE = re.compile(
    r'//[^\n]*|/\*.*?\*/|"(?:[^"\\\n]|\\.)*"|^[ \t]*#(?:[^\n\\]|\\.|\\\n)*', re.DOTALL | re.MULTILINE
)
STATIC = re.compile(r"\b(?:static_assert|template|using|enum)\b[^;{]*[;{]")
EXCUSED = {
    "a hint to the compiler, on a GPU alone": re.compile(r"__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)"),
    "the number of a place at which tests can stall a thread": re.compile(r"\bstall\.point\(\d+\)"),
}
"""What no input can tell from the original, by construction: the reason, and the code in which it holds."""
FOREIGN = {"pab/intrinsics.cuh", "pab/intrinsics_cuda.cuh", "pab/types.cuh"}
"""The intrinsics have a second side for each device, and tests of their own."""

SWAPS = {
    "comparison": {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="},
    "arithmetic": {"+": "-", "-": "+", "*": "+", "/": "*", "%": "/", "<<": ">>", "&": "|"},
    "logic": {"&&": "||", "||": "&&"},
    "assignment": {"+=": "=", "-=": "+=", "*=": "="},
}
OPERATOR = re.compile(r"(?<= )(<<|<=|>=|==|!=|&&|\|\||\+=|-=|\*=|[<>+\-*/%&])(?= )")
NUMBER = re.compile(r"(?<![\w.])(\d+)(?:u|ull)?(?![\w.])")
NAMES = (
    ("page_stride", "token_stride", "head_stride"),
    ("num_qo_heads", "num_kv_heads"),
    ("head", "kv_head"),
    ("fmaxf", "fminf"),
    ("first", "end"),
    ("low", "high"),
    ("source", "target"),
    ("sequence", "head"),
    ("max", "sum"),
    ("k", "v"),
)
NEIGHBOURS = {
    name: other for names in NAMES for name, other in zip(names, names[1:] + names[:1], strict=True)
}
NAME = re.compile(rf"(?<![\w])({'|'.join(sorted(NEIGHBOURS, key=len, reverse=True))})(?!\w|\()")
STATEMENT = re.compile(
    r"^[ \t]*((?:__syncthreads|(?:sync|fence|cp_async|atomic)_\w+|[\w.\[\]>-]+ (?:[+*-]?=)) ?"
    r"[^;{}\n]*;)[ \t]*$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Change:
    """One token to change: where, and into what."""

    file: str
    start: int
    end: int
    after: str
    rule: str


def generated(count: int, *, seed: int) -> list[Mutant]:
    """Return mutants of the kernel sources that our subjects are made of, drawn by ``seed``.

    ``count`` are drawn; those that are excused by rule are left out.

    Raises:
        UsageError: the rules make fewer than ``count``.
    """
    folder = resource_dir("kernels_cuda")
    made = {file for subject in SUBJECTS for file in subject.files() if file.endswith((".cu", ".cuh"))}
    texts = {file: (folder / file).read_text(encoding="utf-8") for file in sorted(made - FOREIGN)}
    changes = [change for file, text in texts.items() for change in changes_of(file, text)]
    if count > len(changes):
        raise UsageError(f"--generate {count}: the rules make {len(changes)} mutants of these sources")
    chosen = random.Random(seed).sample(changes, count)
    judged = [change for change in chosen if excuse_for(change, texts[change.file]) is None]
    return [
        mutant_of(change, texts[change.file]) for change in sorted(judged, key=lambda c: (c.file, c.start))
    ]


def excuse_for(change: Change, text: str) -> str | None:
    """Return why ``change`` of ``text`` changes nothing by construction, or None; see ``EXCUSED``."""
    for reason, pattern in EXCUSED.items():
        if any(found.start() <= change.start < found.end() for found in pattern.finditer(text)):
            return reason
    return None


def changes_of(file: str, text: str) -> Iterator[Change]:
    """Yield every change that the rules make in the code of ``text``, in no particular order."""
    code = text
    for pattern in (NO_CODE, STATIC):
        code = pattern.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), code)
    for found in OPERATOR.finditer(code):
        for rule, swaps in SWAPS.items():
            if (after := swaps.get(found[1])) is not None:
                yield Change(file, found.start(1), found.end(1), after, rule)
    for found in NUMBER.finditer(code):
        yield Change(file, found.start(1), found.end(1), str(int(found[1]) + 1), "number")
    for found in NAME.finditer(code):
        yield Change(file, found.start(1), found.end(1), NEIGHBOURS[found[1]], "name")
    for found in STATEMENT.finditer(code):
        yield Change(file, found.start(1), found.end(1), ";", "left-out")


def mutant_of(change: Change, text: str) -> Mutant:
    """Return the mutant of ``change``: whole lines, as many as it takes to stand once in ``text``."""
    start = text.rfind("\n", 0, change.start) + 1
    end = (text + "\n").find("\n", change.end)
    while text.count(text[start:end]) > 1:
        start = text.rfind("\n", 0, max(start - 1, 0)) + 1
        end = min(len(text), (text + "\n").find("\n", end + 1))
    line = text.count("\n", 0, change.start) + 1
    column = change.start - text.rfind("\n", 0, change.start)
    stem = change.file.replace("/", "-").rsplit(".", 1)[0]
    return Mutant(
        id=f"{stem}-{line}.{column}-{change.rule}",
        file=change.file,
        before=text[start:end],
        after=text[start : change.start] + change.after + text[change.end : end],
        bugs=(),
        trigger=f"line {line}: {text[change.start : change.end]} becomes {change.after}",
        killed_by="any",
    )
