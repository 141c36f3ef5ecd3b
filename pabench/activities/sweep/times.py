# SPDX-License-Identifier: Apache-2.0
"""The speed of a cell: taken in the backend's process, read and judged in this one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

import numpy as np

from pabench.activities.sweep.bulk import bulk_tensors, judge_sample, tile_nothing
from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.counted import TRAFFIC_FIGURES, TRAFFIC_TIMES
from pabench.activities.sweep.measure import CYCLES, PREPARE, part_case, token_heads
from pabench.problem.case import Case
from pabench.subjects.backends.base import AttentionOutput, Backend

HOST_FIGURES = ("plan_ns", "run_ns")
DEVICE_WORDS = {"plan_ns": "host", "run_ns": "measured", "achieved_gbps": "measured", "dram_bytes": "counted"}
TASKS = "pabench.activities.sweep.tasks"

Figures = tuple[dict[str, Any], dict[str, str]]
"""Figures by name, and the word of provenance of each."""


class Tasks(Protocol):
    """Where the backend is: calls a function of ``tasks`` beside it."""

    def __call__(self, place: str, arguments: Mapping[str, Any]) -> Any:
        """Return what it returns; see ``run_task``."""


class WrongOutput(Exception):
    """The output of the timed run is wrong."""


class NoFigures(Exception):
    """The backend's process returned what none of our functions returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How a cell's speed is found.

    Attributes:
        task: asks the process of the backend.
        checked: its device counts, and takes no time that means anything.
        gpu: of the modelled times.
    """

    task: Tasks
    checked: bool
    gpu: str

    def of(self, cell: Cell, backend: Backend, announce: Callable[[Case], None]) -> Figures:
        """Return figures of ``cell``; ``announce`` is told the case before it runs.

        Raises:
            WrongOutput: what was timed is wrong, though the quick check was passed.
            NoFigures: nothing that makes sense came back.  Whatever the backend raises passes through.
        """
        if not self.checked and cell.device == "cuda":
            return self._events(cell, backend, announce)
        case = part_case(cell)
        announce(case)
        asked = {"cell": cell.to_dict(), "gpu": self.gpu}
        if not self.checked:
            said = self.task(f"{TASKS}:host_times", asked)
            figures = {name: _times(said, name) for name in HOST_FIGURES}
            words = dict.fromkeys(HOST_FIGURES, "host")
            prepared, prepared_by = _prepared(said, "host")
            figures, words = figures | prepared, words | prepared_by
        else:
            said = self.task(f"{TASKS}:traffic", asked)
            figures = {name: _figure(said, name) for name in (*TRAFFIC_FIGURES, *TRAFFIC_TIMES)}
            words = dict.fromkeys(TRAFFIC_FIGURES, "counted") | dict.fromkeys(TRAFFIC_TIMES, "modelled")
        return {**figures, "run_token_heads": token_heads(case)}, words

    def _events(self, cell: Cell, backend: Backend, announce: Callable[[Case], None]) -> Figures:
        case = cell.case(cell.batch.kv_lens)
        announce(case)
        found = self.task(f"{TASKS}:event_times", {"cell": cell.to_dict()})
        if not isinstance(found, tuple) or len(found) != 2:
            raise NoFigures(f"a timed run returned {type(found).__name__}")
        said, outputs = found
        figures: dict[str, Any] = {name: _times(said, name) for name in HOST_FIGURES}
        timing = said.get("timing")
        if not isinstance(timing, dict):
            raise NoFigures("a timed run does not say how it was timed")
        figures["timing"] = {**timing, "sample_max_ratio": _all_judged(case, timing, outputs, backend)}
        num_bytes = cell.traffic().total_bytes
        figures |= {
            "run_token_heads": token_heads(case),
            "dram_bytes": num_bytes,
            "achieved_gbps": num_bytes / max(1.0, median(figures["run_ns"])),
        }
        prepared, words = _prepared(said, "measured")
        if said.get(CYCLES) is not None:
            prepared, words = prepared | {CYCLES: _times(said, CYCLES)}, words | {CYCLES: "measured"}
        return figures | prepared, DEVICE_WORDS | words


def _all_judged(case: Case, timing: Mapping[str, Any], outputs: Any, backend: Backend) -> float:
    """Judge the sets that were fetched after timing; return the worst err/T."""
    turns = timing.get("judged")
    if not isinstance(turns, list) or not isinstance(outputs, tuple) or not len(turns) == len(outputs) > 0:
        raise NoFigures("a timed run does not say which of its outputs came back")
    if not all(type(turn) is int and turn >= 0 for turn in turns):
        raise NoFigures(f"a timed run returned outputs of sets {turns}, must be whole numbers")
    try:
        return max(_judged(case, *one, backend) for one in zip(turns, outputs, strict=True))
    except WrongOutput as error:
        if not timing.get("poisoned"):
            raise
        raise WrongOutput(f"{error} (results were NaN before each sample)") from None


def _judged(case: Case, turn: int, output: Any, backend: Backend) -> float:
    """Judge one set of what was timed; return the worst err/T."""
    # queries and pages follow from the case: the cache itself need not be here
    tensors = bulk_tensors(case, tile_nothing, turn=turn)
    if not isinstance(output, AttentionOutput):
        raise WrongOutput(f"the timed run returned {type(output).__name__}, must return AttentionOutput")
    wanted = (*tensors.q.shape[:2], case.problem.value_dim)
    if np.shape(output.out) != wanted:
        raise WrongOutput(f"out of the timed run has shape {np.shape(output.out)}, must be {wanted}")
    verdict = judge_sample(tensors, output, backend)
    if not verdict.passed:
        raise WrongOutput(verdict.text)
    return verdict.max_ratio


def _prepared(said: Any, word: str) -> Figures:
    """The time that serves all layers of a model, from a backend that has it apart."""
    if not isinstance(said, dict) or said.get(PREPARE) is None:
        return {}, {}
    return {PREPARE: _times(said, PREPARE)}, {PREPARE: word}


def _times(said: Any, name: str) -> list[float]:
    found = said.get(name) if isinstance(said, dict) else None
    if not isinstance(found, list) or not found or not all(map(is_time, found)):
        raise NoFigures(f"{name} of a timed run is no list of times")
    return found


def _figure(said: Any, name: str) -> Any:
    if not isinstance(said, dict) or name not in said:
        raise NoFigures(f"a counted run does not say {name}")
    found: Any = said[name]
    if found is not None and not isinstance(found, str) and not is_time(found):
        raise NoFigures(f"{name} of a counted run is no number")
    return found


def is_time(value: Any) -> bool:
    """Return whether a value is a finite number, 0 at least."""
    return type(value) in (int, float) and math.isfinite(value) and value >= 0
