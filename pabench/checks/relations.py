# SPDX-License-Identifier: Apache-2.0
"""Metamorphic relations: another problem whose answer follows from the answer to the first one.

Each function takes the tensors of a case and returns a ``Related``: the problem to start from and its
variants, each with the rule that leads from one answer to the other.  Nothing here runs a backend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.dtypes import E4M3, Array, DType, decode, encode
from pabench.problem.tensors import SequenceRows, Tensors, lay_out, sequences_of

NEW = -1
"""In ``Variant.rows``: a row that the first problem does not have."""
LOW_LOGIT = -300.0
"""exp of it is 0 in float32, beside the logits of the families that are drawn here."""
EMPTY_SEQUENCES = 63
SMALL_SINK = -1e4
LARGE_CAP = 2.0**20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Variant:
    """A problem whose answer follows from that of the first one.

    Attributes:
        words: what is special about it.
        tensors: the problem.
        rows: ``(rows,)`` int64, for each of its query rows that of the first problem, or ``NEW``.
        columns: ``(head_dim_v,)`` int64, likewise for the elements of an output vector; None when they stay.
        factor: of the output.
        lse_shift: added to the log-sum-exp, a number or one for each query head.
    """

    words: str
    tensors: Tensors
    rows: Array
    columns: Array | None = None
    factor: float = 1.0
    lse_shift: float | Array = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Related:
    """The problem to start from, and its variants."""

    first: Tensors
    variants: Sequence[Variant] = field(default_factory=list)


Build = Callable[[Tensors], Related]


def batch(given: Tensors) -> Related:
    """What a sequence gives does not depend on the batch around it: order, neighbours, copies, empty ones."""
    rows, sequences = _row_ranges(given), sequences_of(given)
    last, everyone = len(sequences) - 1, list(range(len(sequences)))
    longest = int(np.argmax(given.case.batch.kv_lens))
    chosen = {
        "the sequences in reverse": everyone[::-1],
        f"sequence {longest} alone": [longest],
        "every sequence twice": everyone * 2,
        "the first half of the batch": everyone[: (last + 2) // 2],
    }
    variants = [
        Variant(words=words, tensors=laid(given, [sequences[i] for i in kept]), rows=_rows(rows, kept))
        for words, kept in chosen.items()
        if kept != everyone and any(len(rows[i]) for i in kept)
    ]
    # empty ones cost nothing, and a kernel that cuts keys by the size of its grid cuts them otherwise
    empty = replace(sequences[0], keys=sequences[0].keys[:0], values=sequences[0].values[:0])
    more = np.concatenate([_rows(rows, everyone), np.full(EMPTY_SEQUENCES * len(rows[0]), NEW)])
    crowd = laid(given, [*sequences, *[empty] * EMPTY_SEQUENCES])
    words = f"{EMPTY_SEQUENCES} empty sequences more"
    variants.append(Variant(words=words, tensors=crowd, rows=more))
    return Related(first=given, variants=variants)


def page_size(given: Tensors) -> Related:
    """The same tokens in pages of another size give the same answer."""
    now = given.case.problem.page_size
    sizes = dict.fromkeys((now * 2, 1, 16 if given.case.seed % 2 else 3))
    return _same(given, {f"pages of {size} tokens": {"page_size": size} for size in sizes if size != now})


def value_scale(given: Tensors) -> Related:
    """Values twice as large give outputs twice as large, bit for bit where nothing is subnormal."""
    stored = given.case.problem.kv_storage
    doubled = _each(given, lambda s: replace(s, values=encode(decode(s.values, stored) * 2.0, stored)))
    return Related(first=given, variants=[replace(doubled, words="values twice as large", factor=2.0)])


def value_columns(given: Tensors) -> Related:
    """Reordering the elements of the value vectors reorders those of the output, and nothing else."""
    order = _generator(given).permutation(given.case.problem.value_dim)
    moved = _each(given, lambda s: replace(s, values=s.values[:, :, order]))
    return Related(first=given, variants=[replace(moved, words="value columns reordered", columns=order)])


def head_dims(given: Tensors) -> Related:
    """Reordering the elements of queries and keys alike changes nothing."""
    order = _generator(given).permutation(given.case.problem.head_dim)
    moved = _each(given, lambda s: replace(s, queries=s.queries[:, :, order], keys=s.keys[:, :, order]))
    return Related(first=given, variants=[replace(moved, words="query and key elements reordered")])


def token_order(given: Tensors) -> Related:
    """One row that sees all keys does not see their order."""

    def reverse(rows: SequenceRows) -> SequenceRows:
        return replace(rows, keys=rows.keys[::-1], values=rows.values[::-1])

    return Related(first=given, variants=[replace(_each(given, reverse), words="the tokens in reverse")])


def duplicate_keys(given: Tensors) -> Related:
    """Every key twice leaves the output and adds ln 2 to the log-sum-exp."""

    def twice(rows: SequenceRows) -> SequenceRows:
        return replace(rows, keys=np.repeat(rows.keys, 2, axis=0), values=np.repeat(rows.values, 2, axis=0))

    doubled = _each(given, twice)
    return Related(first=given, variants=[replace(doubled, words="every key twice", lse_shift=math.log(2.0))])


def weightless_keys(given: Tensors) -> Related:
    """Further keys whose weight is 0 in float32 change nothing; with fixed splits, not a bit."""
    problem, rng = given.case.problem, _generator(given)
    count = int(rng.choice([1, 33, 200, 500]))

    def more(rows: SequenceRows) -> SequenceRows:
        if not len(rows.keys) or not len(rows.queries):
            return rows  # to a sequence without keys they would not be weightless
        # the query of one head stands for its group, whose heads lie in one direction
        query = decode(rows.queries[0, :: problem.group_size], problem.storage)
        far = LOW_LOGIT / (problem.scale * np.abs(query).sum(axis=1, keepdims=True))
        keys = np.repeat(encode(far * np.sign(query), problem.kv_storage)[None], count, axis=0)
        shape = (*keys.shape[:2], problem.value_dim)
        values = encode(rng.normal(0.0, 1.0, shape), problem.kv_storage)
        return SequenceRows(
            queries=rows.queries,
            keys=np.concatenate([rows.keys, keys]),
            values=np.concatenate([rows.values, values]),
        )

    return Related(first=given, variants=[replace(_each(given, more), words=f"{count} weightless keys more")])


def copied_heads(given: Tensors) -> Related:
    """Grouped heads give what as many KV heads with copies of keys and values give."""
    problem = given.case.problem
    group = problem.group_size
    if group == 1:
        return Related(first=given)
    changes: dict[str, Any] = {"num_kv_heads": problem.num_qo_heads}
    for name in ("k_scale", "v_scale"):
        scales = getattr(problem, name)
        if scales is not None and len(scales) > 1:
            changes[name] = tuple(np.repeat(scales, group).tolist())
    copied = [
        replace(rows, keys=np.repeat(rows.keys, group, axis=1), values=np.repeat(rows.values, group, axis=1))
        for rows in sequences_of(given)
    ]
    tensors = laid(given, copied, **changes)
    return Related(
        first=given,
        variants=[Variant(words="a KV head a query head", tensors=tensors, rows=_all_rows(given))],
    )


def parted_latents(given: Tensors) -> Related:
    """A latent cache gives what a cache of its keys, and of their beginnings as values, gives."""
    problem = given.case.problem
    parted = Variant(
        words="keys and values in pages of their own",
        tensors=laid(given, sequences_of(given), latent=False, v_scale=problem.k_scale),
        rows=_all_rows(given),
    )
    return Related(first=given, variants=[parted])


def shared_pages(given: Tensors) -> Related:
    """Sequences that share pages give the bits of sequences with copies of their own."""
    private = laid(given, sequences_of(given) * 2)
    half, table = given.case.batch.num_seqs, private.layout.block_table.copy()
    for sequence, kv_len in enumerate(given.case.batch.kv_lens):
        pages = private.layout.pages(sequence, kv_len)
        table[half + sequence, : len(pages)] = pages
    shared = replace(private, layout=replace(private.layout, block_table=table))
    rows = _all_rows(private)
    return Related(first=private, variants=[Variant(words="pages shared", tensors=shared, rows=rows)])


def neutral_features(given: Tensors) -> Related:
    """A feature that can change nothing changes nothing: a wide window, slopes of 0, sinks far below, ..."""
    case = given.case
    heads = case.problem.num_qo_heads
    changes: dict[str, dict[str, Any]] = {
        "a window wider than the sequences": {"window": max(case.batch.kv_lens) + max(case.batch.query_lens)},
        "ALiBi slopes of 0": {"alibi_slopes": (0.0,) * heads},
        "sinks far below every logit": {"sinks": (SMALL_SINK,) * heads},
        "a soft cap far above every logit": {"soft_cap": LARGE_CAP},
    }
    if case.batch.is_decode:
        changes["no causal mask over one row"] = {"causal": False}
    related = _same(given, changes)
    # a row without keys has its sink as LSE, however low that is
    empty = np.concatenate([np.repeat(kv_len == 0, q_len) for kv_len, q_len in _lengths(case)])
    return replace(
        related, variants=[replace(v, rows=np.where(empty, NEW, v.rows)) for v in related.variants]
    )


def folded_scales(given: Tensors) -> Related:
    """A factor may stand in the queries, in ``sm_scale`` or in the scales of the cache."""
    problem = given.case.problem
    stored, half = problem.storage, {"sm_scale": problem.scale / 2.0}
    sequences, rows = sequences_of(given), _all_rows(given)
    louder = [replace(s, queries=encode(decode(s.queries, stored) * 2.0, stored)) for s in sequences]
    variants = [
        Variant(words="twice the queries, half the sm_scale", tensors=laid(given, louder, **half), rows=rows)
    ]
    if problem.kv_dtype is not None and not problem.latent:
        scales = {f"{kind}_scale": problem.kv_scales(kind) for kind in "kv"}
        doubled = {name: tuple(2.0 * scale for scale in values) for name, values in scales.items()}
        keys_up = laid(given, sequences, **half, k_scale=doubled["k_scale"])
        values_up = laid(given, sequences, v_scale=doubled["v_scale"])
        variants.append(Variant(words="twice the k_scale, half the sm_scale", tensors=keys_up, rows=rows))
        variants.append(Variant(words="twice the v_scale", tensors=values_up, rows=rows, factor=2.0))
        variants += _widened(given, sequences)
    return Related(first=given, variants=variants)


def logit_shift(given: Tensors) -> Related:
    """A constant added to all logits leaves the output and is added to the log-sum-exp."""
    problem = given.case.problem
    one, step = encode(np.asarray(1.0), problem.storage), encode(np.asarray(8.0), problem.kv_storage)

    def last_element(key: Array) -> Callable[[SequenceRows], SequenceRows]:
        def change(rows: SequenceRows) -> SequenceRows:
            queries, keys = rows.queries.copy(), rows.keys.copy()
            queries[:, :, -1], keys[:, :, -1] = one, key
            return replace(rows, queries=queries, keys=keys)

        return change

    first = _each(given, last_element(np.zeros((), step.dtype))).tensors
    shifted = _each(given, last_element(step))
    shift = np.repeat(8.0 * problem.scale * np.asarray(problem.kv_scales("k")), problem.group_size)
    return Related(
        first=first, variants=[replace(shifted, words="a constant on all logits", lse_shift=shift)]
    )


def chunks(given: Tensors) -> Related:
    """A prompt in two chunks, and its last row as decode, give the rows of the whole prompt."""
    rng, rows, parts, last = _generator(given), _row_ranges(given), [], []
    for sequence in sequences_of(given):
        queries = sequence.queries
        cut = int(rng.integers(0, len(queries) + 1))
        seen = max(0, len(sequence.keys) - (len(queries) - cut))
        parts.append(
            SequenceRows(queries=queries[:cut], keys=sequence.keys[:seen], values=sequence.values[:seen])
        )
        parts.append(replace(sequence, queries=queries[cut:]))
        last += [replace(sequence, queries=queries[-1:])] if len(queries) else []
    ends = np.asarray([found[-1] for found in rows if len(found)], dtype=np.int64)
    return Related(
        first=given,
        variants=[
            Variant(words="in two chunks", tensors=laid(given, parts), rows=_all_rows(given)),
            Variant(words="the last row as decode", tensors=laid(given, last), rows=ends),
        ],
    )


def laid(given: Tensors, sequences: Sequence[SequenceRows], **fields: Any) -> Tensors:
    """Return the case of ``given`` with ``sequences`` instead, each in pages of its own, and other fields."""
    case = given.case
    lengths = Batch(
        kv_lens=tuple(len(rows.keys) for rows in sequences),
        q_lens=tuple(len(rows.queries) for rows in sequences),
    )
    # what a relation does to one sequence must not reach another
    alone = replace(case, problem=replace(case.problem, **fields), batch=lengths, shared_prefix=())
    return lay_out(alone, sequences)


def _widened(given: Tensors, sequences: Sequence[SequenceRows]) -> list[Variant]:
    """The numbers that an e4m3 cache stands for, in a cache of the queries' type that holds them exactly."""
    problem = given.case.problem
    exact = [
        (_dequantised(s.keys, problem.kv_scales("k")), _dequantised(s.values, problem.kv_scales("v")))
        for s in sequences
    ]
    stored = [(encode(k, problem.storage), encode(v, problem.storage)) for k, v in exact]
    for pair, wanted in zip(stored, exact, strict=True):
        if any(_loses(found, whole, problem.storage) for found, whole in zip(pair, wanted, strict=True)):
            return []
    wide = [
        SequenceRows(queries=s.queries, keys=k, values=v) for s, (k, v) in zip(sequences, stored, strict=True)
    ]
    tensors = laid(given, wide, kv_dtype=None, k_scale=None, v_scale=None)
    return [Variant(words="the cache dequantised", tensors=tensors, rows=_all_rows(given))]


def _dequantised(stored: Array, scales: Sequence[float]) -> Array:
    numbers: Array = decode(stored, E4M3) * np.asarray(scales)[:, None]
    return numbers


def _loses(stored: Array, wanted: Array, dtype: DType) -> bool:
    return not np.array_equal(decode(stored, dtype), wanted, equal_nan=True)


def _same(given: Tensors, changes: dict[str, dict[str, Any]]) -> Related:
    """The same sequences under problems with other fields."""
    sequences, rows = sequences_of(given), _all_rows(given)
    variants = [
        Variant(words=words, tensors=laid(given, sequences, **fields), rows=rows)
        for words, fields in changes.items()
    ]
    return Related(first=given, variants=variants)


def _each(given: Tensors, change: Callable[[SequenceRows], SequenceRows]) -> Variant:
    """The same problem with every sequence changed; the rows stay."""
    changed = [change(rows) for rows in sequences_of(given)]
    return Variant(words="", tensors=laid(given, changed), rows=_all_rows(given))


def _lengths(case: Case) -> list[tuple[int, int]]:
    return list(zip(case.batch.kv_lens, case.batch.query_lens, strict=True))


def _row_ranges(given: Tensors) -> list[Array]:
    ends = given.qo_indptr.astype(np.int64)
    return [np.arange(start, end) for start, end in pairwise(ends)]


def _rows(ranges: Sequence[Array], kept: Sequence[int]) -> Array:
    rows: Array = np.concatenate([ranges[i] for i in kept])
    return rows


def _all_rows(given: Tensors) -> Array:
    return np.arange(given.q.shape[0])


def _generator(given: Tensors) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(given.case.seed, spawn_key=(2,)))
