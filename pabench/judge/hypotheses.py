"""Explanations of a wrong output: recompute the row as a faulty kernel would, and see which one fits.

An explanation is only offered when every number of the row (and its LSE, when that is wrong too) lies within
rounding of what the fault would give.  They are tried from the plain to the involved; the first that fits is
named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from pabench.judge.semantic_faults import semantic_faults
from pabench.judge.suspect import Fault, Suspect
from pabench.problem.dtypes import Array
from pabench.problem.placement import HIGH_PAGE_BASE

MAX_SEARCHED = 2**22
"""Numbers in the candidate pages, and in the table of (logical page, physical page, dim), at most."""
MAX_LOGICAL_PAGES = 128
"""Logical pages of one row, the weightiest, for which another physical page is tried."""
TILES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def explain(suspect: Suspect) -> str | None:
    """Return the first explanation that fits, or None when none does."""
    if not suspect.output_wrong:
        return _explain_lse(suspect)
    zero = not suspect.got_out.any()
    if zero and suspect.got_lse == -math.inf:
        return "the output is 0 in all dims and the lse -inf, as for a row that sees no key"
    out_only = None
    with np.errstate(all="ignore"):
        for fault in _all_faults(suspect):
            if suspect.fits(fault):
                return f"the output matches {fault.words}"
            if out_only is None and suspect.fits(fault, with_lse=False):
                out_only = f"the output, but not the lse, matches {fault.words}"
    return out_only or ("the output is 0 in all dims" if zero else None)


def _all_faults(suspect: Suspect) -> Iterator[Fault]:
    yield from _key_ranges(suspect)
    yield from semantic_faults(suspect)
    yield from _kv_heads(suspect)
    if suspect.tensors.case.problem.sinks is None:
        yield from _rescaling(suspect)
        yield from _normalisation(suspect)
    yield from _other_rows(suspect)
    yield from _page_tables(suspect)
    yield from _single_pages(suspect)


def _key_ranges(suspect: Suspect) -> Iterator[Fault]:
    """Keys missing or too many at either end."""
    start, seen, page_size = suspect.start, suspect.seen, suspect.page_size
    full, floor = -(-seen // page_size) * page_size, seen // page_size * page_size
    first_row, count = suspect.query_index + 1, seen - start
    ranges = [
        (start, seen - 1, f"its last key missing (bound {seen - 1} in place of {seen})"),
        (start, seen + 1, f"one key too many ({count + 1} in place of {count})"),
        (start + 1, seen, "its first key missing"),
        (start, floor, f"its last page missing ({floor - start} keys in place of {count})"),
        (start, full, f"all slots of the last page taken as keys ({full - start} in place of {count})"),
        (start, suspect.kv_len, f"no causal mask ({suspect.kv_len - start} keys in place of {count})"),
        (start, first_row, f"a causal mask aligned at the top left ({first_row} keys in place of {seen})"),
        (start - 1, seen, f"one key before its window ({count + 1} in place of {count})"),
        (0, seen, f"no window ({seen} keys in place of {count})"),
    ]
    room = len(suspect.pages) * page_size
    for begin, stop, words in ranges:
        if 0 <= begin < stop <= room and (begin, stop) != (start, seen):
            rows = suspect.rows(suspect.pages, begin, stop, suspect.kv_head)
            yield suspect.weighted(words, *rows, start=begin)


def _kv_heads(suspect: Suspect) -> Iterator[Fault]:
    """Another KV head read; head modulo number of heads is the usual slip."""
    problem = suspect.tensors.case.problem
    modulo = suspect.head % problem.num_kv_heads
    others = [head for head in range(problem.num_kv_heads) if head != suspect.kv_head]
    for other in sorted(others, key=lambda head: head != modulo):
        words = f"KV head {other} read in place of {suspect.kv_head}"
        if other == modulo:
            words += f" (query head mod num_kv_heads, {suspect.head} mod {problem.num_kv_heads})"
        yield suspect.weighted(words, *suspect.rows(suspect.pages, suspect.start, suspect.seen, other))


def _rescaling(suspect: Suspect) -> Iterator[Fault]:
    """Accumulator or sum not multiplied by exp(old max - new max) when the maximum grows."""
    logits = suspect.logits(suspect.keys)
    highest = np.maximum.accumulate(logits)
    for tile in sorted({*TILES, suspect.page_size}):
        ends = np.minimum(np.arange(logits.size) // tile * tile + tile, logits.size) - 1
        grown = np.exp(np.minimum(highest[-1] - highest[ends], 700.0))
        if (grown == 1.0).all():
            continue
        weights, _, _ = suspect.softmax(logits)
        total = float((weights * grown).sum())
        shift = math.log(total)
        for words, factor, lse_shift in (
            ("the accumulator", grown, 0.0),
            ("the accumulator and the sum", grown / total, shift),
            ("the sum", np.full(logits.size, 1.0 / total), shift),
        ):
            yield suspect.weighted(
                f"{words} not rescaled when the running maximum grows (tiles of {tile} keys)",
                suspect.keys,
                suspect.values,
                factor=factor,
                lse_shift=lse_shift,
            )


def _normalisation(suspect: Suspect) -> Iterator[Fault]:
    """The sum of weights not applied, and a softmax for each page on its own."""
    logits = suspect.logits(suspect.keys)
    weights, lse, top = suspect.softmax(logits)
    scale = np.full(logits.size, math.exp(min(lse - top, 700.0)))
    words = "an accumulator not divided by the sum of weights"
    yield suspect.weighted(words, suspect.keys, suspect.values, factor=scale)
    page = (suspect.start + np.arange(logits.size)) // suspect.page_size
    page -= page[0]
    share = np.bincount(page, weights)[page]
    words = "a softmax for each page on its own"
    yield suspect.weighted(f"{words}, summed", suspect.keys, suspect.values, factor=1.0 / share)
    mean = 1.0 / (share * (int(page[-1]) + 1))
    yield suspect.weighted(f"{words}, averaged", suspect.keys, suspect.values, factor=mean)


def _other_rows(suspect: Suspect) -> Iterator[Fault]:
    """The right output of another row or head in this place."""
    reference = suspect.reference
    near = np.abs(reference.out - suspect.got_out) <= 2.0 * reference.out_bound
    for row, head in np.argwhere(near.all(axis=2))[:8].tolist():
        if (row, head) != (suspect.row, suspect.head):
            sequence = int(np.searchsorted(suspect.tensors.qo_indptr, row, side="right")) - 1
            yield Fault(
                words=f"the right output of sequence {sequence}, query row {row}, query head {head}",
                out=reference.out[row, head],
                slack=2.0 * reference.out_bound[row, head],
                lse=float(reference.lse[row, head]),
            )


def _page_tables(suspect: Suspect) -> Iterator[Fault]:
    """Every page of the row looked up wrongly."""
    pages, limit = suspect.pages, suspect.tensors.pool.num_pages
    tables = [
        ("page ids cut to 16 bits", [page % HIGH_PAGE_BASE for page in pages]),
        ("the block table ignored (physical page = logical page)", list(range(len(pages)))),
        ("page ids one too high", [page + 1 for page in pages]),
        ("page ids one too low", [page - 1 for page in pages]),
        ("pages in reverse order", pages[::-1]),
    ]
    for other, kv_len in enumerate(suspect.tensors.kv_lens.tolist()[:64]):
        if other != suspect.sequence:
            row = suspect.tensors.layout.pages(other, kv_len).tolist()
            tables.append((f"the block table row of sequence {other}", row[: len(pages)]))
    for words, table in tables:
        if len(table) == len(pages) and table != pages and all(0 <= page < limit for page in table):
            yield suspect.weighted(words, *suspect.rows(table, suspect.start, suspect.seen, suspect.kv_head))


def _single_pages(suspect: Suspect) -> Iterator[Fault]:
    """One logical page read from the wrong physical page: try each against each live page.

    Not tried where a key's place or a sink counts too.
    """
    problem = suspect.tensors.case.problem
    if suspect.start or problem.alibi_slopes is not None or problem.sinks is not None:
        return
    used = -(-suspect.seen // suspect.page_size)
    size = suspect.page_size
    most = max(1, MAX_SEARCHED // (max(used, size) * suspect.query.size))
    candidates = _candidate_pages(suspect)[:most]
    keys, values = suspect.rows(candidates, 0, len(candidates) * size, suspect.kv_head)
    keys, values = keys.reshape(-1, size, keys.shape[1]), values.reshape(-1, size, values.shape[1])
    foreign = suspect.logits(keys)
    own = suspect.logits(suspect.keys)
    finite = np.isfinite(foreign) & np.isfinite(values).all(axis=2)
    top = max(float(own.max()), float(foreign[finite].max(initial=-math.inf)))
    mine = np.exp(own - top)
    page = np.arange(suspect.seen) // size
    sums = np.bincount(page, mine, minlength=used)
    accs = np.add.reduceat(mine[:, None] * suspect.values, np.arange(0, suspect.seen, size))
    # what the other pages give, summed rather than subtracted: the page in question may have all the weight
    rest_sum, rest_acc = _all_but_one(sums), _all_but_one(accs)
    tried: list[tuple[float, int, int]] = []
    for logical in np.sort(np.argsort(-sums)[:MAX_LOGICAL_PAGES]).tolist():
        fill = min(size, suspect.seen - logical * size)
        weights = np.exp(foreign[:, :fill] - top)
        total = rest_sum[logical] + weights.sum(axis=1)
        acc = rest_acc[logical] + np.einsum("cs,csd->cd", weights, values[:, :fill])
        distance = np.abs(acc / total[:, None] - suspect.got_out).max(axis=1)
        distance[~finite[:, :fill].all(axis=1)] = math.inf
        distance[[i for i, page in enumerate(candidates) if page == suspect.pages[logical]]] = math.inf
        nearest = int(distance.argmin())
        if distance[nearest] < math.inf:
            tried.append((float(distance[nearest]), logical, candidates[nearest]))
    for _, logical, wrong in sorted(tried)[:4]:
        right = suspect.pages[logical]
        table = [*suspect.pages[:logical], wrong, *suspect.pages[logical + 1 :]]
        words = f"logical page {logical} read from physical page {wrong}, expected {right}"
        if right % HIGH_PAGE_BASE == wrong:
            words += f" ({right} cut to 16 bits is {wrong})"
        yield suspect.weighted(words, *suspect.rows(table, suspect.start, suspect.seen, suspect.kv_head))


def _all_but_one(parts: Array) -> Array:
    """Return for each row of ``parts`` the sum of all others, without subtraction."""
    none = np.zeros((1, *parts.shape[1:]))
    before = np.concatenate([none, np.cumsum(parts[:-1], axis=0)])
    after = np.concatenate([np.cumsum(parts[:0:-1], axis=0)[::-1], none])
    total: Array = before + after
    return total


def _candidate_pages(suspect: Suspect) -> list[int]:
    """Pages that a faulty lookup may reach: own ones and aliases first, then neighbours, then all live."""
    tensors, limit = suspect.tensors, suspect.tensors.pool.num_pages
    live = [
        page
        for sequence, kv_len in enumerate(tensors.kv_lens.tolist())
        for page in tensors.layout.pages(sequence, kv_len).tolist()
    ]
    near = [page + step for page in suspect.pages for step in (-1, 1)]
    table = tensors.layout.block_table[suspect.sequence].tolist()
    wanted = [*suspect.pages, *(page % HIGH_PAGE_BASE for page in suspect.pages), 0, *near, *table, *live]
    return [page for page in dict.fromkeys(wanted) if 0 <= page < limit]


def _explain_lse(suspect: Suspect) -> str | None:
    """Why only the LSE is wrong."""
    right = float(suspect.reference.lse[suspect.row, suspect.head])
    got = suspect.got_lse
    if got is None or math.isnan(got):
        return None
    top = float(suspect.logits(suspect.keys).max())
    known = (
        (right / math.log(2.0), "a base-2 LSE in place of natural log"),
        (right * math.log(2.0), "an LSE multiplied by ln 2 once too often"),
        (right - top, "an LSE without the maximum added back"),
        (top, "the maximum alone, without the log of the sum"),
        (top + math.exp(right - top), "the maximum plus the sum, without the log"),
        (top / math.log(2.0) + right - top, "a base-2 maximum plus a natural log"),
        (top + (right - top) / math.log(2.0), "a natural maximum plus a base-2 log"),
        (-right, "the LSE negated"),
    )
    slack = float(suspect.reference.lse_bound[suspect.row, suspect.head])
    for value, words in known:
        if abs(got - value) <= slack + 4e-7 * (abs(value) + abs(top)):
            return f"the lse matches {words}"
    return None
