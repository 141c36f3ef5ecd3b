"""What a cell would cost at best on a named GPU: one decode step of one layer for the whole batch."""

from __future__ import annotations

from typing import Any

from pabench.oracle.traffic import decode_traffic
from pabench.sweep.cell import Cell
from pabench.timing.gpus import Gpu
from pabench.timing.roofline import modelled_time_ns

MODELLED_FIGURES = ("modelled_ns", "modelled_tokens_per_s")


def modelled(cell: Cell, gpu: Gpu) -> dict[str, Any]:
    """Return the modelled figures of the journal line: a bound from bytes and operations, not a forecast.

    Each sequence makes one token a step, so tokens per second = sequences / time; a model of n layers makes
    at most an n-th of it.
    """
    traffic = decode_traffic(cell.problem, cell.batch.kv_lens)
    time_ns = modelled_time_ns(traffic.total_bytes, traffic.flops, gpu, dtype=cell.problem.dtype)
    return {"modelled_ns": time_ns, "modelled_tokens_per_s": cell.batch.num_seqs / time_ns * 1e9}
