# SPDX-License-Identifier: Apache-2.0
"""From a configuration to cells."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.config import LAYOUTS, NOT_IN_GRIDS, SweepConfig
from pabench.activities.sweep.grid_file import GridPoint
from pabench.activities.sweep.operation import Operation
from pabench.errors import UsageError
from pabench.problem.batch import Batch
from pabench.problem.checks import whole_number
from pabench.problem.lengths import LengthSpec
from pabench.problem.problem import Problem
from pabench.timing.cold import ROTATE
from pabench.workloads.families import resolve_lengths

REPLICATES = 5
"""Fresh processes that time a cell on a GPU; ``docs/compare.md`` says what so many find."""
MAX_CELLS = 100_000
"""Largest grid; a bigger one is almost certainly a typo."""


def make_cells(
    config: SweepConfig,
    specs: Sequence[LengthSpec],
    *,
    device: str,
    gpu: str,
    policies: Sequence[str | None] = (None,),
) -> tuple[Cell, ...]:
    """Return all cells of the grid in the order they run, page size innermost.

    An explicit list of lengths is its own batch, so it makes one cell whatever ``config.batch`` says.

    Args:
        config: the axes.
        specs: the length specs, parsed, the trace among them.
        device: name of the device, resolved.
        gpu: name of the GPU of the modelled figures, as its table spells it.
        policies: about the L2 cache, see ``policies_of``.

    Raises:
        UsageError: a length spec stands twice, or the grid is too large.
        InvalidCase: no head dimension is given, or heads, head dimension or lengths that make no problem.
    """
    texts = [spec.text for spec in specs]
    for position, text in enumerate(texts):
        if text in texts[:position]:
            raise UsageError(f"--lengths: {text!r} is given twice")
    rows = [
        (spec, batch) for spec in specs for batch in ((1,) if spec.explicit is not None else config.batch)
    ]
    outer = list(product(config.backends, config.layouts, config.dtypes, config.heads, policies))
    count = len(outer) * len(rows) * len(config.page_sizes)
    if count > MAX_CELLS:
        raise UsageError(f"the grid has {count} cells, must be at most {MAX_CELLS}")
    drawn = {
        (spec.text, batch, page_size): Batch(kv_lens=spec.draw(batch, seed=config.seed, page_size=page_size))
        for spec, batch in rows
        for page_size in config.page_sizes
    }
    return tuple(
        Cell(
            backend=backend,
            device=device,
            gpu=gpu,
            problem=Problem(
                num_qo_heads=heads[0],
                num_kv_heads=heads[1],
                head_dim=whole_number("head_dim", config.head_dim, low=1),
                page_size=page_size,
                dtype=dtype,
            ),
            batch=drawn[spec.text, batch, page_size],
            lengths=spec.text,
            seed=config.seed,
            kv_layout=LAYOUTS[layout][0],
            interleaved=LAYOUTS[layout][1],
            l2=policy,
        )
        for backend, layout, dtype, heads, policy in outer
        for spec, batch in rows
        for page_size in config.page_sizes
    )


def point_cells(
    points: Sequence[GridPoint],
    backends: Sequence[str],
    *,
    seed: int,
    device: str,
    gpu: str,
    policies: Sequence[str | None] = (None,),
) -> tuple[tuple[str, Cell], ...]:
    """Return model and cell of each point for each backend, in the order of the points, backends innermost.

    Args:
        points: of a grid.
        backends: names; one of ``NOT_IN_GRIDS`` that points name is for these alone.
        seed: drives lengths and tensors.
        device, gpu, policies: as for ``make_cells``.

    Raises:
        UsageError: a length spec that does not exist.
    """
    named = {name for point in points for name in point.backends}
    everywhere = [name for name in backends if name not in NOT_IN_GRIDS or name not in named]
    made = []
    for point in points:
        spec, page_size = resolve_lengths(point.lengths), point.problem.page_size
        batch = Batch(kv_lens=spec.draw(point.batch, seed=seed, page_size=page_size))
        asked = [name for name in backends if name in (point.backends or everywhere)]
        for policy, backend in product(policies, asked):
            cell = Cell(
                backend=backend,
                device=device,
                gpu=gpu,
                problem=point.problem,
                batch=batch,
                lengths=spec.text,
                seed=seed,
                kv_layout=LAYOUTS[point.layout][0],
                interleaved=LAYOUTS[point.layout][1],
                q_len=point.q_len,
                shared_pages=point.shared_pages,
                l2=policy,
            )
            made.append((point.model, cell))
    return tuple(made)


def policies_of(config: SweepConfig, device: str) -> tuple[str | None, ...]:
    """Return what the cells of ``config`` do about the L2 cache of ``device``; None where it has none.

    Raises:
        UsageError: a policy is asked for where nothing is timed out of a cache.
    """
    if device == "cuda" and not config.checked:
        return config.l2 or (ROTATE,)
    if config.l2:
        why = "is timed by the host's clock" if device != "cuda" else "is checked and not timed"
        raise UsageError(f"--l2 {','.join(config.l2)}: a cell on device {device} {why}, and has no L2 policy")
    return (None,)


def replicates_of(config: SweepConfig, device: str, *, apart: bool) -> int:
    """Return how many fresh processes time each cell: ``REPLICATES`` on a GPU, else 1, unless some are asked.

    Args:
        config: may ask for a number.
        device: name of the device, resolved.
        apart: whether backends have processes of their own.

    Raises:
        UsageError: several are asked for, where there is nothing that could differ from process to process.
    """
    if config.replicates is None:
        return REPLICATES if device == "cuda" and not config.checked and apart else 1
    if config.replicates > 1 and (config.checked or not apart):
        why = "is checked: its counts do not vary" if config.checked else "has no processes with --in-process"
        raise UsageError(f"--replicates {config.replicates}: a sweep that {why}, must be 1")
    return config.replicates


def in_turns(
    cells: Sequence[Cell], replicates: int, operations: Sequence[Operation] = ()
) -> tuple[Cell | Operation, ...]:
    """Return what is timed in its order: each cell by one backend after the other, in rounds.

    A round asks one fresh process of each backend for all cells, the next one takes the backends of a cell in
    the opposite order (A B, B A, A B, ...): what drifts on a machine meets all alike.  A budget that ends
    early leaves all cells with fewer replicates, and not some without.  Operations begin each round.
    """
    turns: dict[str, list[Cell]] = {}
    for cell in cells:
        turns.setdefault(replace(cell, backend="").question, []).append(cell)
    if replicates == 1:
        return (*operations, *(cell for turn in turns.values() for cell in turn))
    rounds: list[Cell | Operation] = []
    for number in range(1, replicates + 1):
        rounds += [replace(operation, replicate=number) for operation in operations]
        for turn in turns.values():
            rounds += [replace(cell, replicate=number) for cell in (turn if number % 2 else reversed(turn))]
    return tuple(rounds)


def grid_digest(cells: Sequence[Cell]) -> str:
    """Return a hash of the cells' ids: equal for two sweeps that ask the same."""
    return hashlib.sha256("\n".join(cell.id for cell in cells).encode()).hexdigest()[:16]
