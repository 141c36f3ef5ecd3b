# SPDX-License-Identifier: Apache-2.0
"""Explanations of a wrong output: recompute the row as a faulty kernel would, and see which ones fit.

An explanation is only offered when every number of the row (and its LSE, when that is wrong too) lies within
rounding of what the fault would give.  All that fit are named: a small case fits many, and a search narrows
them down by the case that it met first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pabench.judge.cache_faults import cache_faults
from pabench.judge.format_faults import format_faults
from pabench.judge.head_faults import head_faults
from pabench.judge.mask_faults import mask_faults, no_key_causes, range_faults
from pabench.judge.place_faults import place_faults
from pabench.judge.semantic_faults import semantic_faults
from pabench.judge.set_faults import set_faults
from pabench.judge.suspect import Cause, Fault, Suspect

TILES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


MAX_TRIED = 2**25
"""Numbers of keys that are looked at for one row once something fits; twice as many before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a row is wrong.

    Attributes:
        text: in words; None where nothing fits.
        causes: all explanations that fit, from the plain to the involved; ``text`` names each.
    """

    text: str | None
    causes: tuple[Cause, ...] = ()


def explain(suspect: Suspect) -> Explanation:
    """Return all explanations that fit: which of them it is, one case cannot tell."""
    if not suspect.output_wrong:
        causes = _those_that_fit(suspect, suspect.fits_lse)[0]
        if (known := _explain_lse(suspect)) is not None:
            # a few keys fit much: what the rest of a run speaks for can be told by name
            also = (Cause(name=known, words=f"the lse alone matches {known}"), *causes)
            return Explanation(text=f"the lse matches {known}", causes=also)
        text = f"{LSE_ALONE} {one_of_them(causes)}" if causes else None
        return Explanation(text=text, causes=causes)
    zero = not suspect.got_out.any()
    if zero and suspect.keys_seen is None and (lse := _lse_of_no_key(suspect)) is not None:
        causes = no_key_causes(suspect)
        why = f": {one_of_them(causes)}" if causes else ""
        return Explanation(text=f"{NO_KEY.format(lse=lse)}{why}", causes=causes)
    out_alone = partial(suspect.fits, with_lse=False)
    for causes, what in zip(
        _those_that_fit(suspect, suspect.fits, out_alone), (OUTPUT, OUTPUT_ALONE), strict=True
    ):
        if causes:
            return Explanation(text=f"{what} {one_of_them(causes)}", causes=causes)
    return Explanation(text="the output is 0 in all dims" if zero else None)


def _lse_of_no_key(suspect: Suspect) -> str | None:
    """Return what the LSE found is called, where it is that of a row that sees no key."""
    sinks, got = suspect.tensors.case.problem.sinks, suspect.got_lse
    if got == -math.inf:
        return "-inf"
    if sinks is None or got is None:
        return None
    sink = sinks[suspect.head]
    return "its sink" if abs(got - sink) <= 4e-7 * (1.0 + abs(sink)) else None


def explain_unseen(suspect: Suspect) -> Explanation:
    """Return what fits a row that sees no key and whose output is not 0: keys that it may not see."""
    faults = range_faults if suspect.keys_seen is None else set_faults
    causes = _those_that_fit(suspect, suspect.fits, faults=faults)[0]
    return Explanation(text=f"{OUTPUT} {one_of_them(causes)}" if causes else None, causes=causes)


def _those_that_fit(
    suspect: Suspect,
    *fits: Callable[[Fault], bool],
    faults: Callable[[Suspect], Iterator[Fault]] | None = None,
) -> tuple[tuple[Cause, ...], ...]:
    """For each of ``fits`` the causes of the faults that fit so, and no way before."""
    found: list[dict[str, Cause]] = [{} for _ in fits]
    tried = 0
    with np.errstate(all="ignore"):
        for fault in (faults or _all_faults)(suspect):
            tried += suspect.keys.size
            for fit, fitting in zip(fits, found, strict=True):
                if fit(fault):
                    fitting.setdefault(fault.name, fault.cause)
                    break
            if tried > (MAX_TRIED if found[0] else 2 * MAX_TRIED):
                break
    return tuple(tuple(fitting.values()) for fitting in found)


NO_KEY = "the output is 0 in all dims and the lse {lse}, as for a row that sees no key"
LSE_ALONE = "the lse, and an output that is right with it, match"
OUTPUT, OUTPUT_ALONE = "the output matches", "the output, but not the lse, matches"
MOST_NAMED = 4


def one_of_them(causes: Sequence[Cause]) -> str:
    """Return causes in words: the only one, or one of several that cannot be told apart."""
    words = list(dict.fromkeys(cause.words for cause in causes))
    if len(words) == 1:
        return words[0]
    more = f", or {len(words) - MOST_NAMED} others" if len(words) > MOST_NAMED else ""
    return f"one of: {', or '.join(words[:MOST_NAMED])}{more}"


def _all_faults(suspect: Suspect) -> Iterator[Fault]:
    if suspect.keys_seen is not None:
        yield from set_faults(suspect)
        return
    yield from mask_faults(suspect)
    yield from semantic_faults(suspect)
    yield from cache_faults(suspect)
    yield from format_faults(suspect)
    yield from head_faults(suspect)
    if suspect.tensors.case.problem.sinks is None:
        yield from _rescaling(suspect)
        yield from _normalisation(suspect)
    yield from _other_rows(suspect)
    yield from _stale_accumulators(suspect)
    yield from place_faults(suspect)


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
                name=f"{words} not rescaled in tiles of {tile}",
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
                name="the right output of another row or head",
                out=reference.out[row, head],
                slack=2.0 * reference.out_bound[row, head],
                lse=float(reference.lse[row, head]),
            )


def _stale_accumulators(suspect: Suspect) -> Iterator[Fault]:
    """What the row before, or the head before, left in the accumulator and the sum."""
    right = suspect.reference
    logits = suspect.logits(suspect.keys)
    _, lse, top = suspect.softmax(logits)
    before = [(suspect.row - 1, suspect.head, "row"), (suspect.row, suspect.head - 1, "head")]
    for row, head, what in before:
        if row < 0 or head < 0 or not math.isfinite(right.lse[row, head]):
            continue
        own = suspect.weighted(
            f"what the query {what} before left in the accumulator", suspect.keys, suspect.values
        )
        left_lse = float(right.lse[row, head])
        other = suspect.of_row(row, head)
        if other is None:
            continue
        # its sums are relative to its own maximum, which is kept, or to one that starts anew
        left_top = other.softmax(other.logits(other.keys))[2]
        for shift, words in ((0.0, "with its maximum"), (top - left_top, "without its maximum")):
            both = np.logaddexp(lse, left_lse + shift)
            mine, left = math.exp(lse - both), math.exp(left_lse + shift - both)
            # their quotient, where the smaller one may be 0
            ratio = math.exp(min(left_lse + shift - lse, 700.0))
            yield Fault(
                words=f"{own.words} and the sum, {words}, counted too",
                name=f"{own.name}, {words}",
                out=mine * own.out + left * right.out[row, head],
                slack=mine * own.slack + left * right.out_bound[row, head],
                lse=float(both),
            )
            yield Fault(
                words=f"{own.words} alone, {words}, counted too",
                name=f"{own.name} alone, {words}",
                out=own.out + ratio * right.out[row, head],
                slack=own.slack + ratio * right.out_bound[row, head],
                lse=lse,
            )


def _explain_lse(suspect: Suspect) -> str | None:
    """Why only the LSE is wrong."""
    right = float(suspect.reference.lse[suspect.row, suspect.head])
    got = suspect.got_lse
    if got is None or math.isnan(got):
        return None
    top = float(suspect.logits(suspect.keys).max())
    bases = ("a base-2 LSE in place of natural log", "an LSE multiplied by ln 2 once too often")
    if suspect.lse_unit != 1.0:
        bases = ("an LSE divided by ln 2 once too often", "a natural LSE in place of base 2")
    known = (
        (right / math.log(2.0), bases[0]),
        (right * math.log(2.0), bases[1]),
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
            return words
    return None
