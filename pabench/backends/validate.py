"""What every adapter checks before it touches memory: reject or correct, never a wild read."""

from __future__ import annotations

import numpy as np

from pabench.backends.base import Capabilities
from pabench.errors import InvalidCase, Unsupported
from pabench.problem.dtypes import Array, dtype_by_name
from pabench.problem.pool import KvPool, pool_shape
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
    pool, layout = tensors.pool, tensors.layout
    wanted = (case.kv_layout, case.interleaved)
    if (pool.kv_layout, pool.interleaved) != wanted:
        given = (pool.kv_layout, pool.interleaved)
        raise InvalidCase("cache layout", given, f"must be {wanted} as in the case")
    stored = problem.kv_storage.storage
    if pool.storage.dtype != stored:
        raise InvalidCase("cache", str(pool.storage.dtype), f"must be stored as {stored}")
    if pool.storage.ndim != 5:
        raise InvalidCase("cache", pool.storage.shape, "must have 5 axes, see KvPool")
    cache = pool_shape(problem, pool.num_pages, kv_layout=case.kv_layout, interleaved=case.interleaved)
    if pool.storage.shape != cache:
        raise InvalidCase("cache", pool.storage.shape, f"must have shape {cache}")
    if tensors.kv_lens.dtype != np.int32:
        raise InvalidCase("kv_lens", str(tensors.kv_lens.dtype), "must have dtype int32")
    if tensors.kv_lens.tolist() != list(batch.kv_lens):
        raise InvalidCase("kv_lens", tensors.kv_lens.tolist(), "must be those of the case")
    if tensors.qo_indptr.dtype != np.int32:
        raise InvalidCase("qo_indptr", str(tensors.qo_indptr.dtype), "must have dtype int32")
    if tensors.qo_indptr.tolist() != batch.qo_indptr.tolist():
        raise InvalidCase("qo_indptr", tensors.qo_indptr.tolist(), "must be that of the case")
    if layout.page_size != problem.page_size:
        raise InvalidCase("page_size", layout.page_size, f"must be that of the case, {problem.page_size}")
    if layout.num_pages != pool.num_pages:
        raise InvalidCase("num_pages", layout.num_pages, f"must be the pages of the cache, {pool.num_pages}")
    tensors.layout.validate(batch.kv_lens)


def check_append(pool: KvPool, keys: Array, values: Array, slot_mapping: Array, dtype: str) -> int:
    """Raise ``InvalidCase`` unless the tokens, stored as ``dtype``, fit the cache; return its page size."""
    stored = dtype_by_name(dtype).storage
    if pool.storage.ndim != 5 or pool.storage.dtype != stored:
        given = f"{pool.storage.dtype}{list(pool.storage.shape)}"
        raise InvalidCase("cache", given, f"must have 5 axes and be stored as {stored}")
    slots = np.asarray(slot_mapping)
    if slots.ndim != 1 or slots.dtype.kind not in "iu":
        raise InvalidCase(
            "slot_mapping", f"{slots.dtype}{list(slots.shape)}", "must be a vector of whole numbers"
        )
    shape = pool.k.shape
    page_size, num_kv_heads = shape[1:3] if pool.kv_layout == "NHD" else (shape[2], shape[1])
    expected = (len(slots), num_kv_heads, shape[3])
    for field, array in (("keys", keys), ("values", values)):
        if array.shape != expected:
            raise InvalidCase(field, array.shape, f"must have shape {expected}")
        if array.dtype != stored:
            raise InvalidCase(field, str(array.dtype), f"must be stored as {stored}")
    capacity = shape[0] * page_size
    bad = np.flatnonzero((slots >= capacity) | (slots < -1))
    if bad.size:
        at = int(bad[0])
        raise InvalidCase(f"slot_mapping[{at}]", int(slots[at]), f"must be -1 or a slot below {capacity}")
    live = slots[slots >= 0]
    if np.unique(live).size != live.size:
        raise InvalidCase("slot_mapping", slots.tolist(), "must not name a slot twice")
    return int(page_size)
