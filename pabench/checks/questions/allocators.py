"""Page allocators: histories of a state machine, large calls, and threads that serve at the same time."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from pabench.checks.allocator_checks import check_concurrent, check_history, check_table_decode
from pabench.checks.allocator_machine import AllocatorMachine, DecodingMachine
from pabench.checks.question import AllocatorCheck, AllocatorQuestion, AllocatorRange
from pabench.judge.allocators.history import HistoryCase
from pabench.judge.allocators.operations import Operation
from pabench.subjects.allocators.base import PoolShape


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


MOST_THREADS = 1024  # of a block: what serves sequences by one goes round again


def _crowd(seed: int) -> HistoryCase:
    """More sequences in one call than a block has threads, and more pages than two blocks have."""
    count = MOST_THREADS + 36
    everybody = list(range(count))
    alloc = {"final_tokens": None, "stream": 0, "adapter": "", "salt": ""}
    steps: list[Operation] = [("alloc", {"sequence": s, "tokens": 1 + s % 2, **alloc}) for s in everybody]
    random.Random(seed).shuffle(everybody)
    steps.append(("append_batch", {"sequences": everybody, "tokens": [1] * count}))
    steps.append(("free", {"sequences": everybody}))
    shape = PoolShape(num_pages=3 * count, page_size=1, max_seqs=count, max_pages_per_seq=3)
    return HistoryCase(shape=shape, operations=tuple(steps))


def _long_rows(seed: int) -> HistoryCase:
    """Few sequences of so many pages that a call has more of them than small blocks have threads."""
    rng = random.Random(seed)
    count, page_size = 5, rng.choice([1, 3])
    lengths = [page_size * rng.randint(70, 100) + rng.randrange(page_size) for _ in range(count)]
    alloc = {"final_tokens": None, "stream": 0, "adapter": "", "salt": ""}
    first = [rng.randint(1, length - 1) for length in lengths]
    steps: list[Operation] = [
        ("alloc", {"sequence": sequence, "tokens": tokens, **alloc}) for sequence, tokens in enumerate(first)
    ]
    rest = [length - tokens for length, tokens in zip(lengths, first, strict=True)]
    steps.append(("append_batch", {"sequences": list(range(count)), "tokens": rest}))
    steps.append(("free", {"sequences": rng.sample(range(count), count)}))
    shape = PoolShape(num_pages=count * 101, page_size=page_size, max_seqs=count, max_pages_per_seq=101)
    return HistoryCase(shape=shape, operations=tuple(steps))


def _no_batches(declared: AllocatorRange) -> str | None:
    offered = "append_batch" in declared.can.operations
    return None if offered else f"{declared.subject} offers no append_batch"


def _no_crowd(declared: AllocatorRange) -> str | None:
    if (why := _no_batches(declared)) is not None:
        return why
    return (
        None if declared.runs >= CROWD_RUNS else "takes seconds a history: asked from the default profile on"
    )


INVARIANTS = AllocatorCheck(id="allocator-invariants", run=check_history)
DECODE = AllocatorCheck(id="allocator-decode", run=check_table_decode)
CONCURRENT = AllocatorCheck(id="allocator-concurrent", run=check_concurrent)

CROWD_RUNS = 400
"""Histories of a profile that has the time for a crowd."""

ALLOCATORS = (
    AllocatorQuestion(
        check=INVARIANTS,
        clauses=tuple(f"P{number}" for number in range(1, 14)),
        machine=AllocatorMachine,
    ),
    AllocatorQuestion(check=DECODE, clauses=("P1", "P4", "P9"), machine=DecodingMachine, share=0.25),
    AllocatorQuestion(
        check=INVARIANTS,
        clauses=("P1", "P2"),
        draw=lambda: st.integers(0, 2**16).map(_long_rows),
        label="long-rows",
        about="A call for more pages than blocks have threads serves each of them.",
        runs=4,
        unasked=_no_batches,
    ),
    AllocatorQuestion(
        check=INVARIANTS,
        clauses=("P1", "P2"),
        draw=lambda: st.integers(0, 2**16).map(_crowd),
        label="crowd",
        about="A call for more sequences than a block has threads serves each of them.",
        runs=1,
        unasked=_no_crowd,
    ),
    AllocatorQuestion(check=CONCURRENT, clauses=("P14",), draw=concurrent_histories),
)
