# SPDX-License-Identifier: Apache-2.0
"""The checked device: the emulated device with every memory access and synchronization instrumented."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pabench.device.allocations import Allocation, Allocations, fenced, owner_of, place_of
from pabench.device.base import KernelSource, Launch
from pabench.device.compiler import compile_object, compile_shared
from pabench.device.counted import read_counters
from pabench.device.counters import Counters
from pabench.device.emulated import COMMENT, KERNEL_FLAGS, POISON, EmulatedDevice, NativeLaunch
from pabench.device.findings import Finding, Party, Place
from pabench.device.symbols import resolve
from pabench.errors import CompileError, DeviceFault, EnvironmentRefused, InvalidCase
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array

CHECKS = {"memory": 1, "init": 2, "race": 4, "sync": 8}
COUNT = 16
CHECKED_FLAGS = (
    "-DPAB_EMU_CHECKED",
    "-gdwarf-4",  # some symbolizers misread the file numbers of version 5
    # an access of the source is an access that is seen: none merged with its neighbours
    "-fno-tree-vectorize",
    "-fno-tree-slp-vectorize",
    "-fno-tree-loop-distribute-patterns",
    # nor copied along the two ways of a branch that lanes take together
    "-fno-thread-jumps",
    # loops of a few constant rounds are written out, as they are without the flags above
    "-fpeel-loops",
    # a thread's own arrays are registers on a GPU, no memory that is looked at: an index beyond one is a trap
    "-fsanitize=bounds",
    # a struct of the width of a vector is read in parts, so its address is looked at before it is taken apart
    "-fsanitize=alignment",
)
INSTRUMENT = "-fsanitize=thread"
INSTRUMENTED = b"__tsan_init"
"""Called by all instrumented code, so that a compiler which ignores the flag is seen."""
STEP_BUDGET = 2**32
"""Half a minute to a minute of one block; a block that reads 100,000 tokens makes a hundredth of it."""

MAX_FENCED_BYTES = 2**26
"""Arrays of the host above this size are used where they lie: a pool larger than memory cannot be copied."""


class KernelFindings(DeviceFault):
    """A checked launch found faults; ``findings`` has them, the message is the first."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        super().__init__(f"{findings[0]}{more}")
        self.findings = tuple(findings)


class NativeRequest(ctypes.Structure):
    """``Request`` of emulator/checked/request.h."""

    _fields_ = (
        ("buffers", ctypes.c_void_p),
        ("buffer_count", ctypes.c_uint),
        ("checks", ctypes.c_uint),
        ("step_budget", ctypes.c_ulonglong),
    )


class CheckedDevice(EmulatedDevice):
    """An emulated device that checks what kernels do.

    Args:
        checks: which of ``memory``, ``init``, ``race`` and ``sync``.
        count: count instructions and traffic; with no checks the fastest way to have them.
        collect: keep findings in ``findings`` instead of raising ``KernelFindings`` at the end of a launch.
        step_budget: accesses, barriers and polls of one block; a block that makes more ends as a finding.
            0 for no bound.
        options: those of ``EmulatedDevice``.

    Attributes:
        findings: of all launches so far.
        counters: of all launches so far, added up by entry point; empty unless ``count``.
        last_counters: of the last launch, or None.
    """

    def __init__(
        self,
        *,
        checks: Sequence[str] = tuple(CHECKS),
        count: bool = False,
        collect: bool = False,
        step_budget: int = STEP_BUDGET,
        **options: Any,
    ) -> None:
        unknown = [name for name in checks if name not in CHECKS]
        if unknown:
            raise InvalidCase("checks", unknown[0], f"must be among {', '.join(CHECKS)}")
        super().__init__(**{**options, "flags": (*options.get("flags", ()), *CHECKED_FLAGS)})
        self.description = f"checked {self.description}"
        self.checks = tuple(checks)
        self.count = count
        self.findings: list[Finding] = []
        self.counters: dict[str, Counters] = {}
        self.last_counters: Counters | None = None
        self._collect = collect
        self._step_budget = whole_number("step_budget", step_budget, low=0, high=2**64 - 1)
        self._allocations = Allocations()

    def to_device(self, array: Array) -> Array:
        """Return a copy of ``array``, or itself when it is large or lies on the device; the host wrote it.

        Rooms hear of the copy and do not house it: what strays from it is found without them.
        """
        if self._allocations.covers(array) or array.nbytes > MAX_FENCED_BYTES:
            held = super().to_device(array)
            if not self._allocations.covers(held):
                self._allocations.add(owner_of(held), written=True)
            return held
        held = fenced(array.shape, array.dtype)
        held[...] = array
        self._allocations.add(held, written=True)
        if self.rooms is not None:
            self.rooms.uploaded(array, held)
        return held

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return new memory of which nothing counts as written."""
        fresh = fenced(shape, np.dtype(dtype))
        fresh.reshape(-1).view(np.uint8)[:] = POISON
        self._allocations.add(fresh, written=False)
        return fresh

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return new memory of zeros, written."""
        fresh = fenced(shape, np.dtype(dtype))
        fresh.reshape(-1).view(np.uint8)[:] = 0
        self._allocations.add(fresh, written=True)
        return fresh

    def free(self, array: Array) -> None:
        """Give memory back: a kernel that still touches it is found."""
        self._allocations.free(array)

    def _start(
        self,
        runtime: ctypes.CDLL,
        asked: NativeLaunch,
        launch: Launch,
        source: KernelSource,
        message: ctypes.Array[ctypes.c_char],
        constant: Sequence[bool],
    ) -> None:
        for arg in (*launch.args, *launch.held.values()):
            # memory that did not come from this device is the host's: all of it may be read and written
            if isinstance(arg, np.ndarray) and arg.nbytes and not self._allocations.knows(arg):
                self._allocations.add(owner_of(arg), written=True)
        table, entries = self._allocations.native()
        owners = [
            place_of(entries, arg.ctypes.data) if isinstance(arg, np.ndarray) else None for arg in launch.args
        ]
        _mark_constant(table, owners, constant)
        request = NativeRequest(
            buffers=table.ctypes.data,
            buffer_count=len(entries),
            checks=sum(CHECKS[name] for name in self.checks) + (COUNT if self.count else 0),
            step_budget=self._step_budget,
        )
        report = ctypes.c_char_p()
        failed = runtime.pab_emu_launch_checked(
            ctypes.byref(asked), ctypes.byref(request), ctypes.byref(report)
        )
        try:
            told = json.loads((report.value or b"{}").decode(errors="replace"))
        finally:
            runtime.pab_emu_free(report)
        if "counters" in told:
            names = _buffer_names(launch, source, entries, owners, every=True)
            self._note_counters(told["counters"], launch, names)
        findings: list[Finding] = []
        if raw := told.get(
            "findings"
        ):  # names are read from the source, so only when something is to be named
            findings = self._read(raw, launch, _buffer_names(launch, source, entries, owners))
        self.findings += findings
        if findings and not self._collect:
            raise KernelFindings(findings)
        if failed and not findings:
            raise DeviceFault(f"{launch.entry}: {message.value.decode(errors='replace')}")

    def _note_counters(self, told: dict[str, Any], launch: Launch, names: dict[int, str]) -> None:
        counted = read_counters(told, kernel=launch.entry, names=names)
        before = self.counters.get(launch.entry)
        self.last_counters = counted
        self.counters[launch.entry] = counted if before is None else before + counted

    def _read(self, raw: list[dict[str, Any]], launch: Launch, names: dict[int, str]) -> list[Finding]:
        wanted: dict[str, set[int]] = {}
        for one in raw:
            for side in (one["at"], *([one["other"]] if "other" in one else ()), *one.get("waiting", ())):
                wanted.setdefault(side["place"]["module"], set()).add(side["place"]["offset"])
        places = {module: resolve(module, offsets) for module, offsets in wanted.items()}

        def party(side: dict[str, Any]) -> Party:
            place: Place = places[side["place"]["module"]][side["place"]["offset"]]
            block, thread = side["block"], side["thread"]
            return Party(
                action=side["action"],
                block=(block[0], block[1], block[2]),
                thread=(thread[0], thread[1], thread[2]),
                place=place,
            )

        found = [
            Finding(
                check=one["check"],
                kernel=launch.entry,
                text=one["text"],
                at=party(one["at"]),
                other=party(one["other"]) if "other" in one else None,
                waiting=tuple(map(party, one.get("waiting", ()))),
                buffer=names.get(one["buffer"], ""),
                offset=one["offset"] - 2**64 if one["offset"] >= 2**63 else one["offset"],
                nbytes=one["bytes"],
                count=one["count"],
            )
            for one in raw
            # with no checks there is only what ended a block
            if one["check"] in self.checks or not self.checks
        ]
        # one barrier of the source may be several in the compiled code
        return [f for f in found if not (f.check == "sync" and f.other and f.at.place == f.other.place)]

    def _compile(self, unit: Path, arguments: list[str], runtime: Path, out: Path, *, what: str) -> None:
        compiled = out.with_suffix(".o")
        try:
            try:
                compile_object(
                    self._compiler, [*arguments, *self._flags, INSTRUMENT, str(unit)], compiled, what=what
                )
            except CompileError as error:
                if "sanitize" in str(error):
                    raise self._cannot_instrument() from None
                raise
            if INSTRUMENTED not in compiled.read_bytes():
                raise self._cannot_instrument()
            # linked without the sanitizer's own runtime: ours answers its calls
            compile_shared(self._compiler, [str(compiled), str(runtime), *KERNEL_FLAGS], out, what=what)
        finally:
            compiled.unlink(missing_ok=True)

    def _cannot_instrument(self) -> EnvironmentRefused:
        return EnvironmentRefused(
            f"C++ compiler {' '.join(self._compiler.command)} cannot instrument code ({INSTRUMENT}), "
            "which the checked device needs",
            hint="install g++ or clang++ for this machine, or set CXX",
        )


def _mark_constant(table: Array, owners: Sequence[int | None], constant: Sequence[bool]) -> None:
    """Mark what the kernel takes by pointers to const only: nobody writes it, so that reads need no notes."""
    marks: dict[int, bool] = {}
    for owner, const in zip(owners, constant, strict=True):
        if owner is not None:
            marks[owner] = const and marks.get(owner, True)
    for number, const in marks.items():
        table["constant"][number] = const


def _buffer_names(
    launch: Launch,
    source: KernelSource,
    entries: Sequence[Allocation],
    owners: Sequence[int | None],
    *,
    every: bool = False,
) -> dict[int, str]:
    """Return what each allocation is called: the first parameter that points into it, where there is one.

    ``owners`` has the place among ``entries`` that each argument points into.  With ``every``: all parameters
    that do, joined by ``+``.
    """
    labels = {number: entry.label for number, entry in enumerate(entries)} | {-1: "shared memory"}
    names = dict(labels)
    parameters = launch.names or _parameters(source, launch.entry)
    for position in reversed(range(len(launch.args))):
        number = owners[position]
        if number is None:
            continue
        name = parameters[position] if position < len(parameters) else f"argument {position}"
        further = every and names[number] != labels[number]
        names[number] = f"{name}+{names[number]}" if further else name
    for name, array in launch.held.items():
        number = place_of(entries, array.ctypes.data)
        if number is not None and names[number] == labels[number]:
            names[number] = name
    return names


def _parameters(source: KernelSource, entry: str) -> list[str]:
    """Return the names of a kernel's parameters as its source spells them."""
    text = COMMENT.sub(" ", source.path.read_text(encoding="utf-8"))
    found = re.search(rf"\b{re.escape(entry)}\s*\(([^)]*)\)\s*\{{", text)
    if found is None:
        return []
    return [name[-1] if (name := re.findall(r"\w+", part)) else "" for part in found.group(1).split(",")]
