"""Page allocators whose threads serve requests at the same time: launches, and churn on few pages."""

from __future__ import annotations

import random

from hypothesis import strategies as st

from pabench.activities.conformance.examiner import Examiner
from pabench.judge.allocators.history import HistoryCase
from pabench.judge.allocators.operations import Operation
from pabench.subjects.allocators.base import PoolShape


def launches(num_pages: int) -> st.SearchStrategy[Operation]:
    """All take, all give, both, four requests a page, and any number of threads.

    Counts come from a seed: drawn one by one they would mostly be few.
    """
    crowd = st.just([1] * min(4 * num_pages, 300))
    powers = st.integers(0, 8).map(lambda exponent: [1] * 2**exponent)
    counts: st.SearchStrategy[list[int]] = st.just([]) | crowd | powers | mixed(num_pages) | mixed(num_pages)
    frees = st.sampled_from([0, 0, 1, num_pages // 2, num_pages])
    return st.builds(lambda counts, frees: ("launch", {"counts": counts, "frees": frees}), counts, frees)


def mixed(num_pages: int) -> st.SearchStrategy[list[int]]:
    """Requests of many sizes, one that no pool could serve among them now and then."""

    def drawn(seed: int) -> list[int]:
        rng = random.Random(seed)
        most = rng.choice([3, 6, num_pages // 2 + 1, num_pages + 1])
        return [rng.randint(0, most) for _ in range(rng.choice([3, 4, 6, 40, 140]))]

    return st.integers(0, 10**6).map(drawn)


def churns() -> st.SearchStrategy[Operation]:
    """Many threads on whatever is free."""
    values = st.tuples(st.sampled_from([32, 64, 256]), st.integers(5, 30), st.integers(1, 3))
    return values.map(lambda v: ("churn", {"threads": v[0], "rounds": v[1], "most": v[2]}))


@st.composite
def histories(draw: st.DrawFn) -> HistoryCase:
    """A few launches on one pool, one hot page among the sizes; at the end all pages are taken once more."""
    num_pages = draw(st.sampled_from([1, 2, 3, 4, 7, 16, 64, 200]))
    steps = draw(st.lists(launches(num_pages) | churns(), min_size=1, max_size=3))
    if draw(st.booleans()):
        # of three, the second does not fit what the first leaves, the third just does
        first = draw(st.integers(1, num_pages))
        counts = [first, num_pages - first + 1, num_pages - first]
        steps.insert(0, ("launch", {"counts": counts, "frees": 0}))
    shape = PoolShape(num_pages=num_pages, page_size=1, max_seqs=1, max_pages_per_seq=1)
    return HistoryCase(shape=shape, operations=(*steps, ("drain", {})))


def test_allocator_threads_do_not_share_pages(allocator_examiner: Examiner) -> None:
    allocator_examiner.examine_histories("allocator-concurrent", histories())
