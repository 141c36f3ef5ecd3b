"""Everything a sweep needs, opened and checked before the first file is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabench.backends.base import Backend
from pabench.backends.registry import load_backend
from pabench.device.base import Device
from pabench.device.cache import content_key
from pabench.device.registry import open_device
from pabench.errors import EnvironmentRefused, UsageError
from pabench.problem.lengths import LengthSpec
from pabench.resources import resource_dir
from pabench.sweep.cell import Cell
from pabench.sweep.config import SweepConfig
from pabench.sweep.grid import grid_digest, make_cells
from pabench.sweep.run_cell import preflight
from pabench.timing.gpus import Gpu, gpu_by_name
from pabench.workloads.families import resolve_lengths
from pabench.workloads.traces import read_trace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """A sweep that is ready to run."""

    config: SweepConfig
    cells: tuple[Cell, ...]
    device: Device
    backends: Mapping[str, Backend]
    gpu: Gpu

    def record(self) -> dict[str, Any]:
        """Return what ``run.json`` keeps as configuration.

        Besides the options it holds digests of the cells (lengths drawn from a trace included) and of the
        kernel sources, so that a resumed run cannot mix results of two.
        """
        digests = {"cells": grid_digest(self.cells), "kernels": kernels_digest(self.config.kernels)}
        return {**self.config.to_dict(), "num_cells": len(self.cells), "digests": digests}

    def warm_up(self) -> None:
        """Let each backend plan once; raises ``EnvironmentRefused`` where this machine cannot run it."""
        for name, backend in self.backends.items():
            preflight((cell for cell in self.cells if cell.backend == name), backend)


def prepare(config: SweepConfig) -> Prepared:
    """Resolve names, read the trace, open the device, load the backends and build the grid.

    Raises:
        UsageError: a name, spec or file of the configuration is wrong; nothing has been written.
        EnvironmentRefused: this machine lacks the device or a backend's library.
    """
    gpu = gpu_by_name(config.gpu)
    specs = length_specs(config)
    kernels = None if config.kernels is None else Path(config.kernels)
    device = open_device(
        config.device, seed=config.seed, kernels=kernels, checked=config.checked, count=config.checked
    )
    cells = make_cells(config, specs, device=device.name, gpu=gpu.name)
    backends = {name: load_backend(name, device) for name in config.backends}
    return Prepared(config=config, cells=cells, device=device, backends=backends, gpu=gpu)


def length_specs(config: SweepConfig) -> tuple[LengthSpec, ...]:
    """Return the parsed length specs, those of the traces last."""
    specs = [resolve_lengths(text) for text in config.lengths]
    specs += [read_trace(Path(trace)).length_spec() for trace in config.traces]
    if not specs:
        raise UsageError("--lengths: the list is empty, must name at least one length spec")
    return tuple(specs)


def kernels_digest(kernels: str | None) -> str | None:
    """Return a hash over names and bytes of the kernel sources, or None where none are installed."""
    try:
        root = resource_dir("kernels_cuda") if kernels is None else Path(kernels)
    except EnvironmentRefused:
        return None
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return content_key(
        part for path in files for part in (path.relative_to(root).as_posix(), path.read_bytes())
    )
