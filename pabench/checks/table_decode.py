# SPDX-License-Identifier: Apache-2.0
"""Decodes all sequences of an allocator's trial with the attention kernel, through the allocator's tables."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pabench.checks.outcome import PASSED, Outcome, failed
from pabench.device.base import Device
from pabench.judge.allocators.contents import NOTHING
from pabench.judge.allocators.trial import Trial
from pabench.judge.verdict import judge
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.layout import PageLayout
from pabench.problem.pool import KvPool, pool_shape
from pabench.problem.problem import Problem
from pabench.problem.tensors import Tensors
from pabench.subjects.allocators.results import NULL_PAGE
from pabench.subjects.backends.base import Backend, attend
from pabench.subjects.backends.rawkernel import RawKernelBackend

HEADS, HEAD_DIM = 1, 16


class Decoded(NamedTuple):
    """What a decode through the tables was like.

    Attributes:
        wrong: what is wrong, in words; None when nothing is.
        max_ratio: largest error over its bound; None when there was nothing to decode.
        sequences: how many were decoded.
    """

    wrong: str | None
    max_ratio: float | None
    sequences: int


def decode_through_tables(trial: Trial, device: Device) -> Decoded:
    """Compare a decode of every live sequence with the oracle.

    The kernel sees the slots as the history left them, NaN where nothing was written, and the allocator's
    table; the oracle sees the tokens of each sequence in pages of its own.  Sequences that a sliding window
    took pages from are left out: the kernel reads whole sequences.
    """
    table, contents = trial.subject.block_table(), trial.contents
    whole = {
        s: r.serials[0] for s, r in sorted(contents.live.items()) if NULL_PAGE not in trial.subject.pages(s)
    }
    if not whole:
        return Decoded(None, None, 0)
    page_size = trial.subject.shape.page_size
    written = contents.slots()
    problem = Problem(
        num_qo_heads=HEADS, num_kv_heads=HEADS, head_dim=HEAD_DIM, page_size=page_size, dtype="float32"
    )
    case = Case(problem=problem, batch=Batch(kv_lens=tuple(len(serials) for serials in whole.values())))
    rows = table[list(whole)]
    seen = _tensors(case, written, np.ascontiguousarray(rows))
    # the same tokens, sequence behind sequence
    width = rows.shape[1]
    apart = np.full((len(whole), width * page_size), NOTHING, np.int64)
    for at, serials in enumerate(whole.values()):
        apart[at, : serials.size] = serials
    own = np.arange(len(whole) * width, dtype=np.int32).reshape(len(whole), width)
    meant = _tensors(case, apart.reshape(-1), own)
    # where the device is in the subject's process, so is our kernel; what it promises is known here
    elsewhere = getattr(device, "own_backend", None)
    backend: Backend = RawKernelBackend(device) if elsewhere is None else elsewhere()
    output = attend(backend, seen)
    verdict = judge(meant, output.out, output.lse, RawKernelBackend.profile)
    if verdict.passed:
        return Decoded(None, verdict.max_ratio, len(whole))
    names = ", ".join(f"{at} is {sequence}" for at, sequence in enumerate(whole))
    said = f"decoding through the tables ({names}): {verdict.text}"
    return Decoded(said, verdict.max_ratio, len(whole))


def judge_tables(trial: Trial, device: Device) -> Outcome:
    """Decode every live sequence through the tables and compare with the oracle."""
    decoded = decode_through_tables(trial, device)
    if decoded.wrong is not None:
        return failed(decoded.wrong, max_ratio=decoded.max_ratio)
    return Outcome(passed=True, text=PASSED.text, max_ratio=decoded.max_ratio)


def _tensors(case: Case, serials: Array, table: Array) -> Tensors:
    """Queries from the sequence's place, keys and values from the serial number of each slot's token."""
    problem = case.problem
    num_pages = serials.size // problem.page_size
    shape = pool_shape(problem, num_pages, kv_layout=case.kv_layout, interleaved=case.interleaved)
    pool = KvPool(
        storage=np.full(shape, np.nan, np.float32), kv_layout=case.kv_layout, interleaved=case.interleaved
    )
    written = np.flatnonzero(serials != NOTHING)
    # a serial has the same numbers however many there are
    drawn = np.random.default_rng(0).normal(size=(int(serials.max(initial=0)) + 1, 2, HEADS, HEAD_DIM))
    pages, offsets = np.divmod(written, problem.page_size)
    pool.k[pages, offsets], pool.v[pages, offsets] = drawn[serials[written]].swapaxes(0, 1).astype(np.float32)
    queries = np.random.default_rng(0).normal(size=(case.batch.num_seqs, HEADS, HEAD_DIM))
    return Tensors(
        case=case,
        q=queries.astype(np.float32),
        pool=pool,
        layout=PageLayout(page_size=problem.page_size, num_pages=num_pages, block_table=table),
        kv_lens=np.asarray(case.batch.kv_lens, np.int32),
        qo_indptr=case.batch.qo_indptr,
    )
