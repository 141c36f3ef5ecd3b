# SPDX-License-Identifier: Apache-2.0
"""The roofline: the least time that a GPU's datasheet allows for given bytes and operations.

``t = launches * launch floor + max(DRAM bytes / bandwidth, L2 bytes / L2 bandwidth, flops / peak)`` after
Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
architectures" (CACM 2009).  It is an optimistic bound, not a forecast: provenance ``modelled``.  What it
leaves out is in ``LEFT_OUT``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from pabench.errors import InvalidCase
from pabench.problem.checks import finite_number, whole_number
from pabench.timing.gpus import Gpu

LAUNCH_FLOOR_NS = 2000.0
"""Time of an empty kernel in a stream that is kept full: about 2 us on the GPUs of the table."""

MAX_COUNT = 2**62
SECTOR_BYTES = 32
"""The unit in which L2 and DRAM are asked."""

LEFT_OUT = (
    "Real reads reach some 90 % of the datasheet's bandwidth; the model takes all of it.",
    "One launch may not fill the GPU: few sequences and heads, uneven lengths, a half-empty last wave.",
    "Latency: the page table is read before the page, and small pages come in short bursts.",
    "Instruction issue, exponentials, shared-memory conflicts, and registers that keep warps out.",
    "Clocks under load, and the clock that a power limit allows.",
    "Caches between launches: what stays in L2 from the launch before is charged to memory all the same.",
    "L2 bandwidth where the vendor publishes none: a kernel that reads the same bytes several times from L2 "
    "looks as fast as one that reads them once.",
)
"""What the model does not know, each a sentence; all but the last two make real kernels slower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a GPU has to do.

    Attributes:
        dram_bytes: bytes that cross the memory bus.
        l2_bytes: bytes asked of the L2 cache; None where nobody counted.
        tensor_flops: multiplications and additions in the tensor cores.
        fp32_flops: the same outside them.
        launches: kernels launched one after the other.

    Raises:
        InvalidCase: a negative or non-finite number.
    """

    dram_bytes: float
    l2_bytes: float | None = None
    tensor_flops: float = 0.0
    fp32_flops: float = 0.0
    launches: int = 1

    def __post_init__(self) -> None:
        for part in fields(self):
            value = getattr(self, part.name)
            if part.name == "launches":
                whole_number(part.name, value, low=0)
            elif value is not None:
                finite_number(part.name, value, low=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Modelled:
    """A modelled time and what makes it.

    Attributes:
        time_ns: the least time.
        bound: the largest term: ``memory``, ``l2``, ``tensor``, ``fp32`` or ``launch``.
        terms_ns: each term by name; ``l2`` is missing where bytes or bandwidth are not known.
    """

    time_ns: float
    bound: str
    terms_ns: Mapping[str, float]


def closed_form_work(traffic_bytes: float, flops: float, *, dtype: str, launches: int = 1) -> Work:
    """Return the work of a kernel that reads and writes each byte once, the best that one could do.

    Args:
        traffic_bytes: of ``pabench.judge.traffic``.
        flops: likewise; float32 operands run outside the tensor cores, all others in them.
        dtype: of the operands.
        launches: kernels launched one after the other.
    """
    if dtype == "float32":
        return Work(dram_bytes=traffic_bytes, fp32_flops=flops, launches=launches)
    return Work(dram_bytes=traffic_bytes, tensor_flops=flops, launches=launches)


def counted_work(
    *,
    global_load_sectors: int,
    global_store_sectors: int,
    distinct_load_sectors: int,
    distinct_store_sectors: int,
    mma_flops: int = 0,
    fp32_flops: float = 0.0,
    launches: int = 1,
) -> Work:
    """Return the work of a kernel whose traffic was counted, in sectors of 32 bytes.

    DRAM moves each distinct sector at least once; L2 answers every request that the kernel made.

    Args:
        global_load_sectors: sectors of all load requests.
        global_store_sectors: of all store requests.
        distinct_load_sectors: different sectors among the loads.
        distinct_store_sectors: among the stores.
        mma_flops: operations of matrix instructions.
        fp32_flops: operations outside the tensor cores, which no counter sees: from the closed form.
        launches: kernels launched one after the other.

    Raises:
        InvalidCase: a negative count, or more distinct sectors than sectors.
    """
    pairs = (
        ("distinct_load_sectors", distinct_load_sectors, global_load_sectors),
        ("distinct_store_sectors", distinct_store_sectors, global_store_sectors),
    )
    for name, distinct, asked in pairs:
        whole_number(name, distinct, low=0, high=MAX_COUNT)
        if distinct > asked:
            raise InvalidCase(name, distinct, f"must be at most the {asked} sectors asked for")
    return Work(
        dram_bytes=SECTOR_BYTES * (distinct_load_sectors + distinct_store_sectors),
        l2_bytes=SECTOR_BYTES * (global_load_sectors + global_store_sectors),
        tensor_flops=mma_flops,
        fp32_flops=fp32_flops,
        launches=launches,
    )


def modelled_time(work: Work, gpu: Gpu) -> Modelled:
    """Return the least time of ``work`` on ``gpu``, and which term makes it."""
    # GB/s are bytes per ns, TFLOP/s are thousands of operations per ns
    terms = {
        "memory": work.dram_bytes / gpu.memory_gbps,
        "tensor": work.tensor_flops / (gpu.tensor_tflops * 1e3),
        "fp32": work.fp32_flops / (gpu.fp32_tflops * 1e3),
    }
    if work.l2_bytes is not None and gpu.l2_gbps is not None:
        terms["l2"] = work.l2_bytes / gpu.l2_gbps
    busy_ns = max(terms.values())
    terms["launch"] = work.launches * LAUNCH_FLOOR_NS
    bound = max(terms, key=lambda name: terms[name])
    return Modelled(time_ns=terms["launch"] + busy_ns, bound=bound, terms_ns=terms)
