# SPDX-License-Identifier: Apache-2.0
"""Page allocators: histories of a state machine, large calls, and threads that serve at the same time."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import strategies as st

from pabench.checks.allocator_checks import check_concurrent, check_history, check_table_decode
from pabench.checks.allocator_histories import corners, crowd, large_pool, long_rows, rounds, thousand
from pabench.checks.allocator_machine import AllocatorMachine, DecodingMachine, GroupMachine, ImageMachine
from pabench.checks.allocator_reuse_machine import ReuseMachine
from pabench.checks.allocator_tier_machine import TierMachine
from pabench.checks.question import AllocatorCheck, AllocatorQuestion, AllocatorRange
from pabench.judge.allocators.history import HistoryCase
from pabench.judge.allocators.operations import Operation
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.capabilities import Capabilities

Histories = st.SearchStrategy[HistoryCase]


def _launches(num_pages: int) -> st.SearchStrategy[Operation]:
    """All take, all give, both, four requests a page, and any number of threads.

    Counts come from a seed: drawn one by one they would mostly be few.
    """
    crowd = st.just([1] * min(4 * num_pages, 300))
    powers = st.integers(0, 8).map(lambda exponent: [1] * 2**exponent)
    counts: st.SearchStrategy[list[int]] = (
        st.just([]) | crowd | powers | _mixed(num_pages) | _mixed(num_pages)
    )
    frees = st.sampled_from([0, 0, 1, num_pages // 2, num_pages])
    return st.builds(lambda counts, frees: ("launch", {"counts": counts, "frees": frees}), counts, frees)


def _mixed(num_pages: int) -> st.SearchStrategy[list[int]]:
    """Requests of many sizes, one that no pool could serve among them now and then."""

    def drawn(seed: int) -> list[int]:
        rng = random.Random(seed)
        most = rng.choice([3, 6, num_pages // 2 + 1, num_pages + 1])
        return [rng.randint(0, most) for _ in range(rng.choice([3, 4, 6, 40, 140]))]

    return st.integers(0, 10**6).map(drawn)


def _churns() -> st.SearchStrategy[Operation]:
    """Many threads on whatever is free."""
    values = st.tuples(st.sampled_from([32, 64, 256]), st.integers(5, 30), st.integers(1, 3))
    return values.map(lambda v: ("churn", {"threads": v[0], "rounds": v[1], "most": v[2]}))


@st.composite
def concurrent_histories(draw: st.DrawFn) -> HistoryCase:
    """A few launches on one pool, one hot page among the sizes; at the end all pages are taken once more."""
    num_pages = draw(st.sampled_from([1, 2, 3, 4, 7, 16, 64, 200]))
    steps = draw(st.lists(_launches(num_pages) | _churns(), min_size=1, max_size=3))
    if draw(st.booleans()):
        # of three, the second does not fit what the first leaves, the third just does
        first = draw(st.integers(1, num_pages))
        counts = [first, num_pages - first + 1, num_pages - first]
        steps.insert(0, ("launch", {"counts": counts, "frees": 0}))
    shape = PoolShape(num_pages=num_pages, page_size=1, max_seqs=1, max_pages_per_seq=1)
    return HistoryCase(shape=shape, operations=(*steps, ("drain", {})))


def _drawn(build: Callable[[int, Capabilities], HistoryCase]) -> Callable[[AllocatorRange], Histories]:
    """Histories that follow from a seed."""
    return lambda declared: st.integers(0, 2**16).map(lambda seed: build(seed, declared.can))


def _rounds(declared: AllocatorRange) -> Histories:
    """2,500 sequences of the quick profile, 10,000 from the default one on."""
    frees = 25 * min(declared.runs, MANY_RUNS)
    return st.integers(0, 2**16).map(lambda seed: rounds(seed, declared.can, frees))


def _no_batches(declared: AllocatorRange) -> str | None:
    offered = "append_batch" in declared.can.operations
    return None if offered else f"{declared.subject} offers no append_batch"


def _no_corners(declared: AllocatorRange) -> str | None:
    offered = {"fork", "commit"} & declared.can.operations
    return None if offered else f"{declared.subject} shares no pages"


def _no_groups(declared: AllocatorRange) -> str | None:
    return None if declared.can.groups else f"{declared.subject} keeps no KV groups"


def _no_tiers(declared: AllocatorRange) -> str | None:
    offered = {"move_down", "load", "end_copy", "commit", "lookup"} <= declared.can.operations
    return None if offered else f"{declared.subject} has one tier"


def _no_reuse(declared: AllocatorRange) -> str | None:
    can = declared.can
    plain = not can.partial and can.forks == "shared" and "retain" not in can.operations
    return f"{declared.subject} shares full pages alone and keeps no priorities" if plain else None


def _no_images(declared: AllocatorRange) -> str | None:
    return None if declared.can.images else f"{declared.subject} keeps no images apart"


def _with_time(declared: AllocatorRange) -> str | None:
    return (
        None if declared.runs >= MANY_RUNS else "takes seconds a history: asked from the default profile on"
    )


def _batches_with_time(declared: AllocatorRange) -> str | None:
    return _no_batches(declared) or _with_time(declared)


INVARIANTS = AllocatorCheck(id="allocator-invariants", run=check_history)
DECODE = AllocatorCheck(id="allocator-decode", run=check_table_decode)
CONCURRENT = AllocatorCheck(id="allocator-concurrent", run=check_concurrent)

MANY_RUNS = 400
"""Histories of a profile that has the time for what takes seconds."""

ALLOCATORS = (
    AllocatorQuestion(
        check=INVARIANTS,
        clauses=(*(f"P{number}" for number in range(1, 14)), "P16", "P23"),
        machine=AllocatorMachine,
    ),
    AllocatorQuestion(check=DECODE, clauses=("P1", "P4", "P9"), machine=DecodingMachine, share=0.25),
    AllocatorQuestion(
        check=INVARIANTS,
        clauses=("P17",),
        machine=GroupMachine,
        label="groups",
        about="Full, window and state layers share one pool: each keeps what its next query needs.",
        share=0.5,
        unasked=_no_groups,
    ),
    AllocatorQuestion(
        check=INVARIANTS,
        clauses=("P19",),
        machine=TierMachine,
        label="tiers",
        about="Cached pages move to a lower tier and come back as they were; what is pinned stays.",
        share=0.4,
        unasked=_no_tiers,
    ),
    AllocatorQuestion(
        check=INVARIANTS,
        clauses=("P20", "P21", "P22"),
        machine=ReuseMachine,
        label="reuse",
        about="Hits that go on within a page, forks that copy at once, pages that go by priority.",
        share=0.3,
        unasked=_no_reuse,
    ),
    AllocatorQuestion(
        check=INVARIANTS,
        clauses=("P18",),
        machine=ImageMachine,
        label="images",
        about="The same tokens with another image, or with it in another place, are no hit.",
        share=0.2,
        unasked=_no_images,
    ),
    AllocatorQuestion(
        check=INVARIANTS,
        clauses=("P8", "P9"),
        draw=_drawn(corners),
        label="corners",
        about="A cached page that is written over is no hit, and a copy that has no page is refused.",
        runs=4,
        unasked=_no_corners,
    ),
    AllocatorQuestion(
        check=INVARIANTS,
        clauses=("P1", "P2"),
        draw=_drawn(long_rows),
        label="long-rows",
        about="A call for more pages than blocks have threads serves each of them.",
        runs=4,
        unasked=_no_batches,
    ),
    AllocatorQuestion(
        check=INVARIANTS,
        clauses=("P1", "P2", "P4"),
        draw=_drawn(thousand),
        label="thousand",
        about="A step of up to 1,000 sequences, on pages of 16 to 128 tokens, serves each of them.",
        runs=1,
        unasked=_no_batches,
    ),
    AllocatorQuestion(
        check=INVARIANTS,
        clauses=("P1", "P2"),
        draw=_drawn(crowd),
        label="crowd",
        about="A call for more sequences than a block has threads serves each of them.",
        runs=1,
        unasked=_batches_with_time,
    ),
    AllocatorQuestion(
        check=INVARIANTS,
        clauses=("P1", "P2", "P4"),
        draw=_drawn(large_pool),
        label="large-pool",
        about="A pool of more pages than 16 bits name grants each of them once.",
        runs=1,
        unasked=_with_time,
    ),
    AllocatorQuestion(
        check=INVARIANTS,
        clauses=("P7", "P15"),
        draw=_rounds,
        label="rounds",
        about="After thousands of sequences have ended no page is lost and no memory kept.",
        runs=1,
    ),
    AllocatorQuestion(check=CONCURRENT, clauses=("P14",), draw=lambda declared: concurrent_histories()),
)
