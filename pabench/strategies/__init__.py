# SPDX-License-Identifier: Apache-2.0
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
    huge_pool_cases,
)
from pabench.strategies.cache import APPEND_SCALES, append_cases, high_append_cases, merge_cases
from pabench.strategies.lengths import (
    batches,
    batches_of_pages,
    crowded_batches,
    ending_full,
    far_batches,
    forks,
    kv_lengths,
    long_batches,
    long_prefill_batches,
    many_row_batches,
    prefill_batches,
    prefix_batches,
    speculative_batches,
    tile_end_batches,
)
from pabench.strategies.shapes import (
    ALL_HEAD_DIMS,
    ALL_PAGE_SIZES,
    GROUP_SIZES,
    HEAD_DIMS,
    LARGE_GROUPS,
    LARGE_PAGE_SIZES,
    OTHER_HEAD_DIMS,
    PAGE_SIZES,
    TILE_TOKENS,
    WIDE_HEAD_DIMS,
    feature_fields,
    head_counts,
    large_groups,
    many_kv_heads,
    problems,
)

__all__ = [
    "ALL_HEAD_DIMS",
    "ALL_PAGE_SIZES",
    "APPEND_SCALES",
    "GROUP_SIZES",
    "HEAD_DIMS",
    "HIGH_POOL_BYTES",
    "LARGE_GROUPS",
    "LARGE_PAGE_SIZES",
    "OTHER_HEAD_DIMS",
    "PAGE_SIZES",
    "TILE_TOKENS",
    "WIDE_HEAD_DIMS",
    "append_cases",
    "batches",
    "batches_of_pages",
    "captured_cases",
    "cases",
    "crowded_batches",
    "ending_full",
    "far_batches",
    "feature_fields",
    "forks",
    "head_counts",
    "high_append_cases",
    "high_page_cases",
    "huge_pool_cases",
    "kv_lengths",
    "large_groups",
    "long_batches",
    "long_prefill_batches",
    "many_kv_heads",
    "many_row_batches",
    "merge_cases",
    "prefill_batches",
    "prefix_batches",
    "problems",
    "speculative_batches",
    "tile_end_batches",
]
