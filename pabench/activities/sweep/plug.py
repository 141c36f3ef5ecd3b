# SPDX-License-Identifier: Apache-2.0
"""The sweep as a plug for the engine: cells of a grid, what is expected of each, and how far each came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.config import SweepConfig
from pabench.activities.sweep.expect import (
    EXPECTED_FIGURES,
    against_ceilings,
    operation_against_ceilings,
)
from pabench.activities.sweep.grid import (
    grid_digest,
    in_turns,
    make_cells,
    point_cells,
    policies_of,
    replicates_of,
)
from pabench.activities.sweep.grid_file import read_grid
from pabench.activities.sweep.operation import Operation
from pabench.device.cache import content_key
from pabench.device.registry import DeviceRequest
from pabench.errors import DeviceFault, EnvironmentRefused, UsageError
from pabench.problem.lengths import LengthSpec
from pabench.resources import resource_dir
from pabench.run.directory import RunDirectory
from pabench.run.engine import Engine
from pabench.run.figures import record_of_flat
from pabench.run.plug import ActivityBase, Facts
from pabench.run.record import Record
from pabench.run.workers import WorkerEnded
from pabench.subjects.reference import BACKEND
from pabench.subjects.registry import is_place
from pabench.timing.gpus import gpu_by_name
from pabench.workloads.captured import asked_capture
from pabench.workloads.families import resolve_lengths
from pabench.workloads.meaning import LENGTHS
from pabench.workloads.traces import read_trace

JUDGE_SLACK_S = 120.0
"""What a worker may take beside the calls of a backend: tensors, and the truth of a long sequence."""


class Sweep(ActivityBase):
    """Page sizes, lengths, batches and backends.

    Everything that can be refused without a device is refused when it is made.

    Args:
        config: the axes.
        poll_seconds: see ``open_device``.
        deadline_s: seconds that one call of a backend may take; None runs it in this process.

    Raises:
        UsageError: a name, spec or file of the configuration is wrong.
    """

    kind = "sweep"
    noun = "cell"
    bench = "pabench.activities.sweep.bench:SweepBench"

    def __init__(
        self, config: SweepConfig, *, poll_seconds: int | None = None, deadline_s: float | None
    ) -> None:
        self._config, self._gpu = config, gpu_by_name(config.gpu)
        self._grid = None if config.grid is None else read_grid(config.grid)
        self._specs = length_specs(config) if self._grid is None else ()
        self._device = DeviceRequest(
            name=config.device,
            seed=config.seed,
            kernels=config.kernels,
            checked=config.checked,
            count=config.checked,
            poll_seconds=poll_seconds,
        )
        self._device.check()
        self._deadline_s = deadline_s
        self._known: Mapping[str, Any] | None = None
        self._replicates = 1
        self._hardware: Mapping[str, Any] | None = None
        self.cells: tuple[Cell, ...] = ()
        """What is asked, in the order of the grid; ``items`` are these, or replicates of them."""
        self.expected: dict[str, Mapping[str, Any]] = {}

    def setup(self) -> Mapping[str, Any]:
        """See ``Activity``; of a grid, a backend that cannot be loaded makes unsupported cells."""
        return {
            "device": self._device.to_dict(),
            "backends": list(self._config.backends),
            "gpu": self._gpu.name,
            "optional": self._grid is not None,
            "deadline_s": self._deadline_s,
            "known": None if self._known is None else dict(self._known),
        }

    def silence_s(self, deadline_s: float) -> float:
        """See ``Activity``: the worker is silent while a backend is, which it ends itself."""
        return 2 * deadline_s + JUDGE_SLACK_S

    def items(self, facts: Facts) -> Sequence[Cell | Operation]:
        """See ``Activity``: operations of a grid, then cells; in rounds where there are replicates."""
        self._known = facts.more
        config, gpu = self._config, self._gpu
        policies = policies_of(config, facts.device)
        if self._grid is None:
            self.cells = make_cells(config, self._specs, device=facts.device, gpu=gpu.name, policies=policies)
        else:
            points = self._grid.points
            made = point_cells(
                points,
                config.backends,
                seed=config.seed,
                device=facts.device,
                gpu=gpu.name,
                policies=policies,
            )
            self.cells = tuple(cell for _, cell in made)
            known = self._grid.expectations
            self.expected = {
                cell.id: {"model": model, **known.of(cell, gpu, model=model)} for model, cell in made
            }
        _check_inputs(self.cells)
        self._replicates = replicates_of(config, facts.device, apart=self._deadline_s is not None)
        self.noun = "cell" if self._replicates == 1 else "timed cell"
        operations = self._operations(facts)
        # the host's clock on the emulated device compares nothing: there the order is that of the axes
        if facts.device != "cuda" and self._replicates == 1:
            return (*operations, *self.cells)
        return in_turns(self.cells, self._replicates, operations)

    def _operations(self, facts: Facts) -> tuple[Operation, ...]:
        """Those of the grid, where they are timed or counted: the host's clock says nothing of them."""
        if self._grid is None or not (facts.device == "cuda" or self._config.checked):
            return ()
        made = []
        for name, (size, fraction) in self._grid.operations.items():
            operation = Operation(name=name, size=size, device=facts.device)
            figures = self._grid.expectations.of_operation(operation, fraction, self._gpu)
            self.expected[operation.question] = {"model": name, **figures}
            made.append(operation)
        return tuple(made)

    def config(self, facts: Facts) -> Mapping[str, Any]:
        """Return what ``run.json`` keeps as configuration.

        Besides the options it holds digests of the cells (lengths drawn from a trace included) and of the
        kernel sources, so that a resumed run cannot mix results of two; of a grid, what is expected.
        """
        digests = {"cells": grid_digest(self.cells), "kernels": kernels_digest(self._config.kernels)}
        grid = {} if self._grid is None else {"expected": dict(self.expected)}
        asked = {name: value for name, value in self._config.to_dict().items() if name != "replicates"}
        # runs from before there was a choice go on with one
        several = {} if self._replicates == 1 else {"replicates": self._replicates}
        return {**asked, **several, "num_cells": len(self.cells), "digests": digests, **grid}

    def differs(self, key: str, was: Any, now: Any) -> str:
        """Say of digests what they stand for."""
        if key != "digests":
            return super().differs(key, was, now)
        drawn = (was or {}).get("cells") != now["cells"]
        return f"{'the lengths drawn' if drawn else 'the kernel sources'} differ, must be"

    def warm_up(self, engine: Engine) -> None:
        """Let each backend plan once; raises ``EnvironmentRefused`` where this machine cannot run it."""
        for name in self._config.backends:
            for cell in self.cells:
                if cell.backend != name:
                    continue
                try:
                    if engine.ask({"preflight": cell.to_dict()})["tried"]:
                        break
                except WorkerEnded:
                    break  # told in the cell that ends one too

    def opened(self, engine: Engine, directory: RunDirectory, facts: Facts) -> None:
        """Measure the ceilings of a CUDA device and write them to ``run.json``, once a run.

        Raises:
            DeviceFault: that ends the worker.
        """
        if facts.device == "cuda" and "hardware" not in directory.run:
            try:
                directory.note(hardware=engine.ask({"hardware": True})["hardware"])
            except WorkerEnded as ended:
                said = f"the ceilings of this GPU cannot be measured: {ended.ending.text}"
                raise DeviceFault(said) from None
        self._hardware = directory.run.get("hardware")

    @property
    def hardware(self) -> Mapping[str, Any] | None:
        """What ``opened`` left; None where nothing is measured."""
        return self._hardware

    def finish(self, item: Cell | Operation, record: Record) -> Record:
        """Add what was expected, and the fractions of the ceilings."""
        line = record.flat()
        if figures := self.expected.get(item.question):
            words = {name: "modelled" for name in EXPECTED_FIGURES if figures[name] is not None}
            line = {**line, **figures, "provenance": {**line["provenance"], **words}}
        if self._hardware:
            ceilings = self._hardware["ceilings"]
            line |= (
                operation_against_ceilings(line, ceilings)
                if isinstance(item, Operation)
                else against_ceilings(item, line, self._gpu, ceilings)
            )
        return record_of_flat(line)

    def replay_words(self, record: Record) -> Iterator[str]:
        """See ``Activity``."""
        for option, value in (("--kernels", self._config.kernels), ("--inputs", self._config.inputs)):
            if value:
                yield from (option, value)
        if is_place(BACKEND, record.subject.name):
            yield from ("--backend", record.subject.name)


def _check_inputs(cells: Sequence[Cell]) -> None:
    """Raise ``UsageError`` when captured activations are asked for and no cell has their heads."""
    capture = asked_capture()
    if capture is not None and not any(capture.fits(cell.problem) for cell in cells):
        heads = f"--heads {capture.q.shape[2]}:{capture.k.shape[2]} --head-dim {capture.k.shape[3]}"
        raise UsageError("--inputs: no cell has the heads of the captured activations", hint=f"add {heads}")


def length_specs(config: SweepConfig) -> tuple[LengthSpec, ...]:
    """Return the parsed length specs, those of the traces last."""
    specs = [resolve_lengths(text) for text in config.lengths]
    specs += [read_trace(Path(trace), LENGTHS).length_spec() for trace in config.traces]
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
