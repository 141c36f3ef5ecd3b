# SPDX-License-Identifier: Apache-2.0
"""What a control is: a kernel, its launch, and what a checker must say of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pabench.device.base import Dim3
from pabench.errors import InvalidCase
from pabench.problem.checks import one_of, whole_number

CLASSES = ("memory", "init", "race", "sync")
RIGHT = "none"
"""What is expected of a correct look-alike."""
TOOLS = ("memcheck", "initcheck", "racecheck", "synccheck", "none")
DTYPES = {
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "i32": "int32",
    "i64": "int64",
}
FILLS = ("unwritten", "arange")
MAX_ELEMENTS = 2**16
"""Elements of one buffer: a control is small."""
NAME = re.compile(r"[a-z][a-z0-9_]*")

Fill = str | int | tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """A number that is passed by value."""

    name: str
    dtype: str
    value: int

    def __post_init__(self) -> None:
        _check_name(self.name)
        one_of("dtype", self.dtype, DTYPES)
        whole_number("value", self.value, low=-(2**63), high=2**64 - 1)
        _check_range("value", self.value, self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """An allocation, passed as a pointer.

    Attributes:
        name: of the kernel's parameter.
        dtype: one of ``DTYPES``.
        size: elements.
        fill: ``unwritten``, ``arange`` (0, 1, 2, ...), one number for all elements, or all of them.
        equals: what a right kernel leaves in it, element by element; None where nobody looks.
        address_of: name of the allocation whose address this buffer's one element holds.
        freed: given back before the launch and passed to no kernel.
    """

    name: str
    dtype: str
    size: int
    fill: Fill = "unwritten"
    equals: tuple[int, ...] | None = None
    address_of: str | None = None
    freed: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name)
        one_of("dtype", self.dtype, DTYPES)
        whole_number("size", self.size, low=1, high=MAX_ELEMENTS)
        if isinstance(self.fill, str):
            one_of("fill", self.fill, FILLS)
        for field, values in (("fill", self.fill), ("equals", self.equals)):
            if isinstance(values, tuple):
                if len(values) != self.size:
                    raise InvalidCase(field, values, f"must have as many elements as the buffer, {self.size}")
                for value in values:
                    _check_range(field, value, self.dtype)
        if isinstance(self.fill, int):
            _check_range("fill", self.fill, self.dtype)
        if not isinstance(self.freed, bool):
            raise InvalidCase("freed", self.freed, "must be true or false")
        if self.address_of is not None:
            _check_name(self.address_of)
            if (self.dtype, self.size) != ("u64", 1):
                raise InvalidCase("address_of", self.address_of, "needs dtype u64 and size 1")


Argument = Buffer | Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A kernel with a planted fault, or a correct look-alike.

    Attributes:
        id: name of the control and of its kernel; unique in the table.
        file: kernel file beside the table.
        about: the fault, or why there is none.
        expect: class of the finding, ``none`` for a correct look-alike.
        also: classes that may come with it.
        tool: tool of compute-sanitizer that looks for such a fault, ``none`` where no tool does.
        grid, block, shared_bytes: the launch.
        quick: one of those that are run before a checked run is believed.
        args: in the kernel's order; freed buffers are passed to no kernel.
        marks: lines of ``file`` that a finding may name; empty for a correct look-alike.
    """

    id: str
    file: str
    about: str
    expect: str
    also: tuple[str, ...]
    tool: str
    grid: Dim3
    block: Dim3
    shared_bytes: int
    quick: bool
    args: tuple[Argument, ...]
    marks: frozenset[int]

    @property
    def faulty(self) -> bool:
        """Whether a checker must find something."""
        return self.expect != RIGHT

    def __post_init__(self) -> None:
        _check_name(self.id, field="id")
        path = PurePosixPath(self.file) if isinstance(self.file, str) else None
        if path is None or path.name != self.file or path.suffix != ".cu":
            raise InvalidCase("file", self.file, "must be the name of a .cu file beside the table")
        if not isinstance(self.about, str) or not self.about.strip():
            raise InvalidCase("about", self.about, "must be text that is not empty")
        one_of("expect", self.expect, (*CLASSES, RIGHT))
        for name in self.also:
            one_of("also", name, [c for c in CLASSES if c != self.expect])
        one_of("tool", self.tool, TOOLS)
        if not isinstance(self.quick, bool):
            raise InvalidCase("quick", self.quick, "must be true or false")
        whole_number("shared_bytes", self.shared_bytes, low=0, high=227 * 1024)
        self._check_arguments()
        if self.faulty != bool(self.marks):
            rule = "needs a line marked // FAULT" if self.faulty else "must have no line marked // FAULT"
            raise InvalidCase("id", self.id, f"its kernel {rule}")

    def _check_arguments(self) -> None:
        buffers = {arg.name: arg for arg in self.args if isinstance(arg, Buffer)}
        names = [arg.name for arg in self.args]
        if len(set(names)) != len(names):
            raise InvalidCase("args", names, "must have different names")
        for buffer in buffers.values():
            if buffer.address_of is not None and buffer.address_of not in buffers:
                raise InvalidCase("address_of", buffer.address_of, f"must be one of {', '.join(buffers)}")
        judged = any(buffer.equals is not None for buffer in buffers.values())
        if judged == self.faulty:
            rule = "has no right result" if self.faulty else "must say what its kernel leaves in a buffer"
            raise InvalidCase("equals", self.id, f"a {'control' if self.faulty else 'look-alike'} {rule}")
        if not self.faulty and self.also:
            raise InvalidCase("also", self.also, "is for controls, not for correct look-alikes")


def _check_name(name: Any, *, field: str = "name") -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidCase(field, name, "must be lower-case letters, digits and '_'")


def _check_range(field: str, value: Any, dtype: str) -> None:
    bits = int(dtype[1:])
    signed = dtype.startswith("i")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    whole_number(field, value, low=low, high=high)
