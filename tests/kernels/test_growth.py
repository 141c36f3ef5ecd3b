# SPDX-License-Identifier: Apache-2.0
"""The plan of a growth: loads of a thread's entries overlap, and the number of passes changes no result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.device.disassembler import NVDISASM, disassemble, find_tool
from pabench.device.nvrtc import compile_cubin, nvrtc_installed
from pabench.device.sass import Function, Instruction, parse_sass
from pabench.kernels import alloc_scan
from pabench.kernels.instance import kernel_source
from pabench.kernels.static_sources import file_sources
from pabench.problem.dtypes import Array
from pabench.resources import resource_dir
from tests.support.probe import DEVICE

needs_disassembler = pytest.mark.skipif(
    not nvrtc_installed() or find_tool(NVDISASM) is None,
    reason="needs NVRTC and nvdisasm: pip install pabench[nvrtc]",
)
KERNELS = resource_dir("kernels_cuda")
LEVELS = (
    ("growth.cuh", "length[k] = can_be"),
    ("page_alloc_scan.cu", "tail[k] = block_table["),
    ("page_alloc_scan.cu", "holders[k] = refcounts["),
)
"""File and source of the loads that each thread makes for its entries behind those of the request."""


def compiled(architecture: str) -> Function:
    """``page_alloc_extend`` of a block of 1,024 threads."""
    (source,) = (
        one
        for one in file_sources(KERNELS / alloc_scan.FILE, include_dir=KERNELS)
        if one.label == "1024 threads"
    )
    image = compile_cubin(source.source, architecture, lines=True).image
    return parse_sass(disassemble(image, alloc_scan.FILE))[alloc_scan.EXTEND]


def line_of(file: str, text: str) -> int:
    folder = KERNELS if file == alloc_scan.FILE else KERNELS / "pab"
    (found,) = (n for n, line in enumerate((folder / file).read_text().splitlines(), 1) if text in line)
    return found


def levels(function: Function) -> list[list[int]]:
    """Where the loads of each of ``LEVELS`` stand, those of the first pass."""
    loads = [(n, one.place) for n, one in enumerate(function.instructions) if one.opcode.startswith("LDG.")]
    places = [(file, line_of(file, text)) for file, text in LEVELS]
    return [[n for n, place in loads if place == wanted][: alloc_scan.EACH] for wanted in places]


@needs_disassembler
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a", "sm_100a", "sm_120"])
def test_growth_issues_the_loads_of_four_entries_together(architecture: str) -> None:
    """ "Those of a thread's 4 entries issued together": none of a level waits for another of it."""
    function = compiled(architecture)
    found = levels(function)
    assert [len(loads) for loads in found] == [alloc_scan.EACH] * len(LEVELS)
    for loads in found:
        between: list[Instruction] = function.instructions[loads[0] : loads[-1] + 1]
        for place, load in enumerate(between):
            if place + loads[0] in loads:
                assert not any(load.written() & one.read() for one in between[place + 1 :]), load
    # one way from the lengths to the references, without a turn or a barrier
    way = function.instructions[found[0][0] : found[-1][-1]]
    assert [one.opcode for one in way if one.kind == "control"] == []


def state_of(max_seqs: int, threads: int | None = None) -> alloc_scan.ScanState:
    """A pool of 600 pages of 3 tokens, whose launches have so many threads."""
    sizes: Any = {"num_pages": 600, "page_size": 3, "max_seqs": max_seqs, "max_pages_per_seq": 6}
    state = alloc_scan.new_state(DEVICE, **sizes, blocks=2)
    if threads is None:
        return state
    grower, releaser = (
        DEVICE.load(kernel_source(DEVICE, file, PAB_THREADS=threads))
        for file in (alloc_scan.FILE, alloc_scan.RELEASE_FILE)
    )
    return replace(state, threads=threads, grower=grower, releaser=releaser)


def left_by(state: alloc_scan.ScanState, slots: Array) -> list[bytes]:
    """All that a step leaves, scratch aside."""
    of = state
    copies = of.copies[: alloc_scan.read_status(of).copies]
    arrays = (of.status, of.ring, of.cursor, of.refcounts, of.lengths, of.block_table, of.shared_drops)
    return [np.asarray(array).tobytes() for array in (*arrays, copies, slots)]


def beside(array: Array) -> Any:
    """The same numbers in a part of another array, at no multiple of 16 bytes."""
    whole = np.zeros(array.size + 8, array.dtype)
    start = next(n for n in range(8) if whole[n:].ctypes.data % 16)
    whole[start : start + array.size] = array
    return whole[start : start + array.size]


def copied_pages(state: alloc_scan.ScanState, entries: Array, tokens: Array) -> list[tuple[int, int]]:
    """Pages that a growth copies and slots in them, entry by entry: the last holder keeps its page."""
    holders, found = state.refcounts.astype(np.int64), []
    for sequence, more in zip(entries.tolist(), tokens.tolist(), strict=True):
        if sequence < 0 or more == 0 or (slots := max(0, int(state.lengths[sequence])) % 3) == 0:
            continue
        page = int(state.block_table[sequence, state.lengths[sequence] // 3])
        if holders[page] > 1:
            holders[page] -= 1
            found.append((page, slots))
    return found


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), max_seqs=st.sampled_from([250, 257, 701]))
def test_growth_in_passes_is_growth_in_one_property(seed: int, max_seqs: int) -> None:
    """Blocks of 64 threads have passes of 256 entries; forks write pages that entries of several share."""
    rng = np.random.default_rng(seed)
    DEVICE.reschedule(seed)
    states = [state_of(max_seqs), state_of(max_seqs), state_of(max_seqs, threads=64)]
    order = rng.permutation(max_seqs).astype(np.int32)
    parents, children = np.full((2, max_seqs), -1, np.int32)
    half = max_seqs // 2
    parents[:half], children[:half] = rng.choice(order[:5], half), order[half : 2 * half]
    steps = [np.where(np.arange(max_seqs) < 5, order, -1), rng.permutation(order), rng.permutation(order)]
    for step, entries in enumerate(steps):
        tokens = rng.integers(0, 5, max_seqs)
        prefix = bool(rng.integers(2))
        if step == 2 and rng.integers(2):
            tokens[rng.integers(max_seqs)] = rng.choice([-1, 2**31 - 1, 18])
        found, copied = [], copied_pages(states[0], entries, tokens)
        for number, state in enumerate(states):
            named, counts = (part.astype(np.int32) for part in (entries, tokens))
            if number == 1:
                named, counts = beside(named), beside(counts)
            slots: Any = DEVICE.empty((3 * 600 + 3 * max_seqs,), np.dtype(np.int64))
            alloc_scan.extend(state, named, counts, slots, prefix=prefix)
            found.append(left_by(state, slots))
            done = alloc_scan.read_status(state)
            copies = state.copies[: done.copies]
            assert [(page, slots) for page, _, slots in copies.tolist()] == copied[: done.copies]
            assert done.copies == len(copied) or done.served < max_seqs
            if step == 0:
                alloc_scan.fork(state, parents, children)
        assert found[1:] == [found[0]] * 2
