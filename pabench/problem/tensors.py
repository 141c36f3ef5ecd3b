"""From a case to arrays: queries, the paged cache with its poison, the block table."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from pabench.problem.case import Case
from pabench.problem.dtypes import Array, DType, encode
from pabench.problem.families import FAMILIES, FamilyInput
from pabench.problem.layout import PageLayout
from pabench.problem.placement import HIGH_PAGE_BASE, place_pages
from pabench.problem.pool import KvPool, pool_shape
from pabench.problem.visibility import first_visible_key, visible_range

FULL_POISON_BYTES = 2**26
"""Pools above this size are poisoned around the used pages only, so that untouched memory stays untouched."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tensors:
    """The arrays of one case, on the host.

    Attributes:
        q: ``(num_query_tokens, num_qo_heads, head_dim)``, storage dtype.
        pool: the paged cache; every slot that no query may read holds the case's poison, but that ``zero``
            leaves the tokens before a window in place.
        layout: the block table, ``(num_seqs, max_pages) int32``.
        kv_lens: ``(num_seqs,) int32``.
        qo_indptr: ``(num_seqs + 1,) int32``.
    """

    case: Case
    q: Array
    pool: KvPool
    layout: PageLayout
    kv_lens: Array
    qo_indptr: Array


def build_tensors(case: Case) -> Tensors:
    """Generate the arrays of ``case``; the same case always gives the same bytes."""
    problem, batch = case.problem, case.batch
    rng = _generator(case, stream=0)
    layout = place_pages(
        batch.kv_lens,
        problem.page_size,
        placement=case.placement,
        spare_pages=case.spare_pages,
        tail=case.tail,
        forks=case.shared_prefix,
        rng=_generator(case, stream=1),
    )
    pool = _poisoned_pool(case, layout)
    forks = {child: (parent, pages) for child, parent, pages in case.shared_prefix}
    rows: list[Array] = []
    written: list[_Tokens] = []
    for sequence, kv_len in enumerate(batch.kv_lens):
        q_len, pages = batch.query_lens[sequence], layout.pages(sequence, kv_len)
        parent, shared = forks.get(sequence, (0, 0))
        start = written[parent].part(0, shared * problem.page_size) if shared else None
        queries, tokens = _sequence(case, kv_len, q_len, rng, start)
        rows.append(queries)
        write_tokens(pool, pages, tokens.keys, tokens.values)
        # tokens that slid out of every row's window stay as they are, unless something worse is asked for
        hidden = first_visible_key(problem, q_len, kv_len) if case.poison != "zero" else 0
        if hidden:
            dead = np.full_like(tokens.keys[:hidden], poison_value(case.poison, problem.kv_storage))
            write_tokens(pool, pages, dead, dead)
        if forks:
            written.append(tokens.part(0, kv_len))
    for sequence, tokens in enumerate(written):
        # what one sequence does not see any more another may
        kv_len = batch.kv_lens[sequence]
        first = first_visible_key(problem, batch.query_lens[sequence], kv_len)
        seen = tokens.part(first, kv_len)
        write_tokens(pool, layout.pages(sequence, kv_len), seen.keys, seen.values, start=first)
    return Tensors(
        case=case,
        q=encode(np.concatenate(rows), problem.storage),
        pool=pool,
        layout=layout,
        kv_lens=np.asarray(batch.kv_lens, dtype=np.int32),
        qo_indptr=batch.qo_indptr,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Tokens:
    """Tokens in storage form, ``(n, Hk, D)``, and the directions ``(Hk, D)`` of their keys."""

    keys: Array
    values: Array
    directions: Array

    def part(self, first: int, end: int) -> _Tokens:
        return replace(self, keys=self.keys[first:end], values=self.values[first:end])


def _generator(case: Case, *, stream: int) -> np.random.Generator:
    """Contents and placement draw from streams of their own, so that neither changes with the other."""
    return np.random.default_rng(np.random.SeedSequence(case.seed, spawn_key=(stream,)))


def write_tokens(pool: KvPool, pages: Array, keys: Array, values: Array, *, start: int = 0) -> None:
    """Write ``keys`` and ``values (n, num_kv_heads, head_dim)`` to slots ``start``.. of ``pages``."""
    tokens = np.arange(start, start + keys.shape[0])
    page_size = pool.storage.shape[-3 if pool.kv_layout == "NHD" else -2]
    page, offset = pages[tokens // page_size], tokens % page_size
    for view, rows in ((pool.k, keys), (pool.v, values)):
        if pool.kv_layout == "NHD":
            view[page, offset] = rows
        else:
            view[page, :, offset] = rows


def poison_value(poison: str, dtype: DType) -> Array:
    """Return the scalar (in storage form) that stands for ``poison``."""
    value = {"zero": 0.0, "nan": math.nan, "inf": math.inf, "huge": dtype.maximum}[poison]
    return encode(np.asarray(value), dtype)


def _poisoned_pool(case: Case, layout: PageLayout) -> KvPool:
    problem = case.problem
    shape = pool_shape(problem, layout.num_pages, kv_layout=case.kv_layout, interleaved=case.interleaved)
    value = poison_value(case.poison, problem.kv_storage)
    whole = layout.num_pages * problem.page_size * problem.token_bytes <= FULL_POISON_BYTES
    if whole:
        storage = np.full(shape, value, dtype=problem.kv_storage.storage)
    else:
        storage = np.zeros(shape, dtype=problem.kv_storage.storage)
    pool = KvPool(storage=storage, kv_layout=case.kv_layout, interleaved=case.interleaved)
    if not whole:
        used = [layout.pages(i, n) for i, n in enumerate(case.batch.kv_lens)]
        ids = np.unique(np.concatenate(used)).astype(np.int64)
        near = np.concatenate([ids - 1, ids, ids + 1, ids % HIGH_PAGE_BASE, np.zeros(1, np.int64)])
        near = near[(near >= 0) & (near < layout.num_pages)]
        pool.k[near] = value
        pool.v[near] = value
    return pool


def _sequence(
    case: Case, kv_len: int, q_len: int, rng: np.random.Generator, start: _Tokens | None
) -> tuple[Array, _Tokens]:
    """Queries ``(q_len, Hq, D)`` in float64, and the tokens, the first of which are those of ``start``."""
    problem = case.problem
    head_dim, group = problem.head_dim, problem.group_size
    queries = np.empty((q_len, problem.num_qo_heads, head_dim))
    keys = np.empty((kv_len, problem.num_kv_heads, head_dim))
    values = np.empty_like(keys)
    # logit = scale * q . k along a direction of +-1, which is reach * (q size) * (k size)
    reach = abs(problem.scale) * head_dim or 1.0
    directions = np.empty((problem.num_kv_heads, head_dim))
    for head in range(problem.num_kv_heads):
        logits, values[:, head] = _family(case, kv_len, rng)
        # queries must meet the keys of the beginning along their own direction
        direction = rng.choice([-1.0, 1.0], head_dim)
        direction = directions[head] = direction if start is None else start.directions[head]
        # both sides take an equal share of large logits, so that neither leaves the range of a 16-bit type
        stretch = math.sqrt(max(1.0, float(np.abs(logits).max(initial=0.0)) / reach))
        keys[:, head] = (logits / (reach * stretch))[:, None] * direction
        # heads of a group differ in strength, so that no head can stand in for another
        strength = math.copysign(stretch, problem.scale) * (1.0 + 0.125 * (np.arange(group) % 3))
        queries[:, head * group : (head + 1) * group] = strength[:, None] * direction
    # so do the rows of a sequence
    queries *= (1.0 + 0.25 * (np.arange(q_len) % 4))[:, None, None]
    # a little of every dimension on both sides, so that none can be dropped unseen
    queries *= 1.0 + 0.01 * rng.normal(0.0, 1.0, queries.shape)
    keys += 0.02 * rng.normal(0.0, 1.0, keys.shape)
    if case.family == "marker":
        queries[...] = 0.0
    for kind, numbers in (("k", keys), ("v", values)):
        numbers /= np.asarray(problem.kv_scales(kind))[:, None]
    tokens = _Tokens(
        keys=encode(keys, problem.kv_storage),
        values=encode(values, problem.kv_storage),
        directions=directions,
    )
    if start is not None:
        tokens.keys[: len(start.keys)] = start.keys
        tokens.values[: len(start.values)] = start.values
    return queries, tokens


def _family(case: Case, kv_len: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Wanted logits and values of one sequence and KV head.

    Boundaries are page edges, multiples of 32 and the edge of the last row's window.
    """
    if kv_len == 0:
        return np.empty(0), np.empty((0, case.problem.head_dim))
    first = int(visible_range(case.problem, 1, kv_len)[0][0])
    edges = {*range(0, kv_len, case.problem.page_size), *range(0, kv_len, 32), first}
    around = tuple(sorted(edges | {edge - 1 for edge in edges if edge}))
    at = FamilyInput(
        kv_len=kv_len,
        head_dim=case.problem.head_dim,
        boundaries=around,
        rng=rng,
        first_visible=first,
        soft_cap=case.problem.soft_cap,
    )
    return FAMILIES[case.family](at)
