# SPDX-License-Identifier: Apache-2.0
"""Checks of copying pages, as forks and copy on write ask for it: bit-exact, and nothing else changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pabench.checks.append_checks import gaps_kept
from pabench.checks.outcome import PASSED, Outcome, failed
from pabench.device.base import Device
from pabench.problem.append import AppendCase, build_append
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.subjects.backends.base import Backend, offered

MAX_LAYERS = 3


def check_copy(case: AppendCase, backend: Backend, device: Device) -> Outcome:
    """The first slots of pages are copied bit for bit in the caches of all layers; nothing else changes.

    Pages and slots follow from the seed of ``case``, whose own tokens are not used.
    """
    return judged_copy(case, offered(backend, "copy-pages"))


def judged_copy(case: AppendCase, copy: Callable[..., Any]) -> Outcome:
    """Judge the copies that ``copy`` makes, called as ``CacheBackend.copy_pages``."""
    pool = build_append(case)[0]
    rng = np.random.default_rng(case.seed)
    layers = int(rng.integers(1, MAX_LAYERS + 1))
    # other bits in each layer, the same in a layer whatever the number of layers
    pools = [
        pool.with_storage(np.roll(pool.storage.reshape(-1), layer).reshape(pool.storage.shape))
        for layer in range(layers)
    ]
    pages = rng.permutation(case.num_pages)
    cut = int(rng.integers(0, case.num_pages)) if case.num_pages > 1 else 0
    targets, sources = pages[:cut], pages[cut:]
    size = case.problem.page_size
    # whole pages and none as often as anything between
    slots = np.clip(rng.integers(-size // 2, size + size // 2 + 1, cut), 0, size)
    copies = np.stack([rng.choice(sources, cut), targets, slots], axis=1).astype(np.int32)
    # an allocator's list has room for more than there are: what lies behind the count is of an earlier call
    behind = [[int(sources[0]), int(page), size] for page in sources[1:2]]
    listed = np.concatenate([copies, np.array(behind, np.int32).reshape(-1, 3)])
    before = [one.storage.tobytes() for one in pools]
    after = copy(pools, listed, count=len(copies))
    if [one.storage.tobytes() for one in pools] != before:
        return failed("copying changed the caches it was given, must return new ones")
    if not isinstance(after, list) or len(after) != layers:
        return failed(f"copying returned {type(after).__name__}, must return a list of {layers} caches")
    for layer, (given, storage) in enumerate(zip(pools, after, strict=True)):
        wrong = _wrong(given, storage, copies.tolist(), behind)
        if wrong:
            return failed(f"layer {layer}: {wrong}")
    return PASSED


def _wrong(
    pool: KvPool, storage: object, copies: Sequence[Sequence[int]], behind: Sequence[Sequence[int]]
) -> str | None:
    """Say where a cache is not as it should be after ``copies``, or None."""
    was = pool.storage
    if not isinstance(storage, np.ndarray) or (storage.shape, storage.dtype) != (was.shape, was.dtype):
        return f"is {type(storage).__name__}, must be {was.dtype}{list(was.shape)}"
    got, expected = pool.with_storage(storage), pool.with_storage(was.copy())
    for source, target, slots in copies:
        first = np.s_[:slots] if pool.kv_layout == "NHD" else np.s_[:, :slots]
        for old, new in ((pool.k, expected.k), (pool.v, expected.v)):
            new[target][first] = old[source][first]
    for name, found, wanted in (("key", got.k, expected.k), ("value", got.v, expected.v)):
        bits = np.dtype(f"u{was.dtype.itemsize}")
        where = np.argwhere(_bits(found, bits) != _bits(wanted, bits))
        if not where.size:
            continue
        page, outer, inner, dim = (int(i) for i in where[0])
        head, offset = (inner, outer) if pool.kv_layout == "NHD" else (outer, inner)
        place = f"{name} in page {page}, offset {offset}, KV head {head}, dim {dim}"
        for source, target, slots in copies:
            if page == target:
                what = f"the first {slots} slots of page {source} were to be copied there"
                return f"{place} is wrong: {what}"
        late = ", and is named behind the count" if page in [target for _, target, _ in behind] else ""
        return f"{place} is wrong: nothing was to be copied there{late}"
    written = gaps_kept(expected, storage)
    return None if written is None else written.text


def _bits(array: Array, kind: np.dtype[np.unsignedinteger]) -> Array:
    return np.ascontiguousarray(array).view(kind)
