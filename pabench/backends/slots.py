"""Checks on the arguments of ``Backend.append``."""

from __future__ import annotations

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool


def checked_slots(pool: KvPool, keys: Array, values: Array, slot_mapping: Array) -> Array:
    """Return ``slot_mapping`` as an int64 vector after checking it and the rows against the pool.

    Args:
        pool: the cache to write into.
        keys: ``(num_tokens, num_kv_heads, head_dim)``, element type of the pool.
        values: like ``keys``.
        slot_mapping: ``(num_tokens,)`` integers, ``page * page_size + offset`` or -1 to skip a token.

    Raises:
        InvalidCase: a shape or type does not fit, a slot is outside the pool, or two tokens share a slot
            (which of them stays would depend on the order of the writes).
    """
    first, second, head_dim = pool.storage.shape[-3:]
    num_kv_heads = second if pool.kv_layout == "NHD" else first
    mapping = np.asarray(slot_mapping)
    if mapping.ndim != 1 or (mapping.size and not np.issubdtype(mapping.dtype, np.integer)):
        raise InvalidCase("slot_mapping", (mapping.shape, str(mapping.dtype)), "must be a vector of integers")
    wanted = (mapping.size, num_kv_heads, head_dim)
    for name, rows in (("keys", keys), ("values", values)):
        if rows.shape != wanted:
            raise InvalidCase(f"{name} shape", rows.shape, f"must be {wanted}")
        if rows.dtype != pool.storage.dtype:
            raise InvalidCase(f"{name} dtype", str(rows.dtype), f"must be the pool's, {pool.storage.dtype}")
    slots = mapping.astype(np.int64)
    num_slots = pool.num_pages * pool.page_size
    bad = np.flatnonzero((slots < -1) | (slots >= num_slots))
    if bad.size:
        at = int(bad[0])
        rule = f"must be -1 (skip) or a slot of the pool, 0 to {num_slots - 1}"
        raise InvalidCase(f"slot_mapping[{at}]", int(slots[at]), rule)
    used, counts = np.unique(slots[slots >= 0], return_counts=True)
    if (counts > 1).any():
        slot = int(used[counts > 1][0])
        raise InvalidCase("slot_mapping", slot, "names one slot for two tokens")
    return slots
