"""Arrays that end, or begin, at a page of memory that nobody may touch.

A read that strays by one element shows in no output: what was read is masked, or multiplied by 0.  Here it
ends the process, which is a verdict when the suite runs in worker processes.
"""

from __future__ import annotations

from dataclasses import replace

from pabench.checks.attention_checks import judge_output
from pabench.checks.outcome import PASSED, Outcome
from pabench.device.base import Device
from pabench.device.cuda_guards import GuardGranules
from pabench.device.guard_pages import GuardPages, guarded_bytes
from pabench.device.rooms import PlainRooms, in_rooms
from pabench.errors import Unsupported
from pabench.judge.reference import truth
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed
from pabench.problem.tensors import Tensors, build_tensors
from pabench.subjects.backends.base import Backend, attend


def check_guard(case: Case, backend: Backend, device: Device) -> Outcome:
    """No array is read or written before its start or past its end: memory beyond it ends the process."""
    given = snug(build_tensors(case))
    reference = truth(given, backend.profile)
    on_gpu = device.name == "cuda"
    worst = 0.0
    for words, at_end in (("its end", True), ("its start", False)):
        rooms: PlainRooms = (GuardGranules if on_gpu else GuardPages)(device, at_end=at_end)
        # backends that upload nothing through the device read these
        tensors = given if on_gpu else guarded(given, at_end=at_end)
        with in_rooms(device, rooms):
            output = attend(backend, tensors)
        if on_gpu and not rooms.uploads:
            raise Unsupported("its arrays on the GPU are its own copies, which nobody can guard")
        outcome = judge_output(tensors, output, backend, reference=reference)
        if not outcome.passed:
            return replace(outcome, text=f"with a guard page at {words}: {outcome.text}")
        worst = max(worst, outcome.max_ratio or 0.0)
    return replace(PASSED, max_ratio=worst)


def snug(tensors: Tensors) -> Tensors:
    """Return ``tensors`` with a block table as wide as the longest sequence asks for.

    Room beyond it would hide a read of the entry after the last one.
    """
    table = tensors.layout.block_table
    width = max(1, pages_needed(int(max(tensors.kv_lens, default=0)), tensors.layout.page_size))
    return replace(tensors, layout=replace(tensors.layout, block_table=table[:, :width].copy()))


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
    held = guarded_bytes(array.nbytes, at_end=at_end).view(array.dtype).reshape(array.shape)
    held[...] = array
    return held
