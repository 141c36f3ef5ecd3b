"""Says in words where an output is wrong and, when one explanation fits, why."""

from __future__ import annotations

import numpy as np

from pabench.judge.bound import rounding_of
from pabench.judge.hypotheses import explain
from pabench.judge.reference import Truth
from pabench.judge.suspect import Suspect
from pabench.problem.dtypes import Array
from pabench.problem.placement import HIGH_PAGE_BASE
from pabench.problem.profile import ComputeProfile
from pabench.problem.tensors import Tensors
from pabench.problem.visibility import visible_range

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
    profile: ComputeProfile,
    *,
    row: int,
    sequence: int,
    head: int,
    dim: int | None,
    ratio: float,
) -> str:
    """Return a line on the worst element of a wrong output.

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
    """
    problem = tensors.case.problem
    first, last = int(tensors.qo_indptr[sequence]), int(tensors.qo_indptr[sequence + 1])
    kv_len = int(tensors.kv_lens[sequence])
    start, seen = (int(end[row - first]) for end in visible_range(problem, last - first, kv_len))
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
    if start == seen:
        nothing = "-inf" if problem.sinks is None else "its sink"
        parts.append(f"the row sees no key (kv_len {kv_len}), so its output is 0 and its lse {nothing}")
        if dim is not None and untouched(out[row, head]):
            parts.append(NEVER_WRITTEN)
        return "; ".join(parts)
    parts.append(f"the row sees {seen - start} keys" + (f", from key {start}" if start else ""))
    if (seen - start) * problem.head_dim > DIAGNOSED_ELEMENTS:
        return "; ".join(parts)
    suspect = Suspect(
        tensors=tensors,
        reference=reference,
        rounding=rounding_of(profile, problem.storage, problem.kv_storage),
        row=row,
        sequence=sequence,
        head=head,
        start=start,
        seen=seen,
        query_index=row - first,
        got_out=out[row, head],
        got_lse=None if lse is None else float(lse[row, head]),
        output_wrong=dim is not None,
    )
    found = (_dominating_key(suspect), _not_a_number(suspect) or explain(suspect))
    return "; ".join([*parts, *(part for part in found if part)])


def _dominating_key(suspect: Suspect) -> str | None:
    """Name logical and physical page of the key that has more than half of the weight."""
    weights = suspect.weights()
    token = suspect.start + int(weights.argmax())
    if not weights.max() > 0.5:
        return None
    logical, offset = divmod(token, suspect.page_size)
    page = suspect.pages[logical]
    return (
        f"key {token} has {100 * weights.max():.3g} % of the weight, "
        f"slot {offset} of logical page {logical} in physical page {page}"
    )


def _not_a_number(suspect: Suspect) -> str | None:
    """Say which numbers are NaN or infinite, and whether the poison of unreadable slots explains it."""
    bad = ~np.isfinite(suspect.got_out)
    if not suspect.output_wrong or not bad.any():
        return None
    dims = np.flatnonzero(bad)
    where = "all dims" if bad.all() else f"{dims.size} of {bad.size} dims, {dims[0]} to {dims[-1]}"
    kinds = "NaN" if np.isnan(suspect.got_out[bad]).all() else "NaN or Inf"
    if untouched(suspect.got_out):
        return NEVER_WRITTEN
    words = f"the output is {kinds} in {where}"
    top = float(suspect.logits(suspect.keys).max())
    if top > EXP_OVERFLOW:
        words += f"; logits reach {top:.4g}, where exp overflows float32 unless the maximum is subtracted"
    poison = suspect.tensors.case.poison
    if poison not in ("nan", "inf"):
        return words
    words += f"; slots that no query may read hold {poison}, so one of them was probably read"
    tail = -suspect.seen % suspect.page_size
    if suspect.got_lse is None:
        return words
    place = f"the last page holds {tail} masked slots" if tail else "the last page is full"
    lse_right = bool(
        abs(suspect.got_lse - suspect.reference.lse[suspect.row, suspect.head])
        <= suspect.reference.lse_bound[suspect.row, suspect.head]
    )
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
    return f"{words}, its key too: the lse is {suspect.got_lse:g}; {place}"


def untouched(out: Array) -> bool:
    """Whether all numbers still are the NaN of all ones that fresh output memory holds."""
    # widening keeps the payload; 7 bits of it exist in every storage type
    return bool((np.ascontiguousarray(out).view(np.uint64) >> np.uint64(45) == 0x7FFFF).all())
