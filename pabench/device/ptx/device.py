# SPDX-License-Identifier: Apache-2.0
"""The PTX device: kernels as a compiler for GPUs makes them, run on the host by the emulated runtime."""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pabench.device.base import DeviceLimits, KernelSource, Launch
from pabench.device.cache import cached_file, content_key
from pabench.device.checked import CheckedDevice
from pabench.device.emulated import COMMENT, KERNEL_FLAGS, EmulatedDevice, EmulatedModule, NativeLaunch
from pabench.device.findings import Finding
from pabench.device.headers import header_texts, include_dirs
from pabench.device.ptx.architectures import SHARED, PtxName, runs
from pabench.device.ptx.in_step import Memory
from pabench.device.ptx.parse import parse
from pabench.device.ptx.source import SUFFIX, USES_OURS, compile_ptx, compiler_key, is_foreign, read_source
from pabench.device.ptx.types import NotYet, PtxError
from pabench.device.ptx.unit import MEET, translate
from pabench.errors import CompileError, LaunchError, Unsupported

FLAGS = (
    "-O1",  # half the time of -O2 to compile, and as fast within a tenth
    "-fno-tree-slp-vectorize",
    "-ffp-contract=off",  # what PTX fuses it names
    "-fwrapv",
    "-w",  # translated code has unused labels and variables
)


PLAIN = PtxName()
UNSYNCED = "lanes with no warp sync between them"
IN_STEP = "; right only while the lanes of a warp run in step"


class PtxModule(EmulatedModule):
    """A kernel file as a loaded library that was translated from PTX."""

    @functools.cached_property
    def _constants(self) -> dict[str, tuple[bool, ...]]:
        return {}

    @functools.cached_property
    def _static(self) -> int:
        return int(self._library.pab_emu_static_shared())

    def launch(self, launch: Launch) -> None:
        """See ``EmulatedModule``; blocks that wait for each other meet in memory of this launch."""
        if hasattr(self._library, MEET):
            words = self._device.allocate(8)
            words.fill(0)
            getattr(self._library, MEET)(ctypes.c_ulonglong(words.ctypes.data))
            launch = replace(launch, held={**launch.held, "grid barrier": words})
        super().launch(launch)

    def _check(self, launch: Launch, signature: Sequence[tuple[str, int]]) -> None:
        """Raise ``LaunchError`` unless sizes fit: PTX knows pointers and whole numbers as bits."""
        most = self._device.limits.shared_bytes_per_block
        if self._shared_bytes(launch) > most:
            static = f" and {self._static} with a size" if self._static else ""
            raise LaunchError(
                f"{launch.entry}: {launch.shared_bytes} bytes of dynamic shared memory{static}: "
                f"a block has at most {most} on {self._device.name}"
            )
        if len(launch.args) != len(signature):
            raise LaunchError(f"{launch.entry}: takes {len(signature)} arguments, got {len(launch.args)}")
        for position, (arg, (kind, size)) in enumerate(zip(launch.args, signature, strict=True)):
            if kind == "s" and isinstance(arg, np.void) and arg.dtype.itemsize == size:
                continue
            if kind == "s":
                raise LaunchError(
                    f"{launch.entry}: argument {position} is a structure: give numpy.void of its {size} bytes"
                )
            scalar = isinstance(arg, np.generic)
            given = arg.dtype.itemsize if scalar else 8
            floating = scalar and arg.dtype.kind == "f"
            if given != size or (kind == "f") != floating or (kind == "p" and scalar):
                want = "an array" if kind == "p" else f"{'a floating' if kind == 'f' else 'a whole'} number"
                said = f"{arg.dtype.name} scalar" if scalar else "an array"
                raise LaunchError(
                    f"{launch.entry}: argument {position} must be {want} of {size} bytes, got {said}"
                )

    def _shared_bytes(self, launch: Launch) -> int:
        return self._static + launch.shared_bytes

    def _constant(self, entry: str) -> tuple[bool, ...]:
        if entry not in self._constants:
            count = len(self._signature(entry))
            self._constants[entry] = constant_parameters(self._source, entry, count)
        return self._constants[entry]


def constant_parameters(source: KernelSource, entry: str, count: int) -> tuple[bool, ...]:
    """Return which parameters are pointers to const: PTX does not tell, the CUDA source may."""
    unknown = (False,) * count
    if source.path.suffix == SUFFIX:
        return unknown
    text = COMMENT.sub(" ", source.path.read_text(encoding="utf-8"))
    found = re.search(rf"\b{re.escape(entry)}\s*\(([^)]*)\)\s*\{{", text)
    parameters = found[1].split(",") if found else []
    if len(parameters) != count:
        return unknown
    return tuple(
        re.match(r"\s*(const\s|\w[\w:]*\s+const\s*\*)", one) is not None and "*" in one for one in parameters
    )


def named_defines(source: KernelSource, text: str) -> dict[str, str]:
    """Return the macros that a source names; one with our headers may name all of them."""
    if source.path.suffix == SUFFIX:
        return {}
    if USES_OURS.search(text):
        return dict(source.defines)
    beside = b"".join(header_texts(beside=source.path.parent)).decode(errors="replace")
    return {name: value for name, value in source.defines.items() if re.search(rf"\b{name}\b", text + beside)}


class _FromPtx:
    """What makes an emulated device of either kind one that runs PTX."""

    module_type = PtxModule
    kernels: Path
    description: str
    _asked: PtxName

    def _name_it(self: Any, asked: PtxName) -> None:
        self._asked = asked
        self.name = asked.name
        most = SHARED[asked.architecture]
        self.limits = DeviceLimits(
            multiprocessors=1, shared_bytes_per_block=most, shared_bytes_per_sm=most + 1024
        )
        self.description = f"PTX for {asked.architecture} on the {self.description}"

    def _build_kernel(self: Any, source: KernelSource, runtime: Path) -> Path:
        """Compile to PTX, translate, compile for the host; see ``EmulatedDevice``."""
        text = read_source(source.path)
        folders = include_dirs(source.include_dir)
        try:
            headers = header_texts(*folders, beside=source.path.parent)
        except OSError as error:
            raise CompileError(f"headers of {source.path} cannot be read: {error}") from None
        if source.path.suffix == SUFFIX:
            headers = []
        source = replace(source, defines=named_defines(source, text))
        defines = [f"{name}={value}" for name, value in sorted(source.defines.items())]
        environment = [*self._environment(), *KERNEL_FLAGS, *FLAGS, *_translator_texts(), compiler_key()]
        key = content_key(
            [*environment, self._asked.name, runtime.name, str(source.path.name), *headers, text, *defines]
        )

        def make(out: Path) -> None:
            ptx = compile_ptx(source, self._asked.architecture)
            try:
                module = parse(ptx)
                if not runs(module.target, self._asked.architecture):
                    raise PtxError(f"it is PTX for {module.target}")
                unit_text = translate(module, foreign=is_foreign, lockstep=self._asked.lockstep)
            except NotYet as error:
                raise Unsupported(f"{source.path.name} for {self._asked.architecture}: {error}") from None
            except PtxError as error:
                raise CompileError(f"{source.path.name} for {self._asked.architecture}: {error}") from None
            unit = out.with_suffix(".cpp")
            unit.write_text(unit_text, encoding="utf-8")
            try:
                includes = [f"-I{folder}" for folder in (*include_dirs(self.kernels), self.emulator.parent)]
                self._compile(unit, [*FLAGS, *includes], runtime, out, what=f"{source.path.name} from PTX")
            finally:
                unit.unlink(missing_ok=True)

        return cached_file(f"ptx-{source.path.stem}-{key}.so", make)


@functools.cache
def _translator_texts() -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))


class PtxDevice(_FromPtx, EmulatedDevice):
    """Runs kernels from their PTX; see ``EmulatedDevice``.

    Args:
        asked: architecture and schedule.
        options: those of ``EmulatedDevice``.
    """

    def __init__(self, asked: PtxName = PLAIN, **options: Any) -> None:
        super().__init__(**options)
        self._name_it(asked)


class CheckedPtxDevice(_FromPtx, CheckedDevice):
    """Runs kernels from their PTX and looks at every access; see ``CheckedDevice``.

    Args:
        asked: architecture and schedule.
        options: those of ``CheckedDevice``.
    """

    _before: tuple[KernelSource, Memory] | None = None

    def __init__(self, asked: PtxName = PLAIN, **options: Any) -> None:
        super().__init__(**options)
        self._name_it(asked)

    def _start(
        self,
        runtime: ctypes.CDLL,
        asked: NativeLaunch,
        launch: Launch,
        source: KernelSource,
        message: ctypes.Array[ctypes.c_char],
        constant: Sequence[bool],
    ) -> None:
        """See ``CheckedDevice``; what memory holds before is kept, for the other schedule."""
        compares = "race" in self.checks and not self._asked.lockstep
        self._before = (source, Memory(self._allocations.native()[1])) if compares else None
        try:
            super()._start(runtime, asked, launch, source, message, constant)
        finally:
            self._before = None

    def _read(self, raw: list[dict[str, Any]], launch: Launch, names: dict[int, str]) -> list[Finding]:
        """See ``CheckedDevice``; two lanes of a warp at two lines may be right on hardware, which is told."""
        found = super()._read(raw, launch, names)
        unsynced = [
            one.other is not None and one.text.endswith(UNSYNCED) and one.at.place != one.other.place
            for one in found
        ]
        if not any(unsynced):
            return found
        # what ended a block early leaves nothing to compare
        whole = all(one.check in ("race", "init") for one in found)
        said = IN_STEP + (self._in_step(launch) if whole else "")
        return [
            replace(one, text=one.text + said) if relies else one
            for one, relies in zip(found, unsynced, strict=True)
        ]

    def _in_step(self, launch: Launch) -> str:
        if self._before is None or not self._before[1].whole:
            return ""
        source, memory = self._before
        other = PtxDevice(
            replace(self._asked, lockstep=True),
            seed=self.seed,
            workers=self.workers,
            kernels=self.kernels,
            poll_seconds=self.poll_seconds,
        )
        return memory.compared(lambda: other.load(source).launch(launch))
