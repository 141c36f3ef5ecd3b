"""Public Hypothesis strategies over problems, batches and cases.

Anyone's property test can draw our cases::

    from hypothesis import given
    from pabench.strategies import cases

    @given(cases(families=["needle"], poisons=["nan"]))
    def test_my_kernel(case): ...

Draws shrink towards few short sequences, small pages and few heads.
"""

from pabench.strategies.attention import (
    HIGH_POOL_BYTES,
    captured_cases,
    cases,
    high_page_cases,
    vast_page_cases,
)
from pabench.strategies.cache import APPEND_SCALES, append_cases, high_append_cases, merge_cases
from pabench.strategies.lengths import (
    batches,
    ending_full,
    forks,
    kv_lengths,
    long_batches,
    long_prefill_batches,
    prefill_batches,
    prefix_batches,
    speculative_batches,
)
from pabench.strategies.shapes import (
    GROUP_SIZES,
    HEAD_DIMS,
    PAGE_SIZES,
    TILE_TOKENS,
    feature_fields,
    head_counts,
    problems,
)

__all__ = [
    "APPEND_SCALES",
    "GROUP_SIZES",
    "HEAD_DIMS",
    "HIGH_POOL_BYTES",
    "PAGE_SIZES",
    "TILE_TOKENS",
    "append_cases",
    "batches",
    "captured_cases",
    "cases",
    "ending_full",
    "feature_fields",
    "forks",
    "head_counts",
    "high_append_cases",
    "high_page_cases",
    "kv_lengths",
    "long_batches",
    "long_prefill_batches",
    "merge_cases",
    "prefill_batches",
    "prefix_batches",
    "problems",
    "speculative_batches",
    "vast_page_cases",
]
