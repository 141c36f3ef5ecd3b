"""Checks of the append operation: bit-exact where it writes, and nothing else changed."""

from __future__ import annotations

import numpy as np

from pabench.backends.base import Backend
from pabench.conformance.outcome import PASSED, Outcome, failed
from pabench.device.base import Device
from pabench.problem.append import AppendCase, build_append
from pabench.problem.dtypes import Array


def check_append(case: AppendCase, backend: Backend, device: Device) -> Outcome:
    """New tokens stand in their slots bit for bit; every other byte of the cache is as before."""
    pool, keys, values, slot_mapping = build_append(case)
    before = pool.storage.tobytes()
    after = backend.append(pool, case.problem.dtype, keys, values, slot_mapping)
    if pool.storage.tobytes() != before:
        return failed("append changed the cache it was given, must return a new one")
    if (
        not isinstance(after, np.ndarray)
        or after.shape != pool.storage.shape
        or after.dtype != pool.storage.dtype
    ):
        return failed(f"append returned {_describe(after)}, must return {_describe(pool.storage)}")
    got = pool.with_storage(after)
    expected = pool.with_storage(pool.storage.copy())
    for token, slot in enumerate(case.slots):
        if slot >= 0:
            page, offset = divmod(slot, case.problem.page_size)
            row = (page, offset) if case.kv_layout == "NHD" else (page, slice(None), offset)
            expected.k[row] = keys[token]
            expected.v[row] = values[token]
    for name, a, b, old in (("key", got.k, expected.k, pool.k), ("value", got.v, expected.v, pool.v)):
        wrong = _first_difference(a, b)
        if wrong:
            page, first, second, dim = wrong
            head, offset = (second, first) if case.kv_layout == "NHD" else (first, second)
            slot = page * case.problem.page_size + offset
            owner = f"token {case.slots.index(slot)}" if slot in case.slots else "no token"
            kept = " (it still holds what was there)" if _same(a[wrong], old[wrong]) else ""
            place = f"{name} in slot {slot} (page {page}, offset {offset}), KV head {head}, dim {dim}"
            return failed(f"{place} belongs to {owner} and is wrong{kept}")
    return PASSED


def _first_difference(a: Array, b: Array) -> tuple[int, ...] | None:
    bits = np.dtype(f"u{a.dtype.itemsize}")
    where = np.argwhere(np.ascontiguousarray(a).view(bits) != np.ascontiguousarray(b).view(bits))
    return tuple(int(i) for i in where[0]) if where.size else None


def _same(a: Array, b: Array) -> bool:
    return bool(np.asarray(a).tobytes() == np.asarray(b).tobytes())


def _describe(array: object) -> str:
    if isinstance(array, np.ndarray):
        return f"{array.dtype}{list(array.shape)}"
    return type(array).__name__
