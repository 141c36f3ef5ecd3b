# SPDX-License-Identifier: Apache-2.0
"""What a cell of a grid is expected to take, said before it is measured; and what came of it afterwards.

Before: ``floor = max(bytes / memory, flops / tensor)`` with the parts of a datasheet's figures that the grid
takes for reachable; ``predicted = floor / fraction``, the fraction by backend, evenness and size.  After:
the same floor with the ceilings that were measured on the card, plus one measured launch of nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.doubts import TOO_FAST, doubts, refused
from pabench.activities.sweep.operation import Operation
from pabench.judge.traffic import Traffic
from pabench.timing.cold import HOT
from pabench.timing.gpus import Gpu

EXPECTED_FIGURES = ("expected_floor_ns", "predicted_ns")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedFraction:
    """The part of the floor's speed that cells of ``backend`` with so many 10^6 bytes shall reach.

    ``models`` are those that it holds for, by name; all where there are none.
    """

    backend: str
    even: bool
    models: tuple[str, ...]
    from_mb: float
    fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """What a grid expects.

    Attributes:
        memory_reach, tensor_reach: part of the datasheet's figure that counts as reachable.
        fractions: the first that fits a cell counts.
    """

    memory_reach: float
    tensor_reach: float
    fractions: tuple[ExpectedFraction, ...]

    def of_operation(self, operation: Operation, fraction: float, gpu: Gpu) -> dict[str, float | None]:
        """Return the same of an operation that shall reach ``fraction`` of the reachable bandwidth."""
        floor_ns = operation.moved_bytes / (self.memory_reach * gpu.memory_gbps)
        return {"expected_floor_ns": floor_ns, "predicted_ns": floor_ns / fraction}

    def of(self, cell: Cell, gpu: Gpu, *, model: str = "") -> dict[str, float | None]:
        """Return ``expected_floor_ns`` and ``predicted_ns``, the latter None where nobody predicts."""
        traffic = cell.traffic()
        floor_ns = _floor_ns(
            traffic,
            memory_gbps=self.memory_reach * gpu.memory_gbps,
            tflops=self.tensor_reach * _peak_tflops(cell, gpu),
        )
        even = len(set(cell.batch.kv_lens)) == 1
        fits = (
            rule.fraction
            for rule in self.fractions
            if (rule.backend, rule.even) == (cell.backend, even)
            and traffic.total_bytes >= 1e6 * rule.from_mb
            and (not rule.models or model in rule.models)
        )
        fraction = next(fits, None)
        return {
            "expected_floor_ns": floor_ns,
            "predicted_ns": None if fraction is None else floor_ns / fraction,
        }


def against_ceilings(
    cell: Cell, line: Mapping[str, Any], gpu: Gpu, ceilings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what follows from a measured ``line`` and the ceilings of the same card; else nothing.

    ``read_fraction`` is achieved over read bandwidth, ``floor_ns`` the least time by the measured ceilings
    (tensor cores by the datasheet) with one empty launch, ``floor_fraction`` that over the median; ``flags``
    are doubts.  Of a hot cache, which memory does not bound, there are flags alone.  A time that memory
    cannot have is refused: the cell is inconclusive, and has its samples only as evidence in ``timing``.
    """
    if (line.get("provenance") or {}).get("run_ns") != "measured" or not line.get("run_ns"):
        return {}
    traffic = cell.traffic()
    read_gbps = float(ceilings["read_gbps"])
    busy_ns = _floor_ns(traffic, memory_gbps=read_gbps, tflops=_peak_tflops(cell, gpu))
    floor_ns = busy_ns + float(ceilings["launch_floor_ns"] or 0.0)
    middle_ns = max(1.0, median(line["run_ns"]))
    read_fraction = float(line["achieved_gbps"]) / read_gbps
    timing = line["timing"]
    flags = doubts(timing, samples=len(line["run_ns"]))
    if timing.get("l2") == HOT:
        return {"flags": flags}
    if read_fraction > TOO_FAST:
        return refused(line, read_fraction)
    words = {"floor_ns": "modelled", "read_fraction": "measured", "floor_fraction": "measured"}
    return {
        "floor_ns": floor_ns,
        "read_fraction": read_fraction,
        "floor_fraction": floor_ns / middle_ns,
        "flags": flags,
        "provenance": {**line["provenance"], **words},
    }


def operation_against_ceilings(line: Mapping[str, Any], ceilings: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``copy_fraction``, achieved over copy bandwidth of the same card, of a measured ``line``.

    A time that memory cannot have is refused, as that of a cell is.
    """
    if (line.get("provenance") or {}).get("run_ns") != "measured" or not line.get("run_ns"):
        return {}
    rate, copy_gbps = float(line["achieved_gbps"]), float(ceilings["copy_gbps"])
    # reads and writes: which of the two a card does faster differs from card to card
    fraction = rate / max(copy_gbps, float(ceilings["read_gbps"]))
    if fraction > TOO_FAST:
        return refused(line, fraction, "ceiling")
    words = {"copy_fraction": "measured"}
    return {"copy_fraction": rate / copy_gbps, "provenance": {**line["provenance"], **words}}


def _floor_ns(traffic: Traffic, *, memory_gbps: float, tflops: float) -> float:
    # GB/s are bytes per ns, TFLOP/s are thousands of operations per ns
    return max(traffic.total_bytes / memory_gbps, traffic.flops / (1e3 * tflops))


def _peak_tflops(cell: Cell, gpu: Gpu) -> float:
    return gpu.fp32_tflops if cell.problem.dtype == "float32" else gpu.tensor_tflops
