"""Options that say which model runs where: bytes of a number, of the weights, of the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pabench.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from pabench.problem.models import ModelShape
    from pabench.timing.gpus import Gpu

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "fp8": 1}
MEMORY_SHARE = 0.9
"""Part of a GPU's memory that weights and cache may fill; the rest is for activations and fragmentation."""
GIB = 2**30


def item_bytes(dtype: str) -> int:
    """Return the bytes of one number; raises ``UnknownName``."""
    if dtype not in ITEM_BYTES:
        raise UnknownName("dtype", dtype, ITEM_BYTES)
    return ITEM_BYTES[dtype]


def chosen_model(name: str | None, heads: str | None, head_dim: int, layers: int) -> ModelShape:
    """Return the preset called ``name``, or a model of so many heads; raises ``UsageError``."""
    from pabench.activities.sweep.axes import parse_heads
    from pabench.problem.models import ModelShape, model_by_name

    if (name is None) == (heads is None):
        raise UsageError("give either --model NAME or --heads HQ:HKV", hint="pabench list models")
    if name is not None:
        return model_by_name(name)
    query, kv = parse_heads("--heads", heads or "")
    return ModelShape(
        name=f"{query}:{kv}",
        title=f"{layers} layers of {query} query and {kv} KV heads of {head_dim}",
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
