# SPDX-License-Identifier: Apache-2.0
"""Checks of decode attention: ``Case x Backend -> Outcome``.  Pure functions; the suite draws the cases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pabench.checks.outcome import PASSED, Outcome, failed
from pabench.checks.watched import inputs_of, watched
from pabench.device.base import Device
from pabench.judge.gather import to_float64
from pabench.judge.reference import Truth, truth
from pabench.judge.verdict import Verdict, judge
from pabench.problem.case import POISONS, Case
from pabench.problem.checks import INT32_MAX
from pabench.problem.dtypes import Array
from pabench.problem.placement import TABLE_TAILS
from pabench.problem.prefix import private_copies
from pabench.problem.tensors import Tensors, build_tensors
from pabench.subjects.backends.base import AttentionOutput, Backend, attend


def check_decode(case: Case, backend: Backend, device: Device) -> Outcome:
    """Output and LSE are within the bound of the dense float64 oracle, and no other memory is written."""
    tensors = build_tensors(case)
    output, wrong = attend_watched(tensors, backend, device)
    return failed(wrong) if wrong else judge_output(tensors, output, backend)


def attend_watched(tensors: Tensors, backend: Backend, device: Device) -> tuple[AttentionOutput, str | None]:
    """Return what a backend answers, and what it wrote or gave that is not its own."""
    output, stray = watched(device, inputs_of(tensors), lambda: attend(backend, tensors))
    views = [] if stray else _views(tensors, output)
    return output, f"the backend returned a view of its inputs: {', '.join(views)}" if views else stray


def _views(tensors: Tensors, output: AttentionOutput) -> list[str]:
    """Which results share memory with what was asked: the next call would change them."""
    asked = {"q": tensors.q, "the cache": tensors.pool.storage, "kv_lens": tensors.kv_lens}
    return [
        f"{name} in {where}"
        for name, result in (("out", output.out), ("lse", output.lse))
        for where, array in asked.items()
        if isinstance(result, np.ndarray) and np.may_share_memory(result, array)
    ]


def check_speculative(case: Case, backend: Backend, device: Device) -> Outcome:
    """Up to 8 query tokens a sequence, each seeing the keys up to its own place, are right like one alone."""
    return check_decode(case, backend, device)


def check_poison(case: Case, backend: Backend, device: Device) -> Outcome:
    """What stands in slots that no query may read changes no bit of the output."""
    variants = {f"{poison} in dead slots": replace(case, poison=poison) for poison in POISONS}
    return _all_alike(case, _built(variants, backend), backend)


def check_table_tail(case: Case, backend: Backend, device: Device) -> Outcome:
    """Unused block-table entries change no bit of the output, however many columns of them there are."""
    variants = {f"{tail} in unused table entries": replace(case, tail=tail) for tail in TABLE_TAILS}
    columns = MORE_COLUMNS[case.seed % len(MORE_COLUMNS)]
    wide = (f"{columns} more columns", _widened(build_tensors(case), columns))
    return _all_alike(case, [*_built(variants, backend), wide], backend)


MORE_COLUMNS = (64, 1, 4096)
"""A table has room for the longest sequence that a server allows, not for the longest that there is."""


def _widened(tensors: Tensors, columns: int) -> Tensors:
    """The same with so many columns more in the block table, of entries that are no pages."""
    table = tensors.layout.block_table
    more = np.full((table.shape[0], columns), -1, table.dtype)
    more[:, ::2] = INT32_MAX
    return replace(tensors, layout=replace(tensors.layout, block_table=np.hstack([table, more])))


def check_placement(case: Case, backend: Backend, device: Device) -> Outcome:
    """Where the pages lie in the pool changes no bit of the output."""
    placements = ["identity", "shuffled", "reversed", *(["high"] if case.placement == "high" else [])]
    variants = {f"{placement} pages": replace(case, placement=placement) for placement in placements}
    return _all_alike(case, _built(variants, backend), backend)


def check_shared_prefix(case: Case, backend: Backend, device: Device) -> Outcome:
    """Sequences that begin with the same pages are right, and as with pages of their own to the last bit.

    Bits may differ where the backend declares that it reads such pages once.
    """
    shared = build_tensors(case)
    reference = truth(shared, backend.profile)
    outputs: list[AttentionOutput] = []
    worst = 0.0
    for words, tensors in (("shared pages", shared), ("pages of their own", private_copies(shared))):
        outputs.append(attend(backend, tensors))
        outcome = judge_output(tensors, outputs[-1], backend, reference=reference)
        if not outcome.passed:
            return replace(outcome, text=f"with {words}: {outcome.text}")
        worst = max(worst, outcome.max_ratio or 0.0)
    difference = (
        None if backend.capabilities.merges_prefixes else find_difference(case, outputs[0], outputs[1])
    )
    if difference:
        return failed(f"shared pages instead of pages of their own change {difference}")
    return replace(PASSED, max_ratio=worst)


def check_views(case: Case, backend: Backend, device: Device) -> Outcome:
    """Strided views of K and V in one pool give the bits of two contiguous arrays."""
    variants = {
        "K and V in two arrays": replace(case, interleaved=False),
        "K and V interleaved in one pool": replace(case, interleaved=True),
    }
    return _all_alike(case, _built(variants, backend), backend)


def check_empty(case: Case, backend: Backend, device: Device) -> Outcome:
    """A row that sees no key gives output 0 and LSE -inf, or its sink, beside rows that see some."""
    tensors = build_tensors(case)
    output = attend(backend, tensors)
    verdict = _verdict(tensors, output, backend)
    if not verdict.passed and verdict.quantity is None:
        return _outcome(verdict)  # not even arrays of the right shape
    for row in _rows_without_keys(case):
        sequence, out = case.batch.sequence_of_row(row), output.out[row]
        what = f"sequence {sequence}, query row {row - int(case.batch.qo_indptr[sequence])}, sees no key"
        if not case.batch.query_lens[sequence] > 1:
            what = f"sequence {sequence} is empty"
        if np.any(out.view(_bits(out)) & _magnitude(out)):
            # bfloat16 is stored as its bits, which say nothing to a reader
            shown = to_float64(out, case.problem.storage) if out.dtype.kind == "u" else out
            return failed(f"{what}: its output must be 0, got {shown.ravel()[:4]}")
        if output.lse is None or case.problem.sinks is not None:
            continue  # a sink as LSE is judged within its bound
        if not np.all(np.isneginf(output.lse[row])):
            return failed(f"{what}: its LSE must be -inf, got {output.lse[row][:4]}")
    return _outcome(verdict)


def _rows_without_keys(case: Case) -> list[int]:
    """Query rows of empty sequences, and causal ones that stand before the first key."""
    batch = case.batch
    found: list[int] = []
    for start, q_len, kv_len in zip(batch.qo_indptr.tolist(), batch.query_lens, batch.kv_lens, strict=False):
        before = q_len - kv_len if case.problem.causal and kv_len else 0
        found += range(start, start + (q_len if kv_len == 0 else max(0, before)))
    return found


def check_repeat(case: Case, backend: Backend, device: Device) -> Outcome:
    """Running the same plan again, under another schedule of the device, gives the same bits."""
    tensors = build_tensors(case)
    plan = backend.plan(tensors)
    backend.run(plan)
    first = backend.fetch(plan)
    judged = judge_output(tensors, first, backend)
    if not judged.passed:
        return judged
    try:
        for again in range(1, 4):
            device.reschedule(case.seed * 4 + again)
            backend.run(plan)
            difference = find_difference(case, backend.fetch(plan), first)
            if difference:
                return failed(f"run {again + 1} under another schedule changes {difference}")
    finally:
        device.reschedule(0)
    return judged


def _built(variants: dict[str, Case], backend: Backend) -> Iterator[tuple[str, Tensors]]:
    """Yield what is special about a spelling, and its tensors, of those that the backend takes."""
    for words, variant in variants.items():
        if not backend.capabilities.why_not(variant):
            yield words, build_tensors(variant)


def _all_alike(case: Case, variants: Iterable[tuple[str, Tensors]], backend: Backend) -> Outcome:
    """Judge spellings of one computation: each right, and all with the bits of the first.

    All ``variants`` hold the same tokens, so that the truth is computed once.
    """
    reference: Truth | None = None
    first: tuple[str, AttentionOutput] | None = None
    worst = 0.0
    for words, tensors in variants:
        reference = reference or truth(tensors, backend.profile)
        output = attend(backend, tensors)
        outcome = judge_output(tensors, output, backend, reference=reference)
        if not outcome.passed:
            return replace(outcome, text=f"with {words}: {outcome.text}")
        worst = max(worst, outcome.max_ratio or 0.0)
        first = first or (words, output)
        difference = find_difference(case, output, first[1])
        if difference:
            return failed(f"{words} instead of {first[0]} changes {difference}")
    return replace(PASSED, max_ratio=worst)


def _verdict(
    tensors: Tensors, output: AttentionOutput, backend: Backend, *, reference: Truth | None = None
) -> Verdict:
    return judge(
        tensors,
        output.out,
        output.lse,
        backend.profile,
        reference=reference,
        allow_missing_lse=not backend.capabilities.lse,
    )


def _outcome(verdict: Verdict) -> Outcome:
    return Outcome(
        passed=verdict.passed, text=verdict.text, max_ratio=verdict.max_ratio, causes=verdict.causes
    )


def judge_output(
    tensors: Tensors, output: AttentionOutput, backend: Backend, *, reference: Truth | None = None
) -> Outcome:
    """Compare ``output`` with the dense truth, which is computed unless the caller has it."""
    return _outcome(_verdict(tensors, output, backend, reference=reference))


def find_difference(case: Case, got: AttentionOutput, first: AttentionOutput) -> str | None:
    """Say where two outputs differ in any bit, or None."""
    pairs = [("output", got.out, first.out)]
    if got.lse is not None and first.lse is not None:
        pairs.append(("LSE", got.lse, first.lse))
    for name, a, b in pairs:
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"the shape or type of the {name}"
        bits = _bits(a)
        where = np.argwhere(a.view(bits) != b.view(bits))
        if where.size:
            row, head, *dim = (int(i) for i in where[0])
            place = f"sequence {case.batch.sequence_of_row(row)}, query head {head}"
            place += f", dim {dim[0]}" if dim else ""
            at = tuple(where[0])
            return f"the {name} in {len(where)} places, first at {place}: {b[at]} became {a[at]}"
    return None


def _bits(array: Array) -> np.dtype[Any]:
    return np.dtype(f"u{array.dtype.itemsize}")


def _magnitude(array: Array) -> int:
    """All bits but the sign: -0 is zero too."""
    return int(np.iinfo(_bits(array)).max >> 1)
