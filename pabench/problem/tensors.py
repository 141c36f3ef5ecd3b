# SPDX-License-Identifier: Apache-2.0
"""From a case to arrays: queries, the paged cache with its poison, the block table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.captured import CAPTURED, captured
from pabench.problem.case import GAPS, Case
from pabench.problem.dtypes import Array
from pabench.problem.families import FAMILIES, FamilyInput
from pabench.problem.huge_pool import WRAPS, reserved_zeros, wrap_pages
from pabench.problem.latent import put_values_in_keys, steered_part
from pabench.problem.layout import PageLayout
from pabench.problem.placement import HIGH_PAGE_BASE, HUGE_POOL, place_pages
from pabench.problem.poison import filled_up, poison_row
from pabench.problem.pool import NONE, KvPool, pool_parts, pool_shape
from pabench.problem.recorded import RECORDED, recorded
from pabench.problem.visibility import unseen_tokens, visible_range

FAMILY_LARGEST, FAMILY_SMALLEST = 65504.0, 2.0**-14
SIGNS = np.array([-1.0, 1.0])
MAX_STRETCH = 2.0**13
"""Of queries and keys, whose elements float16 must hold."""
FULL_POISON_BYTES = 2**22
"""Larger pools are poisoned around the used pages, where a number that was cut leads, and at both ends alone:
untouched memory stays untouched."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tensors:
    """The arrays of one case, on the host.

    Attributes:
        q: ``(num_query_tokens, num_qo_heads, head_dim)``, as the problem stores queries.
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SequenceRows:
    """The arrays of one sequence, before they are paged.

    Attributes:
        queries: ``(q_len, num_qo_heads, head_dim)``, storage dtype.
        keys: ``(kv_len, num_kv_heads, row)`` as the cache stores them, ``head_dim`` elements or what its
            format makes of them.
        values: like ``keys``, of ``head_dim_v``; with a latent cache the first elements of ``keys``.
    """

    queries: Array
    keys: Array
    values: Array

    def first(self, count: int) -> SequenceRows:
        """Return the same with the first ``count`` tokens alone."""
        return replace(self, keys=self.keys[:count], values=self.values[:count])


def build_tensors(case: Case) -> Tensors:
    """Generate the arrays of ``case``; the same case always gives the same bytes."""
    if case.family == CAPTURED:
        return lay_out(case, _captured_sequences(case))
    if case.family == RECORDED:
        return _recorded_tensors(case)
    return lay_out(case, _drawn_sequences(_contents(case)))


def _contents(case: Case) -> Case:
    """Return the case of the same tokens whose layout is the plainest."""
    plain: dict[str, Any] = {
        **{"placement": "identity", "tail": "minus-one", "spare_pages": 0, "poison": "zero"},
        **{"kv_layout": "NHD", "interleaved": False, "masks": ()},
        **dict.fromkeys(GAPS, NONE),
    }
    return replace(case, **plain)


@lru_cache(maxsize=1)
def _drawn_sequences(case: Case) -> tuple[SequenceRows, ...]:
    """The tokens of a case; kept, since what is asked next is often the same in other places."""
    rng, page_size = _generator(case, stream=0), case.problem.page_size
    forks = {child: (parent, pages) for child, parent, pages in case.shared_prefix}
    sequences: list[SequenceRows] = []
    directions: list[Array] = []
    for sequence, lengths in enumerate(zip(case.batch.kv_lens, case.batch.query_lens, strict=True)):
        start = None
        if sequence in forks:
            parent, pages = forks[sequence]
            start = (sequences[parent].first(pages * page_size), directions[parent])
        rows, direction = _sequence(case, sequence, *lengths, rng, start)
        for array in (rows.queries, rows.keys, rows.values):
            array.setflags(write=False)
        sequences.append(rows)
        directions.append(direction)
    return tuple(sequences)


def lay_out(case: Case, sequences: Sequence[SequenceRows]) -> Tensors:
    """Put the tokens of each sequence into pages, as ``case`` says; the way back is ``sequences_of``."""
    problem, batch = case.problem, case.batch
    layout = layout_of(case)
    pool = _poisoned_pool(case, layout)
    places = [layout.pages(sequence, kv_len) for sequence, kv_len in enumerate(batch.kv_lens)]
    unseen = [np.flatnonzero(unseen_tokens(case, sequence)) for sequence in range(batch.num_seqs)]
    for pages, dead, rows in zip(places, unseen, sequences, strict=True):
        write_tokens(pool, pages, *filled_up(problem, case.poison, rows.keys, rows.values))
        # tokens that no row sees stay as they are, unless something worse is asked for
        if dead.size and case.poison != "zero":
            worse = [
                np.broadcast_to(poison_row(problem, case.poison, kind), numbers[dead].shape)
                for kind, numbers in (("k", rows.keys), ("v", rows.values))
            ]
            write_tokens(pool, pages, *worse, tokens=dead)
    if case.shared_prefix:
        # what one sequence does not see another may
        for pages, dead, rows in zip(places, unseen, sequences, strict=True):
            kept = np.delete(np.arange(len(rows.keys)), dead)
            seen = filled_up(problem, case.poison, rows.keys[kept], rows.values[kept])
            write_tokens(pool, pages, *seen, tokens=kept)
    return Tensors(
        case=case,
        q=np.concatenate([rows.queries for rows in sequences]),
        pool=pool,
        layout=layout,
        kv_lens=np.asarray(batch.kv_lens, dtype=np.int32),
        qo_indptr=batch.qo_indptr,
    )


def layout_of(case: Case) -> PageLayout:
    """Return the block table of a case, without its tensors."""
    return place_pages(
        case.batch.kv_lens,
        case.problem.page_size,
        placement=case.placement,
        spare_pages=case.spare_pages,
        tail=case.tail,
        wraps=_wraps(case) if case.placement == HUGE_POOL else (),
        forks=case.shared_prefix,
        rng=_generator(case, stream=1),
    )


def sequences_of(tensors: Tensors) -> list[SequenceRows]:
    """Return what ``lay_out`` was given, read back through the block table."""
    pool, page_size = tensors.pool, tensors.case.problem.page_size
    found = []
    for sequence, kv_len in enumerate(tensors.case.batch.kv_lens):
        tokens = np.arange(kv_len)
        page, offset = tensors.layout.pages(sequence, kv_len)[tokens // page_size], tokens % page_size
        read = [
            view[page, offset] if pool.kv_layout == "NHD" else view[page, :, offset]
            for view in (pool.k, pool.v)
        ]
        rows = slice(int(tensors.qo_indptr[sequence]), int(tensors.qo_indptr[sequence + 1]))
        found.append(SequenceRows(queries=tensors.q[rows], keys=read[0], values=read[1]))
    return found


def _generator(case: Case, *, stream: int) -> np.random.Generator:
    """Contents and placement draw from streams of their own, so that neither changes with the other."""
    return np.random.default_rng(np.random.SeedSequence(case.seed, spawn_key=(stream,)))


def write_tokens(
    pool: KvPool, pages: Array, keys: Array, values: Array, *, tokens: Array | None = None
) -> None:
    """Write ``keys`` and ``values (n, num_kv_heads, head_dim)`` to ``tokens`` of ``pages``, or to 0..n-1."""
    tokens = np.arange(keys.shape[0]) if tokens is None else tokens
    page_size = pool.k.shape[1 if pool.kv_layout == "NHD" else 2]
    page, offset = pages[tokens // page_size], tokens % page_size
    latent = pool.parts is not None and pool.parts.latent
    for view, rows in ((pool.k, keys),) if latent else ((pool.k, keys), (pool.v, values)):
        if pool.kv_layout == "NHD":
            view[page, offset] = rows
        else:
            view[page, :, offset] = rows


def _wraps(case: Case) -> tuple[int, ...]:
    problem = case.problem
    # one page tells the stride of the keys
    shape = pool_shape(problem, 1, **_form(case))
    pool = KvPool(
        storage=np.empty(shape, np.uint8),
        kv_layout=case.kv_layout,
        interleaved=case.interleaved,
        parts=pool_parts(problem, case.gaps),
    )
    return wrap_pages(pool.element_strides[0], problem.kv_storage.itemsize)


def _form(case: Case) -> dict[str, Any]:
    """What ``pool_shape`` takes of a case."""
    return {"kv_layout": case.kv_layout, "interleaved": case.interleaved, "gaps": case.gaps}


def _poisoned_pool(case: Case, layout: PageLayout) -> KvPool:
    problem = case.problem
    shape = pool_shape(problem, layout.num_pages, **_form(case))
    keys, values = (poison_row(problem, case.poison, kind) for kind in "kv")
    whole = layout.num_pages * problem.page_size * problem.token_bytes <= FULL_POISON_BYTES
    if whole:
        storage = np.full(shape, keys.flat[0], dtype=problem.kv_storage.storage)
    else:
        lead = WRAPS[0] if case.placement == HUGE_POOL else 0
        storage = reserved_zeros(shape, problem.kv_storage.storage, lead=lead)
    pool = KvPool(
        storage=storage,
        kv_layout=case.kv_layout,
        interleaved=case.interleaved,
        parts=pool_parts(problem, case.gaps),
    )
    if not whole:
        used = [layout.pages(i, n) for i, n in enumerate(case.batch.kv_lens)]
        ids = np.unique(np.concatenate(used)).astype(np.int64)
        cut = [ids % base for base in (2**8, 2**15, HIGH_PAGE_BASE)]
        ends = [np.arange(64), np.arange(layout.num_pages - 64, layout.num_pages)]
        near = np.concatenate([ids - 1, ids, ids + 1, *cut, *ends])
        near = np.unique(near[(near >= 0) & (near < layout.num_pages)])
        pool.k[near], pool.v[near] = keys, values
    elif keys.ndim:
        pool.k[...], pool.v[...] = keys, values
    return pool


def _sequence(
    case: Case,
    sequence: int,
    kv_len: int,
    q_len: int,
    rng: np.random.Generator,
    start: tuple[SequenceRows, Array] | None,
) -> tuple[SequenceRows, Array]:
    """One sequence, which begins with the tokens of ``start``, and the directions ``(Hk, D)`` of its keys."""
    problem = case.problem
    head_dim, group = problem.head_dim, problem.group_size
    queries = np.empty((q_len, problem.num_qo_heads, head_dim))
    keys = np.empty((kv_len, problem.num_kv_heads, head_dim))
    values = np.empty((kv_len, problem.num_kv_heads, problem.value_dim))
    # logit = scale * q . k along a direction of +-1, which is reach * (q size) * (k size)
    steered = steered_part(problem)
    reach = abs(problem.scale) * (head_dim - steered.start) or 1.0
    directions = np.empty((problem.num_kv_heads, head_dim))
    for head in range(problem.num_kv_heads):
        logits, values[:, head] = _family(case, sequence, kv_len, rng, head)
        # queries must meet the keys of the beginning along their own direction
        direction = rng.choice(SIGNS, head_dim)
        direction = directions[head] = direction if start is None else start[1][head]
        # both sides take an equal share of large logits, so that neither leaves the range of a 16-bit type
        largest = float(np.abs(logits).max(initial=0.0))
        stretch = min(math.sqrt(max(1.0, largest / reach)), MAX_STRETCH)
        # with a tiny sm_scale the largest logits are out of reach of 16 bits
        logits = logits * min(1.0, reach * MAX_STRETCH**2 / max(largest, 1.0))
        keys[:, head] = (logits / (reach * stretch))[:, None] * direction
        if problem.latent:
            scaled = abs(problem.scale) * stretch
            direction = put_values_in_keys(keys[:, head], values[:, head], direction, steered, scaled)
        # heads of a group differ in strength, so that no head can stand in for another
        strength = math.copysign(stretch, problem.scale) * (1.0 + 0.125 * (np.arange(group) % 3))
        queries[:, head * group : (head + 1) * group] = strength[:, None] * direction
    # so do the rows of a sequence
    queries *= (1.0 + 0.25 * (np.arange(q_len) % 4))[:, None, None]
    # a little of every dimension on both sides, so that none can be dropped unseen; in place, since this is
    # where a case spends its time
    noise = rng.standard_normal(queries.shape)
    noise *= 0.01
    noise += 1.0
    queries *= noise
    noise = rng.standard_normal(keys.shape)
    noise *= 0.02
    if problem.latent:
        # values are what their family says
        noise[..., : problem.value_dim] = 0.0
    keys += noise
    if case.family == "marker":
        queries[...] = 0.0
    _unscale(case, sequence, queries, keys, values)
    stored = problem.encode_rows(keys)
    rows = SequenceRows(
        queries=problem.encode_queries(queries),
        keys=stored,
        values=problem.values_of(stored) if problem.latent else problem.encode_rows(values),
    )
    if start is not None:
        shared = len(start[0].keys)
        rows.keys[:shared], rows.values[:shared] = start[0].keys, start[0].values
    return rows, directions


def _unscale(case: Case, sequence: int, queries: Array, keys: Array, values: Array) -> None:
    """Divide by the scales of a sequence what is ``(n, heads, dim)``, in place."""
    for kind, numbers in (("q", queries), ("k", keys), ("v", values)):
        scales = np.asarray(case.scales_of(kind, sequence))
        if (scales != 1.0).any():
            numbers /= np.repeat(scales, numbers.shape[1] // scales.size)[:, None]


def _recorded_tensors(case: Case) -> Tensors:
    """The arrays of a recording as they are; raises ``InvalidCase`` where they are not those of the case."""
    problem, batch, found = case.problem, case.batch, recorded(str(case.inputs))
    shape = pool_shape(problem, found.num_pages, **_form(case))
    wanted = {
        "q": ((batch.num_query_tokens, problem.num_qo_heads, problem.head_dim), problem.q_storage.storage),
        "storage": (shape, problem.kv_storage.storage),
    }
    for name, (of_shape, dtype) in wanted.items():
        array = getattr(found, name)
        if array.shape != of_shape or array.dtype != dtype:
            raise InvalidCase(name, f"{array.dtype}{list(array.shape)}", f"must be {dtype}{list(of_shape)}")
    layout = PageLayout(page_size=problem.page_size, num_pages=found.num_pages, block_table=found.block_table)
    layout.validate(batch.kv_lens)
    return Tensors(
        case=case,
        q=found.q,
        pool=KvPool(
            storage=found.storage,
            kv_layout=case.kv_layout,
            interleaved=case.interleaved,
            parts=pool_parts(problem, case.gaps),
        ),
        layout=layout,
        kv_lens=np.asarray(batch.kv_lens, dtype=np.int32),
        qo_indptr=batch.qo_indptr,
    )


def _captured_sequences(case: Case) -> list[SequenceRows]:
    """What a real model gave its attention; raises ``InvalidCase`` when the capture is not of these heads."""
    problem, found = case.problem, captured(str(case.inputs))
    if not found.fits(problem):
        heads = (problem.num_qo_heads, problem.num_kv_heads, problem.head_dim)
        wanted = (*found.q.shape[2:3], *found.k.shape[2:])
        raise InvalidCase("num_qo_heads, num_kv_heads, head_dim", heads, f"the capture has {wanted}")
    rng, rows = _generator(case, stream=0), list[SequenceRows]()
    forks = {child: (parent, pages * problem.page_size) for child, parent, pages in case.shared_prefix}
    for sequence, lengths in enumerate(zip(case.batch.kv_lens, case.batch.query_lens, strict=True)):
        queries, keys, values = found.draw(*lengths, rng)
        _unscale(case, sequence, queries, keys, values)
        rows.append(
            SequenceRows(
                queries=problem.encode_queries(queries),
                keys=problem.encode_rows(keys),
                values=problem.encode_rows(values),
            )
        )
        if sequence in forks:
            parent, shared = forks[sequence]
            rows[-1].keys[:shared] = rows[parent].keys[:shared]
            rows[-1].values[:shared] = rows[parent].values[:shared]
    return rows


def _family(
    case: Case, sequence: int, kv_len: int, rng: np.random.Generator, head: int
) -> tuple[Array, Array]:
    """Wanted logits and values of one sequence and KV head.

    Boundaries are page edges, multiples of 32 and the edge of the last row's window.
    """
    if kv_len == 0:
        return np.empty(0), np.empty((0, case.problem.value_dim))
    first = int(visible_range(case.problem, 1, kv_len)[0][0])
    edges = {*range(0, kv_len, case.problem.page_size), *range(0, kv_len, 32), first}
    around = tuple(sorted(edges | {edge - 1 for edge in edges if edge}))
    stored = case.problem.kv_format or case.problem.storage
    scale = case.scales_of("v", sequence)[head]
    at = FamilyInput(
        kv_len=kv_len,
        head_dim=case.problem.value_dim,
        boundaries=around,
        rng=rng,
        first_visible=first,
        soft_cap=case.problem.soft_cap,
        # the queries' type is the output's
        largest=min(FAMILY_LARGEST, case.problem.storage.maximum, stored.maximum * scale),
        smallest=max(FAMILY_SMALLEST, stored.smallest_normal * scale),
    )
    return FAMILIES[case.family](at)
