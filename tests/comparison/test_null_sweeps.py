# SPDX-License-Identifier: Apache-2.0
"""False alarms and power of whole sweeps, simulated: nothing is timed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pabench.activities.sweep.grid import REPLICATES
from pabench.comparison.delta import Change
from pabench.comparison.pairs import Pair
from pabench.comparison.timed import timed_deltas
from pabench.run.figures import figures_of
from pabench.run.record import Record, Status, Subject

CELLS, SAMPLES, NOISE = 300, 20, 0.01
SPIKES, SPIKE = 0.05, math.log(1.3)
"""Share of samples that were pre-empted, and by how much they are longer."""


def record(name: str, samples: object) -> Record:
    return Record(
        kind="sweep",
        id=name,
        label=name,
        subject=Subject(kind="backend", name="k"),
        device="cuda",
        status=Status.PASSED,
        figures=figures_of({"run_ns": samples}, {"run_ns": "measured"}),
    )


def sweep(
    rng: np.random.Generator,
    *,
    slower: int = 0,
    replicates: int = 1,
    spikes: bool = False,
    shared: float = 0.0,
    unlike: float = 0.0,
) -> list[Pair]:
    """Pairs of ``CELLS`` cells with log-normal noise; the first ``slower`` of the new run take 5 % longer.

    With replicates, each process is off by as much as its samples are, ``shared`` of that variance in all
    cells alike, and in some cells by more (``unlike``, of the logarithm); with spikes, some samples are far
    off.
    """
    pairs, common = [], np.zeros((2, 1, 1))
    if shared:
        common = NOISE * math.sqrt(shared) * rng.standard_normal((2, replicates, 1))
    for cell in range(CELLS):
        sides, own = (
            [],
            NOISE * math.sqrt(1 - shared) * math.exp(unlike * rng.standard_normal() if unlike else 0.0),
        )
        for side, shift in enumerate((0.0, math.log(1.05) if cell < slower else 0.0)):
            logs = shift + NOISE * rng.standard_normal((replicates, SAMPLES))
            if spikes:
                logs += SPIKE * (rng.random(logs.shape) < SPIKES)
            if replicates > 1:
                logs += common[side] + own * rng.standard_normal((replicates, 1))
            times = 1e5 * np.exp(logs)
            sides.append(times.tolist() if replicates > 1 else times[0].tolist())
        pairs.append(Pair(base=record(str(cell), sides[0]), new=record(str(cell), sides[1])))
    return pairs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("replicates", "spikes", "sweeps"),
    [
        *(
            pytest.param(replicates, spikes, 200, marks=pytest.mark.nightly)
            for replicates in (1, REPLICATES)
            for spikes in (False, True)
        ),
        (1, False, 20),
        (REPLICATES, False, 20),
    ],
)
def test_sweep_of_nothing_new_is_called_slower_in_five_of_a_hundred_at_most(
    replicates: int, spikes: bool, sweeps: int
) -> None:
    rng, alarms = np.random.default_rng(11), 0
    for _ in range(sweeps):
        pairs = sweep(rng, replicates=replicates, spikes=spikes)
        alarms += Change.SLOWER in {delta.change for delta in timed_deltas(pairs, threshold=1e-9)}
    assert alarms <= 0.05 * sweeps


@pytest.mark.parametrize(
    ("replicates", "spikes", "sweeps"),
    [
        (1, False, 10),
        (1, True, 10),
        (REPLICATES, False, 10),
        *(
            pytest.param(replicates, spikes, 200, marks=pytest.mark.nightly)
            for replicates in (1, REPLICATES)
            for spikes in (False, True)
        ),
    ],
)
def test_five_percent_slower_is_found_and_nothing_else(replicates: int, spikes: bool, sweeps: int) -> None:
    rng, found, false = np.random.default_rng(13), 0, 0
    for _ in range(sweeps):
        deltas = timed_deltas(sweep(rng, slower=10, replicates=replicates, spikes=spikes))
        found += sum(delta.change == Change.SLOWER for delta in deltas[:10])
        false += sum(delta.change == Change.SLOWER for delta in deltas[10:])
    assert found >= 0.95 * 10 * sweeps
    # each cell that was found lets BH call one in twenty of all alarms by chance
    assert false <= 0.05 * (found + false)


@pytest.mark.parametrize(("shared", "unlike"), [(1.0, 0.0), (0.5, 0.5)])
def test_processes_that_differ_in_all_cells_alike_or_in_some_more_raise_no_alarm(
    shared: float, unlike: float
) -> None:
    """What all cells of a process share makes the variances of the cells one and the same estimate."""
    rng, alarms = np.random.default_rng(19), 0
    for _ in range(10):
        pairs = sweep(rng, replicates=REPLICATES, shared=shared, unlike=unlike)
        alarms += Change.SLOWER in {delta.change for delta in timed_deltas(pairs, threshold=1e-9)}
    assert alarms <= 1
