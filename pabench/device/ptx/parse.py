# SPDX-License-Identifier: Apache-2.0
"""PTX text to functions, variables and statements, each with its line."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from pabench.device.ptx.types import WIDTHS, PtxError

NAME = r"[A-Za-z_$%][\w$]*"
NOISE = re.compile(r'"(?:[^"\\\n]|\\.)*"|/\*.*?\*/|//[^\n]*', re.DOTALL)
FILE = re.compile(r'\.file\s+(\d+)\s+"([^"]*)"[^\n]*')
LOC = re.compile(
    r"\.loc\s+(\d+)\s+(\d+)\s+(\d+)(?:,\s*function_name\s+\S+(?:\s*\+\s*\d+)?,"
    r"\s*inlined_at\s+(\d+)\s+(\d+)\s+(\d+))?"
)
LABEL = re.compile(rf"({NAME})\s*:(?!:)")
HEAD = re.compile(
    rf"((?:\.(?:visible|extern|weak|common)\s+)*)\.(entry|func)\b\s*(?:\(([^)]*)\))?\s*({NAME})\s*(?:\(([^)]*)\))?"
)
PARAMETER = re.compile(
    r"\.(?:param|reg)\s+(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)"
    r"(?P<pointer>\s+\.ptr(?:\s+\.(?:global|shared|local|const))?(?:\s+\.align\s+\d+)?)?"
    rf"\s+(?P<name>{NAME})(?:\[(?P<count>\d+)\])?"
)
VARIABLE = re.compile(
    r"(?P<links>(?:\.(?:visible|extern|weak|common)\s+)*)\.(?P<space>global|const|shared|local)\s+"
    r"(?:\.attribute\([^)]*\)\s+)?(?:\.align\s+(?P<align>\d+)\s+)?(?:\.v(?P<vector>[248])\s+)?\.(?P<type>\w+)\s+"
    rf"(?P<name>{NAME})\s*(?P<sizes>(?:\[\d*\])*)\s*(?:=\s*(?P<values>.*))?",
    re.DOTALL,
)
INSTRUCTION = re.compile(rf"(?:@(!?)({NAME})\s+)?([a-z]\w*(?:(?:::|\.)\w+)*)\s*(.*)", re.DOTALL)
SKIPPED = re.compile(r"\.(version|target|address_size|pragma|alias)\b[^\n]*")
SECTION = re.compile(r"\.section\s+[\w.]+\s*\{.*?\}", re.DOTALL)
IGNORED = (SKIPPED, FILE, SECTION, LOC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A line of the source that was compiled: number of the file in ``Module.files``, line, column."""

    file: int
    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One piece of a function's body.

    Attributes:
        kind: ``open``, ``close``, ``label``, ``loc``, ``directive`` or ``instruction``.
        line: of the PTX.
        text: of a label its name, of the last two kinds all of it, without the semicolon.
        place, caller: of a ``loc``, where the code stands and where it was inlined.
    """

    kind: str
    line: int
    text: str = ""
    place: Place | None = None
    caller: Place | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """An instruction taken apart.

    Attributes:
        guard: ``p`` or ``!p`` of ``@p`` or ``@!p``; empty for none.
        opcode: mnemonic with all modifiers.
        mnemonic: its first word.
        modifiers: the others; ``shared::cta`` is one.
        operands: groups in braces, brackets or parentheses are one operand.
    """

    line: int
    guard: str
    opcode: str
    mnemonic: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]

    def has(self, *names: str) -> bool:
        """Whether any of ``names`` is a modifier."""
        return any(name in self.modifiers for name in names)

    @property
    def types(self) -> list[str]:
        """The modifiers that are types, in order."""
        return [name for name in self.modifiers if name in WIDTHS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter: a value of ``type``, or a structure of ``count``; ``pointer`` where PTX says so."""

    name: str
    type: str
    count: int | None
    align: int
    pointer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """Memory with a name; ``count`` elements, None for the dynamic shared memory of a launch."""

    name: str
    space: str
    type: str
    count: int | None
    align: int
    values: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function with a body; ``attributes`` is what stands between its head and the body."""

    name: str
    entry: bool
    parameters: tuple[Parameter, ...]
    returns: tuple[Parameter, ...]
    attributes: str
    body: tuple[Statement, ...]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """All of a PTX text; ``files`` has the source files by the numbers of ``.loc``."""

    target: str
    files: dict[int, str]
    variables: tuple[Variable, ...]
    functions: tuple[Function, ...]


@dataclass(slots=True)
class _Text:
    text: str
    starts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.starts = [0, *(match.end() for match in re.finditer("\n", self.text))]

    def line(self, at: int) -> int:
        return bisect_right(self.starts, at)


def parse(text: str) -> Module:
    """Take a PTX text apart.

    Raises:
        PtxError: it is no PTX, or ends in the midst of something.
    """
    plain = _Text(NOISE.sub(_quiet, text))
    source = plain.text
    target = re.search(r"^\s*\.target\s+(\w+)", source, re.MULTILINE)
    if target is None or not re.search(r"^\s*\.version\s", source, re.MULTILINE):
        raise PtxError("no PTX: it has no .version and .target")
    files = {int(match[1]): match[2] for match in FILE.finditer(source)}
    variables: list[Variable] = []
    functions: list[Function] = []
    at = 0
    while at < len(source):
        if source[at].isspace() or source[at] == ";":
            at += 1
        elif match := next((found for one in IGNORED if (found := one.match(source, at))), None):
            at = match.end()
        elif match := HEAD.match(source, at):
            function, at = _function(plain, match)
            functions += [function] if function else []
        else:
            end = _end(plain, at, "a declaration")
            variables.append(parse_variable(source[at:end], plain.line(at)))
            at = end + 1
    return Module(target=target[1], files=files, variables=tuple(variables), functions=tuple(functions))


def _quiet(match: re.Match[str]) -> str:
    """Leave strings, and of a comment its line ends."""
    return match[0] if match[0][0] == '"' else " " + "\n" * match[0].count("\n")


def _end(plain: _Text, at: int, what: str) -> int:
    end = plain.text.find(";", at)
    if end < 0:
        raise PtxError(f"PTX line {plain.line(at)}: {what} without an end: is the text cut?")
    return end


def _function(plain: _Text, head: re.Match[str]) -> tuple[Function | None, int]:
    source, line = plain.text, plain.line(head.start())
    begin, semicolon = source.find("{", head.end()), source.find(";", head.end())
    if semicolon >= 0 and (begin < 0 or semicolon < begin):
        return None, semicolon + 1  # declared only
    depth, at = 0, begin
    for brace in re.finditer("[{}]", source[begin:] if begin >= 0 else ""):
        depth += 1 if brace[0] == "{" else -1
        at = begin + brace.start()
        if depth == 0:
            break
    if begin < 0 or depth:
        raise PtxError(f"PTX line {line}: function {head[4]} without an end: is the text cut?")
    function = Function(
        name=head[4],
        entry=head[2] == "entry",
        parameters=parse_parameters(head[5] or "", line),
        returns=parse_parameters(head[3] or "", line),
        attributes=source[head.end() : begin],
        body=tuple(_statements(plain, begin + 1, at)),
        line=line,
    )
    return function, at + 1


def _statements(plain: _Text, at: int, end: int) -> Iterator[Statement]:
    source = plain.text
    while at < end:
        line = plain.line(at)
        if source[at].isspace() or source[at] == ";":
            at += 1
        elif source[at] in "{}":
            yield Statement(kind="open" if source[at] == "{" else "close", line=line)
            at += 1
        elif match := LOC.match(source, at):
            yield Statement(kind="loc", line=line, place=_place(match, 1), caller=_place(match, 4))
            at = match.end()
        elif match := LABEL.match(source, at):
            yield Statement(kind="label", line=line, text=match[1])
            at = match.end()
        else:
            stop = source.find(";", at, end)
            if stop < 0:
                raise PtxError(f"PTX line {line}: a statement without an end: is the text cut?")
            kind = "directive" if source[at] == "." else "instruction"
            yield Statement(kind=kind, line=line, text=" ".join(source[at:stop].split()))
            at = stop + 1


def _place(match: re.Match[str], first: int) -> Place | None:
    if match[first] is None:
        return None
    return Place(file=int(match[first]), line=int(match[first + 1]), column=int(match[first + 2]))


def parse_instruction(statement: Statement) -> Instruction:
    """Take an instruction apart.

    Raises:
        PtxError: it does not read like one.
    """
    match = INSTRUCTION.fullmatch(statement.text)
    if match is None:
        raise PtxError(f"PTX line {statement.line}: cannot read {statement.text[:60]!r}")
    words = re.split(r"\.", match[3])
    return Instruction(
        line=statement.line,
        guard=match[1] + match[2] if match[2] else "",
        opcode=match[3],
        mnemonic=words[0],
        modifiers=tuple(words[1:]),
        operands=tuple(split_operands(match[4])),
    )


def split_operands(text: str) -> list[str]:
    """Split at commas outside of braces, brackets and parentheses."""
    parts, depth, begin = [], 0, 0
    for at, letter in enumerate(text):
        if letter in "{[(":
            depth += 1
        elif letter in "}])":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[begin:at].strip())
            begin = at + 1
    last = text[begin:].strip()
    return [*parts, last] if last else parts


def parse_parameters(text: str, line: int) -> tuple[Parameter, ...]:
    """Read the parameters of a function, or a ``.param`` of a call.

    Raises:
        PtxError: one does not read like a parameter.
    """
    found = []
    for part in split_operands(" ".join(text.split())):
        match = PARAMETER.fullmatch(part)
        if match is None:
            raise PtxError(f"PTX line {line}: cannot read parameter {part[:60]!r}")
        found.append(
            Parameter(
                name=match["name"],
                type=match["type"],
                count=None if match["count"] is None else int(match["count"]),
                align=int(match["align"] or 1),
                pointer=match["pointer"] is not None,
            )
        )
    return tuple(found)


def parse_variable(text: str, line: int) -> Variable:
    """Read the declaration of memory.

    Raises:
        PtxError: it does not read like one.
    """
    match = VARIABLE.fullmatch(text.strip())
    if match is None or match["type"] not in WIDTHS:
        raise PtxError(f"PTX line {line}: cannot read {' '.join(text.split())[:60]!r}")
    sizes = re.findall(r"\[(\d*)\]", match["sizes"])
    count: int | None = int(match["vector"] or 1)
    for size in sizes:
        count = None if count is None or not size else count * int(size)
    natural = WIDTHS[match["type"]] // 8 * int(match["vector"] or 1)
    return Variable(
        name=match["name"],
        space=match["space"],
        type=match["type"],
        count=count,
        align=int(match["align"] or natural),
        values=tuple(re.findall(r"[^\s,{}]+", match["values"] or "")),
        line=line,
    )
