# SPDX-License-Identifier: Apache-2.0
"""Says in words where an output is wrong and, when one explanation fits, why."""

from __future__ import annotations

import numpy as np

from pabench.judge.bound import rounding_of
from pabench.judge.hypotheses import MOST_NAMED, Explanation, explain, explain_unseen
from pabench.judge.reference import Truth
from pabench.judge.set_faults import read_poison
from pabench.judge.suspect import Cause, Suspect
from pabench.problem.dtypes import Array
from pabench.problem.placement import HIGH_PAGE_BASE
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.problem.visibility import seen_keys, visible_range

NEVER_WRITTEN = "every byte of the output is 0xFF, as in fresh memory: it was never written"
EXP_OVERFLOW = 88.0
"""exp of more than this is infinite in float32."""
DIAGNOSED_ELEMENTS = 2**21
"""Rows with more numbers than this in keys or values of one head are located but not diagnosed."""


@np.errstate(all="ignore")
def describe(
    tensors: Tensors,
    reference: Truth,
    out: Array,
    lse: Array | None,
    profile: NumericsProfile,
    *,
    row: int,
    sequence: int,
    head: int,
    dim: int | None,
    ratio: float,
    wrong: Array,
) -> tuple[str, tuple[Cause, ...]]:
    """Return a line on the worst element of a wrong output, and the explanations in it that fit.

    Args:
        tensors: what was asked.
        reference: the truth.
        out: the output found, as float64.
        lse: the LSE found, as float64, or None.
        profile: the declared arithmetic.
        row: query row of the worst element.
        sequence: its sequence.
        head: its query head.
        dim: its index in the head's vector; None when the LSE is wrong and the output right.
        ratio: its err/T.
        wrong: which rows and heads are wrong.
    """
    problem = tensors.case.problem
    first, last = int(tensors.qo_indptr[sequence]), int(tensors.qo_indptr[sequence + 1])
    kv_len = int(tensors.kv_lens[sequence])
    start, seen = (int(end[row - first]) for end in visible_range(problem, last - first, kv_len))
    keys_seen = seen_keys(tensors.case, sequence)[row - first] if tensors.case.masks else None
    if keys_seen is not None:
        some = np.flatnonzero(keys_seen)
        start, seen = (int(some[0]), int(some[-1]) + 1) if some.size else (0, 0)
    place = f"sequence {sequence}, query head {head}"
    place += ", lse" if dim is None else f", dim {dim}"
    if last - first != 1:
        place += f", query row {row - first} of {last - first}"
    if dim is None and lse is not None:
        got, right, bound = lse[row, head], reference.lse[row, head], reference.lse_bound[row, head]
    else:
        got, right = out[row, head, dim], reference.out[row, head, dim]
        bound = reference.out_bound[row, head, dim]
    numbers = f"err/T {ratio:.3g}, got {got:.6g}, expected {right:.6g} within {bound:.3g}"
    parts = [f"{place}: {numbers}"]
    small = max(seen - start, min(kv_len, last - first)) * problem.head_dim <= DIAGNOSED_ELEMENTS
    suspect = Suspect(
        tensors=tensors,
        reference=reference,
        rounding=rounding_of(profile, problem.storage, problem.kv_storage, problem.q_storage),
        row=row,
        sequence=sequence,
        head=head,
        start=start,
        seen=seen,
        query_index=row - first,
        got_out=out[row, head],
        got_lse=None if lse is None else float(lse[row, head]),
        output_wrong=dim is not None,
        wrong=wrong,
        keys_seen=keys_seen,
        lse_unit=profile.lse_unit,
    )
    if start == seen:
        nothing = "-inf" if problem.sinks is None else "its sink"
        parts.append(f"the row sees no key (kv_len {kv_len}), so its output is 0 and its lse {nothing}")
        if dim is not None and untouched(out[row, head]):
            parts.append(NEVER_WRITTEN)
        elif (why_nan := read_poison(suspect)) is not None:
            parts.append(why_nan)
        elif dim is not None and kv_len and small and np.isfinite(out[row, head]).all():
            why = explain_unseen(suspect)
            return "; ".join([*parts, *([why.text] if why.text else [])]), why.causes
        elif problem.sinks is not None and lse is not None:
            parts += _mistaken_sink(problem.sinks, head, float(lse[row, head]))
        return "; ".join(parts), ()
    count = seen - start if keys_seen is None else int(keys_seen.sum())
    parts.append(f"the row sees {count} keys" + (f", from key {start}" if start else ""))
    if not small:
        return "; ".join(parts), ()
    no_number = read_poison(suspect) or _not_a_number(suspect, out)
    why = Explanation(text=no_number) if no_number else explain(suspect)
    found = (_dominating_key(suspect), why.text)
    return "; ".join([*parts, *(part for part in found if part)]), why.causes


def _mistaken_sink(sinks: tuple[float, ...], head: int, got: float) -> list[str]:
    """What stands in place of the sink of a row that sees nothing else."""
    if got == -np.inf:
        return ["its sink left out"]
    found = [f"the sink of query head {other}" for other, sink in enumerate(sinks) if np.float32(sink) == got]
    if abs(got - sinks[head] - np.log(2.0)) < 1e-5 * (1.0 + abs(got)):
        found.append("its sink counted twice")
    return [_any_of(found[:MOST_NAMED])] if found else []


def _dominating_key(suspect: Suspect) -> str | None:
    """Name logical and physical page of the key that has more than half of the weight."""
    weights = suspect.weights()
    token = int(suspect.places[weights.argmax()])
    if not weights.max() > 0.5:
        return None
    logical, offset = divmod(token, suspect.page_size)
    page = suspect.pages[logical]
    return (
        f"key {token} has {100 * weights.max():.3g} % of the weight, "
        f"slot {offset} of logical page {logical} in physical page {page}"
    )


def _strayed(suspect: Suspect, out: Array) -> str:
    """Say where else the right output of a row stands, if anywhere."""
    right, slack = (
        found[suspect.row, suspect.head] for found in (suspect.reference.out, suspect.reference.out_bound)
    )
    places = np.argwhere((np.abs(out - right) <= 2.0 * slack).all(axis=2))
    for row, head in places[:1].tolist():
        sequence = int(np.searchsorted(suspect.tensors.qo_indptr, row, side="right")) - 1
        return f"; what belongs there stands at sequence {sequence}, query row {row}, query head {head}"
    return ""


def _not_a_number(suspect: Suspect, out: Array) -> str | None:
    """Say which numbers are NaN or infinite, and whether the poison of unreadable slots explains it."""
    bad = ~np.isfinite(suspect.got_out)
    if not suspect.output_wrong or not bad.any():
        return None
    dims = np.flatnonzero(bad)
    where = "all dims" if bad.all() else f"{dims.size} of {bad.size} dims, {dims[0]} to {dims[-1]}"
    kinds = "NaN" if np.isnan(suspect.got_out[bad]).all() else "NaN or Inf"
    if untouched(suspect.got_out):
        return NEVER_WRITTEN + _strayed(suspect, out)
    words = f"the output is {kinds} in {where}"
    poison, got_lse = suspect.tensors.case.poison, suspect.got_lse
    right, bound = (
        found[suspect.row, suspect.head] for found in (suspect.reference.lse, suspect.reference.lse_bound)
    )
    lse_right = got_lse is not None and bool(abs(got_lse - right) <= bound)
    # a sum that overflows, or has no term, would be in the lse too
    others = [] if lse_right else _overflows(suspect) + _without_keys(suspect)
    if poison not in ("nan", "inf"):
        return f"{words}; {_any_of(others)}" if others else words
    if others and not lse_right:
        if suspect.start:
            others.append(f"a key before the window, 0 to {suspect.start - 1}, which hold {poison}, was read")
        others.append(f"a slot that no query may read, which holds {poison}, was read")
        return f"{words}; {_any_of(others)}"
    words += f"; slots that no query may read hold {poison}, so one of them was probably read"
    tail = -suspect.seen % suspect.page_size
    if got_lse is None:
        return words
    place = f"the last page holds {tail} masked slots" if tail else "the last page is full"
    if lse_right:
        return f"{words}: the lse is right, so a masked slot leaked through V (0 * {poison}); {place}"
    aliased = [page for page in suspect.pages if page >= HIGH_PAGE_BASE]
    if aliased:
        low = aliased[0] % HIGH_PAGE_BASE
        if low not in suspect.pages:
            return (
                f"{words}, its key too; {place}; "
                f"page {aliased[0]} cut to 16 bits would be page {low}, which is poisoned"
            )
    return f"{words}, its key too: the lse is {got_lse:g}; {place}"


def _overflows(suspect: Suspect) -> list[str]:
    """Where an exponential of this row overflows float32 unless care is taken."""
    found = []
    cap = suspect.tensors.case.problem.soft_cap
    top = float(suspect.logits(suspect.keys).max())
    if top > EXP_OVERFLOW:
        found.append(f"logits reach {top:.4g}, where exp overflows float32 unless the maximum is subtracted")
    if cap is not None:
        most = float(np.abs(suspect.raw(suspect.keys)).max()) / cap
        if 2.0 * most > EXP_OVERFLOW:
            found.append(f"logits reach {most:.4g} times the soft cap, where exp in a tanh overflows float32")
    return found


def _without_keys(suspect: Suspect) -> list[str]:
    """Where a tile, or one of several splits, may have no key of this row: 0 / 0, or -inf less -inf."""
    found = []
    if suspect.start >= min(SMALLEST_TILE, suspect.page_size):
        found.append(f"a tile or split of keys before the window, 0 to {suspect.start - 1}, that sees none")
    longest = int(suspect.tensors.kv_lens.max())
    if longest >= SMALLEST_SPLIT and 2 * suspect.kv_len <= longest:
        found.append(f"a split of the longest sequence, of {longest} keys, in which this one has none")
    return found


SMALLEST_TILE, SMALLEST_SPLIT = 32, 256


def _any_of(causes: list[str]) -> str:
    return causes[0] if len(causes) == 1 else f"one of: {', or '.join(causes)}"


def untouched(out: Array) -> bool:
    """Whether all numbers still are the NaN of all ones that fresh output memory holds."""
    # widening keeps the payload; 7 bits of it exist in every storage type
    return bool((np.ascontiguousarray(out).view(np.uint64) >> np.uint64(45) == 0x7FFFF).all())
