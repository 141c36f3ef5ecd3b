# SPDX-License-Identifier: Apache-2.0
"""Checks of what writes into a cache larger than memory: a small case, laid where offsets wrap.

A case is one of the usual small ones.  Its pages are spread over a pool of up to 32 GiB of address space, on
both sides of where offsets of 31 and 32 bits wrap, and what becomes of just these pages is judged as ever.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pabench.checks.append_checks import judged_append, paged_where
from pabench.checks.copy_checks import judged_copy
from pabench.checks.outcome import Outcome
from pabench.device.base import Device
from pabench.problem.append import AppendCase, build_append
from pabench.problem.dtypes import Array
from pabench.problem.huge_pool import reserved_zeros, wrap_pages
from pabench.problem.pool import KvPool, pages_of, pool_shape
from pabench.problem.problem import Problem
from pabench.subjects.backends.base import Backend, offered


def check_append_huge_pool(case: AppendCase, backend: Backend, device: Device) -> Outcome:
    """Tokens stand in their slots beyond 2 and 4 GiB, and beyond 2^31 and 2^32 elements, bit for bit."""
    pool, keys, values, slots = build_append(case)
    places = huge_pool_places(case)
    page, offset = np.divmod(slots, case.problem.page_size)
    far = np.where(slots < 0, -1, places[page] * case.problem.page_size + offset)
    huge = spread(case, pool, places)
    given = {"keys": keys, "values": values, "slot_mapping": far}
    if case.problem.kv_dtype is None:
        call: tuple[Any, ...] = ("append", huge, case.problem.dtype, keys, values, far)
    else:
        call = ("append_e4m3", huge, case.problem, keys, values, far)
        offered(backend, "append-e4m3")
    return judged_append(case, pool, given, device, lambda: written(backend, places, *call))


def check_append_paged_huge_pool(case: AppendCase, backend: Backend, device: Device) -> Outcome:
    """Tokens stand where a block table of pages beyond 2 and 4 GiB has their places, bit for bit."""
    offered(backend, "append-paged")
    pool, keys, values, _ = build_append(case)
    places = huge_pool_places(case)
    where = paged_where(case)
    table = where["block_table"]
    known = (table >= 0) & (table < case.num_pages)
    where["block_table"] = np.where(known, places[np.where(known, table, 0)], -1).astype(np.int32)
    huge = spread(case, pool, places)
    given = {"keys": keys, "values": values, **where}
    return judged_append(
        case,
        pool,
        given,
        device,
        lambda: written(backend, places, "append_paged", huge, case.problem, keys, values, **where),
    )


def check_copy_huge_pool(case: AppendCase, backend: Backend, device: Device) -> Outcome:
    """The first slots of pages beyond 2 and 4 GiB are copied bit for bit, in the caches of all layers."""
    offered(backend, "copy-pages")
    places = huge_pool_places(case)

    def copy(pools: list[KvPool], copies: Array, *, count: int) -> Any:
        far = copies.copy()
        far[:, :2] = places[copies[:, :2]]
        return written(
            backend, places, "copy_pages", [spread(case, one, places) for one in pools], far, count=count
        )

    return judged_copy(case, copy)


def huge_pool_places(case: AppendCase) -> Array:
    """Return for each page of a small pool a page of a huge one, ``(num_pages,) int64``, around all wraps."""
    rng = np.random.default_rng(np.random.SeedSequence(case.seed, spawn_key=(5,)))
    wraps = wrap_pages(_page_stride(case.problem, case), case.problem.kv_storage.itemsize)
    reach = -(-case.num_pages // len(wraps)) + 1
    near = np.unique(np.concatenate([max(wrap - reach, 0) + np.arange(2 * reach) for wrap in wraps]))
    places = rng.permutation(near)[: case.num_pages].astype(np.int64)
    if case.num_pages > 1:
        # one at least where every offset has wrapped
        places[int(rng.integers(case.num_pages))] = int(near[-1])
    return places if np.unique(places).size == places.size else near[-case.num_pages :].astype(np.int64)


def _page_stride(problem: Problem, case: AppendCase) -> int:
    page = pool_shape(problem, 1, kv_layout=case.kv_layout, interleaved=case.interleaved)
    return math.prod(page) // (1 if case.interleaved else 2)


def spread(case: AppendCase, pool: KvPool, places: Array) -> KvPool:
    """Return a pool of which only ``places`` take memory, with the pages of ``pool`` there."""
    shape = pool_shape(
        case.problem, int(places.max()) + 2, kv_layout=case.kv_layout, interleaved=case.interleaved
    )
    huge = pool.with_storage(reserved_zeros(shape, pool.storage.dtype))
    huge.k[places], huge.v[places] = pool.k, pool.v
    return huge


def written(backend: Backend, pages: Array, name: str, *given: Any, **named: Any) -> Any:
    """Call a method of a backend, here or in its process, and return ``pages`` of the caches it returns."""
    there = getattr(backend, "written", None)
    if there is not None:
        return there(pages, name, *given, **named)
    return pages_of(getattr(backend, name)(*given, **named), pages)
