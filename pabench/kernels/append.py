"""Launch plan of ``kv_append.cu``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pabench.device.base import Device, Launch
from pabench.kernels.instance import (
    THREADS,
    WARPS,
    KernelEntry,
    KernelInstance,
    kernel_source,
    shape_defines,
    shaped_instances,
    vector_width,
)
from pabench.problem.dtypes import DType
from pabench.problem.pool import KvPool

FILE = "kv_append.cu"
ENTRY = "kv_append"


def instances() -> Iterator[KernelInstance]:
    """Yield the instances of the static table."""
    for label, defines, _ in shaped_instances():
        entries = (KernelEntry(name=ENTRY, threads=THREADS),)
        yield KernelInstance(file=FILE, label=label, defines=defines, entries=entries)


def append_tokens(
    device: Device, dtype: DType, *, pool: KvPool, keys: Any, values: Any, slot_mapping: Any, page_size: int
) -> None:
    """Write tokens into ``pool`` on the device.

    Args:
        device: where all arrays lie.
        dtype: storage type of cache and tokens.
        pool: the cache, written in place.
        keys: ``(num_tokens, num_kv_heads, head_dim)``.
        values: like ``keys``.
        slot_mapping: ``(num_tokens,) int64``; negative entries are skipped.
        page_size: tokens of one page.
    """
    num_tokens, num_kv_heads, head_dim = keys.shape
    if num_tokens == 0:
        return
    width = vector_width(head_dim, dtype, keys, values, pool.k, pool.v)
    source = kernel_source(device, FILE, **shape_defines(head_dim, dtype, width))
    page, token, head = pool.element_strides
    launch = Launch(
        entry=ENTRY,
        grid=(-(-num_tokens // WARPS), 1, 1),
        block=(THREADS, 1, 1),
        args=(
            *(keys, values, slot_mapping, pool.k, pool.v),
            *(np.int32(num_tokens), np.int32(num_kv_heads), np.int32(page_size)),
            *(np.int64(page), np.int64(token), np.int64(head)),
        ),
    )
    device.load(source).launch(launch)
