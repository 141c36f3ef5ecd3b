"""What every adapter checks before it touches memory: reject or correct, never a wild read."""

from __future__ import annotations

import numpy as np

from pabench.backends.base import Capabilities
from pabench.errors import InvalidCase, Unsupported
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.problem.tensors import Tensors


def check_attention(name: str, capabilities: Capabilities, tensors: Tensors) -> None:
    """Raise unless ``tensors`` agree with their case and the backend can run it.

    Raises:
        Unsupported: the backend declares that it cannot.
        InvalidCase: a shape, dtype, length or page id that breaks a rule.
    """
    case = tensors.case
    reason = capabilities.why_not(case)
    if reason:
        raise Unsupported(f"{name}: {reason}")
    problem, batch = case.problem, case.batch
    expected = (batch.num_query_tokens, problem.num_qo_heads, problem.head_dim)
    if tensors.q.shape != expected:
        raise InvalidCase("q", tensors.q.shape, f"must have shape {expected}")
    if tensors.q.dtype != problem.storage.storage:
        raise InvalidCase("q", str(tensors.q.dtype), f"must be stored as {problem.storage.storage}")
    if tensors.pool.storage.dtype != problem.storage.storage:
        raise InvalidCase(
            "cache", str(tensors.pool.storage.dtype), f"must be stored as {problem.storage.storage}"
        )
    if tensors.kv_lens.tolist() != list(batch.kv_lens):
        raise InvalidCase("kv_lens", tensors.kv_lens.tolist(), "must be those of the case")
    if tensors.layout.num_pages != tensors.pool.num_pages:
        rule = f"must be the pages of the cache, {tensors.pool.num_pages}"
        raise InvalidCase("num_pages", tensors.layout.num_pages, rule)
    tensors.layout.validate(batch.kv_lens)


def check_append(pool: KvPool, keys: Array, values: Array, slot_mapping: Array) -> int:
    """Raise ``InvalidCase`` unless the tokens fit the cache; return its page size."""
    shape = pool.k.shape
    page_size, num_kv_heads = shape[1:3] if pool.kv_layout == "NHD" else (shape[2], shape[1])
    expected = (len(slot_mapping), num_kv_heads, shape[3])
    for field, array in (("keys", keys), ("values", values)):
        if array.shape != expected:
            raise InvalidCase(field, array.shape, f"must have shape {expected}")
        if array.dtype != pool.storage.dtype:
            raise InvalidCase(field, str(array.dtype), f"must be stored as {pool.storage.dtype}")
    slots = np.asarray(slot_mapping)
    if slots.ndim != 1 or slots.dtype.kind not in "iu":
        raise InvalidCase(
            "slot_mapping", f"{slots.dtype}{list(slots.shape)}", "must be a vector of whole numbers"
        )
    capacity = shape[0] * page_size
    bad = np.flatnonzero((slots >= capacity) | (slots < -1))
    if bad.size:
        at = int(bad[0])
        raise InvalidCase(f"slot_mapping[{at}]", int(slots[at]), f"must be -1 or a slot below {capacity}")
    live = slots[slots >= 0]
    if np.unique(live).size != live.size:
        raise InvalidCase("slot_mapping", slots.tolist(), "must not name a slot twice")
    return int(page_size)
