"""Everything a sweep needs, opened and checked before the first file is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pabench.activities.sweep.bench import Bench
from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.config import SweepConfig
from pabench.activities.sweep.grid import grid_digest, make_cells, point_cells
from pabench.activities.sweep.grid_file import read_grid
from pabench.device.cache import content_key
from pabench.device.facts import DeviceFacts
from pabench.device.registry import DeviceRequest
from pabench.errors import EnvironmentRefused, UsageError
from pabench.problem.lengths import LengthSpec
from pabench.resources import resource_dir
from pabench.timing.gpus import Gpu, gpu_by_name
from pabench.workloads.captured import asked_capture
from pabench.workloads.families import resolve_lengths
from pabench.workloads.traces import read_trace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """A sweep that is ready to run.

    Attributes:
        expected: of a grid, by cell id: the figures that its journal line begins with.
    """

    config: SweepConfig
    cells: tuple[Cell, ...]
    device: DeviceFacts
    bench: Bench
    gpu: Gpu
    expected: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return what ``run.json`` keeps as configuration.

        Besides the options it holds digests of the cells (lengths drawn from a trace included) and of the
        kernel sources, so that a resumed run cannot mix results of two; of a grid, what is expected.
        """
        digests = {"cells": grid_digest(self.cells), "kernels": kernels_digest(self.config.kernels)}
        grid = {} if self.config.grid is None else {"expected": dict(self.expected)}
        return {**self.config.to_dict(), "num_cells": len(self.cells), "digests": digests, **grid}

    def warm_up(self) -> None:
        """Let each backend plan once; raises ``EnvironmentRefused`` where this machine cannot run it."""
        for name in self.config.backends:
            self.bench.preflight(cell for cell in self.cells if cell.backend == name)


def prepare(
    config: SweepConfig,
    make_bench: Callable[[DeviceRequest, Sequence[str], Gpu], Bench],
    *,
    poll_seconds: int | None = None,
) -> Prepared:
    """Resolve names, read the trace, open the device, load the backends and build the grid.

    Args:
        config: the axes.
        make_bench: makes what runs the cells.
        poll_seconds: see ``open_device``.

    Raises:
        UsageError: a name, spec or file of the configuration is wrong; nothing has been written.
        EnvironmentRefused: this machine lacks the device or a backend's library.
    """
    gpu = gpu_by_name(config.gpu)
    grid = None if config.grid is None else read_grid(config.grid)
    specs = length_specs(config) if grid is None else ()
    wanted = DeviceRequest(
        name=config.device,
        seed=config.seed,
        kernels=config.kernels,
        checked=config.checked,
        count=config.checked,
        poll_seconds=poll_seconds,
    )
    wanted.check()
    bench = make_bench(wanted, config.backends, gpu)
    device = bench.open()
    if grid is None:
        cells = make_cells(config, specs, device=device.name, gpu=gpu.name)
        _check_inputs(cells)
        return Prepared(config=config, cells=cells, device=device, bench=bench, gpu=gpu)
    made = point_cells(grid.points, config.backends, seed=config.seed, device=device.name, gpu=gpu.name)
    _check_inputs([cell for _, cell in made])
    expected = {cell.id: {"model": model, **grid.expectations.of(cell, gpu)} for model, cell in made}
    return Prepared(
        config=config,
        cells=tuple(cell for _, cell in made),
        device=device,
        bench=bench,
        gpu=gpu,
        expected=expected,
    )


def _check_inputs(cells: Sequence[Cell]) -> None:
    """Raise ``UsageError`` when captured activations are asked for and no cell has their heads."""
    capture = asked_capture()
    if capture is not None and not any(capture.fits(cell.problem) for cell in cells):
        heads = f"--heads {capture.q.shape[2]}:{capture.k.shape[2]} --head-dim {capture.k.shape[3]}"
        raise UsageError("--inputs: no cell has the heads of the captured activations", hint=f"add {heads}")


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
