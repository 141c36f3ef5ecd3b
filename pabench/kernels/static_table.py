# SPDX-License-Identifier: Apache-2.0
"""The static table: what the compiler makes of each kernel instance on each architecture, with no GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pabench.cores import usable_cores
from pabench.device.disassembler import disassemble
from pabench.device.nvrtc import check_architecture, compile_cubin, compile_log
from pabench.device.occupancy import Occupancy, occupancy, sm_limits
from pabench.device.ptxas import FunctionUsage, parse_functions, parse_warnings
from pabench.device.sass import Function, parse_sass
from pabench.errors import CompileError
from pabench.kernels.account import Account, account_of
from pabench.kernels.instance import KernelEntry
from pabench.kernels.static_sources import StaticSource


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRow:
    """One function of one instance on one architecture.

    Attributes:
        usage: what ptxas reports.
        entry: its launch; None when the table does not know it, and for device functions.
        occupancy: blocks on one multiprocessor; None without a launch.
        account: of its hot loop, where that was asked for; None without a loop.
    """

    usage: FunctionUsage
    entry: KernelEntry | None
    occupancy: Occupancy | None
    account: Account | None = None

    @property
    def spills(self) -> bool:
        """Whether more is spilled than the table of instances allows."""
        return self.usage.spill_bytes > (self.entry.allowed_spill_bytes if self.entry else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """One instance on one architecture.

    Attributes:
        file: name of the kernel file.
        label: the instance in words.
        architecture: such as ``sm_90a``.
        rows: its functions; empty when it does not compile.
        warnings: of compiler and ptxas.
        error: the compiler's first error with file and line, or which entry point is missing; None if right.
    """

    file: str
    label: str
    architecture: str
    rows: tuple[StaticRow, ...]
    warnings: tuple[str, ...] = ()
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it compiles and spills no more than allowed."""
        return self.error is None and not any(row.spills for row in self.rows)


def compile_table(
    sources: Sequence[StaticSource],
    architectures: Sequence[str],
    *,
    accounted: bool = False,
    finished: Callable[[], object] = lambda: None,
) -> tuple[Compilation, ...]:
    """Compile every source for every architecture that it suits, sources outermost, on all usable cores.

    Args:
        sources: from ``folder_sources`` or ``file_sources``.
        architectures: such as ``sm_90a``.
        accounted: whether hot loops are disassembled.
        finished: called after each compilation.

    Raises:
        UnknownName: an architecture whose limits are not known.
        EnvironmentRefused: NVRTC is missing, or too old for an architecture; or the disassembler is missing.
    """
    for architecture in architectures:
        sm_limits(architecture)
    for architecture in architectures:
        # this also loads NVRTC, which two threads at once may find half loaded
        check_architecture(architecture)
    jobs = [(source, name) for source in sources for name in architectures if source.suits(name)]
    results = []
    # NVRTC releases the interpreter while it compiles
    pool = ThreadPoolExecutor(max_workers=usable_cores())
    try:
        for result in pool.map(lambda job: compile_one(*job, accounted=accounted), jobs):
            results.append(result)
            finished()
    finally:
        pool.shutdown(cancel_futures=True)
    return tuple(results)


def compile_one(source: StaticSource, architecture: str, *, accounted: bool = False) -> Compilation:
    """Compile one instance for one architecture; an error of the compiler is part of the result."""
    file, label = source.source.path.name, source.label
    code: Mapping[str, Function] = {}
    try:
        if accounted:
            cubin = compile_cubin(source.source, architecture, lines=True)
            log, code = cubin.log, parse_sass(disassemble(cubin.image, file))
        else:
            log = compile_log(source.source, architecture)
        functions = parse_functions(log)
    except CompileError as error:
        return Compilation(file=file, label=label, architecture=architecture, rows=(), error=str(error))
    missing = sorted(set(source.entries) - {function.name for function in functions})
    rows = tuple(
        _row(function, source.entry(function.name), architecture, code.get(function.name))
        for function in functions
    )
    return Compilation(
        file=file,
        label=label,
        architecture=architecture,
        rows=rows,
        warnings=parse_warnings(log),
        error=f"{file} has no entry point {', '.join(missing)}" if missing else None,
    )


def row_dict(result: Compilation, row: StaticRow) -> dict[str, Any]:
    """Return one row as JSON values; what is not known is None."""
    usage, entry, fits = row.usage, row.entry, row.occupancy
    return {
        "kernel": usage.name,
        "instance": result.label,
        "arch": result.architecture,
        "registers": usage.registers,
        "spill_store_bytes": usage.spill_store_bytes,
        "spill_load_bytes": usage.spill_load_bytes,
        "stack_bytes": usage.stack_bytes,
        "static_shared_bytes": usage.static_shared_bytes,
        "dynamic_shared_bytes": entry.shared_bytes if entry else None,
        "barriers": usage.barriers,
        "threads": entry.threads if entry else None,
        "ctas_per_sm": fits.blocks_per_sm if fits else None,
        "limited_by": fits.limited_by if fits else None,
        "warps_share": fits.warps_share if fits else None,
        "allowed_spill_bytes": entry.allowed_spill_bytes if entry else 0,
    }


def _row(
    usage: FunctionUsage, entry: KernelEntry | None, architecture: str, code: Function | None
) -> StaticRow:
    fits = None
    if entry is not None and usage.is_entry:
        fits = occupancy(
            sm_limits(architecture),
            threads=entry.threads,
            registers=usage.registers,
            shared_bytes=usage.static_shared_bytes + entry.shared_bytes,
            barriers=usage.barriers,
        )
    account = None
    if code is not None:
        account = account_of(code, architecture, entry, fits.blocks_per_sm if fits else None)
    return StaticRow(usage=usage, entry=entry, occupancy=fits, account=account)
