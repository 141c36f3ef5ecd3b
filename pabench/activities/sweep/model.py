# SPDX-License-Identifier: Apache-2.0
"""What a cell would cost at best on a named GPU: one step of one layer for the whole batch."""

from __future__ import annotations

from typing import Any

from pabench.activities.sweep.cell import Cell
from pabench.timing.gpus import Gpu
from pabench.timing.roofline import closed_form_work, modelled_time

MODELLED_FIGURES = ("modelled_ns", "modelled_tokens_per_s", "modelled_bound")


def modelled(cell: Cell, gpu: Gpu) -> dict[str, Any]:
    """Return the modelled figures of the journal line: a bound from bytes and operations, not a forecast.

    Tokens per second = query tokens / time, one for each sequence in decode; a model of n layers makes at
    most an n-th of it.
    """
    traffic = cell.traffic()
    work = closed_form_work(traffic.total_bytes, traffic.flops, dtype=cell.problem.dtype)
    model = modelled_time(work, gpu)
    return {
        "modelled_ns": model.time_ns,
        "modelled_tokens_per_s": cell.case(cell.batch.kv_lens).batch.num_query_tokens / model.time_ns * 1e9,
        "modelled_bound": model.bound,
    }
