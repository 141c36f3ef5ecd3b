"""The roofline: the least time that a GPU's datasheet allows for given bytes and operations.

``t = launches * launch floor + max(bytes / bandwidth, flops / peak)`` after Williams, Waterman and Patterson,
"Roofline: an insightful visual performance model for multicore architectures" (CACM 2009).

It is an optimistic bound, not a forecast: provenance ``modelled``.  It leaves out that real copies reach some
90 % of the datasheet's bandwidth, that one launch may not fill the GPU (few sequences and heads, tail waves),
page-table latency, short bursts of small pages, instruction issue and exponentials, uneven lengths, clocks
under load, and it knows no cache: data that stays in L2 between launches is charged to memory.
"""

from __future__ import annotations

from pabench.problem.checks import finite_number, whole_number
from pabench.timing.gpus import Gpu

LAUNCH_FLOOR_NS = 2000.0
"""Time of an empty kernel in a stream that is kept full: about 2 us on the GPUs of the table."""


def modelled_time_ns(
    traffic_bytes: float, flops: float, gpu: Gpu, launches: int = 1, *, dtype: str = "bfloat16"
) -> float:
    """Return the least time in ns.

    Args:
        traffic_bytes: bytes that cross the memory bus.
        flops: multiplications and additions.
        gpu: whose bandwidth and peak.
        launches: kernels launched one after the other.
        dtype: operand type, which selects the peak.

    Raises:
        InvalidCase: a negative or non-finite number.
    """
    moved = finite_number("traffic_bytes", traffic_bytes, low=0.0)
    work = finite_number("flops", flops, low=0.0)
    count = whole_number("launches", launches, low=0)
    # GB/s are bytes per ns, TFLOP/s are thousands of operations per ns
    memory_ns = moved / gpu.memory_gbps
    compute_ns = work / (gpu.peak_tflops(dtype) * 1e3)
    return count * LAUNCH_FLOOR_NS + max(memory_ns, compute_ns)
