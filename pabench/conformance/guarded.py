"""Arrays that end, or begin, at a page of memory that nobody may touch.

A read that strays by one element shows in no output: what was read is masked, or multiplied by 0.  Here it
ends the process, which is a verdict when the suite runs in worker processes.
"""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import replace

import numpy as np

from pabench.backends.base import Backend, attend
from pabench.conformance.attention_checks import judge_output
from pabench.conformance.outcome import PASSED, Outcome
from pabench.device.base import Device
from pabench.errors import EnvironmentRefused, Unsupported
from pabench.oracle.reference import truth
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.tensors import Tensors, build_tensors

PROT_NONE = 0
ALIGNMENT = 16
"""Bytes that a cache and queries are aligned to where their sizes allow: kernels move 16 bytes at once."""


def check_guard(case: Case, backend: Backend, device: Device) -> Outcome:
    """No array is read before its start or past its end: memory beyond it ends the process."""
    if device.name == "cuda":
        raise Unsupported("arrays on a GPU are copies, which no page of host memory can guard")
    given = build_tensors(case)
    reference = truth(given, backend.profile)
    worst = 0.0
    for words, at_end in (("its end", True), ("its start", False)):
        tensors = guarded(given, at_end=at_end)
        outcome = judge_output(tensors, attend(backend, tensors), backend, reference=reference)
        if not outcome.passed:
            return replace(outcome, text=f"with a guard page at {words}: {outcome.text}")
        worst = max(worst, outcome.max_ratio or 0.0)
    return replace(PASSED, max_ratio=worst)


def guarded(tensors: Tensors, *, at_end: bool) -> Tensors:
    """Return ``tensors`` with each array copied to memory that ends (or begins) at a guard page."""

    def copy(array: Array) -> Array:
        return guarded_copy(array, at_end=at_end)

    return replace(
        tensors,
        q=copy(tensors.q),
        pool=tensors.pool.with_storage(copy(tensors.pool.storage)),
        layout=replace(tensors.layout, block_table=copy(tensors.layout.block_table)),
        kv_lens=copy(tensors.kv_lens),
        qo_indptr=copy(tensors.qo_indptr),
    )


def guarded_copy(array: Array, *, at_end: bool) -> Array:
    """Return a contiguous copy of ``array`` between two guard pages, flush with the one asked for.

    Its alignment is that of its elements, and 16 bytes where its size is a multiple of them.

    Raises:
        EnvironmentRefused: the system gives no such memory.
    """
    size = array.nbytes
    if size == 0:
        return array.copy()
    page = mmap.PAGESIZE
    body = -(-size // page) * page
    region = mmap.mmap(-1, body + 2 * page)
    start = np.frombuffer(region, np.uint8).ctypes.data
    libc = ctypes.CDLL(None, use_errno=True)
    for guard in (start, start + page + body):
        if libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), PROT_NONE):
            raise EnvironmentRefused(f"no guard page: mprotect gave error {ctypes.get_errno()}")
    offset = page + (body - size if at_end else 0)
    held = np.frombuffer(region, array.dtype, count=array.size, offset=offset).reshape(array.shape)
    held[...] = array
    return held
