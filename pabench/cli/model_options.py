# SPDX-License-Identifier: Apache-2.0
"""Options that say which model runs where: bytes of a number, of the weights, of the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pabench.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from pabench.problem.models import ModelShape
    from pabench.timing.gpus import Gpu

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "fp8": 1}
WEIGHT_BITS = {
    **{name: 8.0 * size for name, size in ITEM_BYTES.items()},
    # with their scales: one for 32, and for 16
    **{"int8": 8.0, "int4": 4.0, "mxfp4": 4.25, "nvfp4": 4.5},
}
MEMORY_SHARE = 0.9
"""Part of a GPU's memory that weights and cache may fill; the rest is for activations and fragmentation."""
GIB = 2**30

CACHE_DTYPE = click.option(
    "--cache-dtype", metavar="NAME", help="Data type of the KV cache.  [default: that of --dtype]"
)
WEIGHT_DTYPE = click.option(
    "--weight-dtype",
    metavar="NAME",
    help="Data type of the weights.  [default: that of the checkpoint, else --dtype]",
)


def item_bytes(dtype: str) -> int:
    """Return the bytes of one number of the cache; raises ``UnknownName``."""
    if dtype not in ITEM_BYTES:
        raise UnknownName("dtype", dtype, ITEM_BYTES)
    return ITEM_BYTES[dtype]


def weight_bytes_of(model: ModelShape, dtype: str, weight_dtype: str | None) -> float:
    """Return the bytes of all weights: in ``weight_dtype``, or as stored, or else in ``dtype``."""
    if weight_dtype is None and model.stored_bytes:
        return model.stored_bytes
    name = dtype if weight_dtype is None else weight_dtype
    if name not in WEIGHT_BITS:
        raise UnknownName("dtype", name, WEIGHT_BITS)
    return model.parameters * WEIGHT_BITS[name] / 8


def chosen_model(name: str | None, heads: str | None, head_dim: int, layers: int) -> ModelShape:
    """Return the preset or the checkpoint called ``name``, or a model of so many heads.

    Raises:
        UsageError: neither or both are given, or there is no such model.
    """
    from pabench.activities.sweep.axes import parse_heads
    from pabench.problem.models import ModelShape
    from pabench.workloads.model_config import model_of

    if (name is None) == (heads is None):
        raise UsageError("give either --model NAME or --heads HQ:HKV", hint="pabench list models")
    if name is not None:
        return model_of(name)
    query, kv = parse_heads("--heads", heads or "")
    return ModelShape(
        name=f"{query}:{kv}",
        title=f"{layers} layers of {query} query and {kv} KV heads of {head_dim}, no weights",
        num_layers=layers,
        num_qo_heads=query,
        num_kv_heads=kv,
        head_dim=head_dim,
    )


def pool_bytes_of(pool_gib: float | None, gpu: Gpu, gpus: int, weight_bytes: float) -> int:
    """Return bytes of cache: as given in GiB, or what weights leave of the GPUs' memory.

    Raises:
        UsageError: they leave nothing.
    """
    from pabench.problem.checks import finite_number

    if pool_gib is not None:
        return int(finite_number("--pool-gib", pool_gib, low=0.001, high=1e9) * GIB)
    left = MEMORY_SHARE * gpus * gpu.memory_gib * GIB - weight_bytes
    if left <= 0:
        raise UsageError(
            f"--gpus {gpus}: {weight_bytes / GIB:.1f} GiB of weights leave no room in {MEMORY_SHARE:.0%} of "
            f"{gpus} x {gpu.memory_gib:g} GiB",
            hint="more --gpus, or --pool-gib",
        )
    return int(left)
