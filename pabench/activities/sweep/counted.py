# SPDX-License-Identifier: Apache-2.0
"""What a cell's kernels did on the checked device: exact counts, and the time that they take at best."""

from __future__ import annotations

from typing import Any

from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.measure import part_case, token_heads
from pabench.device.checked import CheckedDevice
from pabench.device.counters import Counters, of_all_kernels
from pabench.judge.traffic import Traffic, batch_traffic
from pabench.problem.tensors import build_tensors, layout_of
from pabench.subjects.backends.base import Backend
from pabench.timing.gpus import Gpu
from pabench.timing.roofline import closed_form_work, counted_work, modelled_time

CACHE_PARAMETERS = (
    *("k", "v", "k_cache", "v_cache"),
    *("key_cache_ptr", "value_cache_ptr", "K_cache", "V_cache", "K_Buffer", "V_Buffer"),
)
"""What kernels call the pages of keys and values: ours, see the specification; vLLM's and SGLang's."""
TABLE_PARAMETERS = ("block_table", "block_tables_ptr", "B_Loc", "Req_to_tokens", "kv_indices")
"""What they call the table of pages; SGLang's has an entry for each token."""

TRAFFIC_FIGURES = (
    "counted_kv_bytes",
    "closed_form_kv_bytes",
    "counted_load_sectors",
    "counted_store_sectors",
    "distinct_sectors",
    "sectors_per_request",
    "wavefronts",
    "bank_conflicts",
    "page_table_reads",
)
TRAFFIC_TIMES = ("counted_modelled_ns", "counted_bound", "closed_form_modelled_ns")


def counted(cell: Cell, backend: Backend, device: CheckedDevice, gpu: Gpu) -> dict[str, Any]:
    """Return figures of one run over ``part_case``, which ``measure`` would time.

    Besides ``run_token_heads`` the dictionary has ``TRAFFIC_FIGURES`` and ``TRAFFIC_TIMES``, the latter for
    counted traffic and for the closed form of the same part.  A backend that launches no
    kernel on the device has the closed forms only.

    Raises:
        KernelFindings: the kernel did what it must not.  Whatever else the backend raises passes through.
    """
    case = part_case(cell)
    device.counters.clear()
    backend.run(backend.plan(build_tensors(case)))
    layout = layout_of(case) if case.shared_prefix else None
    floor = batch_traffic(cell.problem, case.batch, layout=layout)
    figures: dict[str, Any] = dict.fromkeys((*TRAFFIC_FIGURES, *TRAFFIC_TIMES))
    figures |= {
        "run_token_heads": token_heads(case),
        "closed_form_kv_bytes": floor.kv_bytes,
        "closed_form_modelled_ns": modelled_time(
            closed_form_work(floor.total_bytes, floor.flops, dtype=cell.problem.dtype), gpu
        ).time_ns,
    }
    if not device.counters:
        return figures
    all_kernels = of_all_kernels(device.counters.values())
    return figures | _traffic(all_kernels) | _modelled(all_kernels, floor, gpu)


def _traffic(counters: Counters) -> dict[str, Any]:
    return {
        "counted_kv_bytes": counters.loaded_bytes(*CACHE_PARAMETERS),
        **counters.memory_figures(),
        "page_table_reads": counters.load_requests(*TABLE_PARAMETERS),
    }


def _modelled(counters: Counters, floor: Traffic, gpu: Gpu) -> dict[str, Any]:
    """The roofline over counted traffic; operations that no counter sees are those of the closed form."""
    totals = counters.totals()
    mma_flops = totals.matrix_flops
    # atomic operations read and write
    work = counted_work(
        global_load_sectors=totals.load_sectors + totals.atomic_sectors,
        global_store_sectors=totals.store_sectors + totals.atomic_sectors,
        distinct_load_sectors=counters.distinct_loaded_sectors,
        distinct_store_sectors=counters.distinct_stored_sectors,
        mma_flops=mma_flops,
        fp32_flops=max(0, floor.flops - mma_flops),
        launches=counters.launches,
    )
    model = modelled_time(work, gpu)
    return {"counted_modelled_ns": model.time_ns, "counted_bound": model.bound}
