"""Decode attention over a paged cache: what every backend must do."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from pabench.activities.conformance.examiner import Examiner
from pabench.checks.registry import check_by_id
from pabench.problem.families import FAMILIES
from pabench.strategies import (
    captured_cases,
    cases,
    high_page_cases,
    long_batches,
    prefix_batches,
    speculative_batches,
    vast_page_cases,
)
from pabench.workloads.captured import capture_in_use


def drawable(examiner: Examiner) -> dict[str, Any]:
    """Arguments of ``cases`` that keep to what the backend declares."""
    return {**examiner.choices, "features": examiner.features, "supported": examiner.supports}


ABOUT = {
    "soft-cap": "Logits go through cap * tanh(x / cap) before bias and mask.",
    "window": "A row sees the last keys only; pages before its window may hold anything.",
    "alibi": "A bias of slope times distance, a slope for each query head, is in output and LSE.",
    "sinks": "A logit for each query head joins the sum of weights once, and the LSE, and never the output.",
    "fp8-kv": "A cache of e4m3 with scales for K and V, per tensor or per KV head, in output and LSE.",
}


ONE_FAULT = ("waves", "faint", "far-negative", "large-value", "small-value")
"""Families whose fault shows in nearly every case that they draw."""


@pytest.mark.parametrize("family", FAMILIES)
def test_decode_matches_oracle(backend_examiner: Examiner, family: str) -> None:
    drawn = cases(families=[family], **drawable(backend_examiner))
    about = (FAMILIES[family].__doc__ or family).splitlines()[0]
    share = 0.5 if family in ONE_FAULT else 1.0
    backend_examiner.examine(check_by_id("decode"), drawn, label=family, about=about, share=share)


@pytest.mark.parametrize("feature", ABOUT)
def test_decode_features(backend_examiner: Examiner, feature: str) -> None:
    families = ["normal", "needle", "spotlight", "window-edge", "saturating", "one-hot", "marker"]
    drawn = cases(families=families, required=[feature], **drawable(backend_examiner))
    about = ABOUT[feature]
    backend_examiner.examine(check_by_id("decode"), drawn, label=feature, about=about, needs=feature)


def test_decode_captured_activations(backend_examiner: Examiner) -> None:
    capture, choices = capture_in_use(), backend_examiner.choices
    head_dim = capture.problem(page_size=1, dtype=capture.dtype).head_dim
    if head_dim > backend_examiner.max_head_dim:
        pytest.skip(f"{backend_examiner.subject} offers no head_dim {head_dim}, which was captured")
    del choices["head_dims"]
    drawn = captured_cases(capture, **choices, supported=backend_examiner.supports)
    about = f"Queries, keys and values that {capture.name} made: outliers and sinks that random data lacks."
    backend_examiner.examine(check_by_id("decode"), drawn, label="captured", about=about, share=0.5)


def test_decode_long_sequences(backend_examiner: Examiner) -> None:
    choices = drawable(backend_examiner) | {"head_dims": backend_examiner.head_dims([16, 128])}
    families = ["marker", "normal", "needle", "spotlight", "ascending"]
    drawn = cases(families=families, batch=long_batches, **choices)
    about = "Sequences of up to 3,000 tokens: many tiles, many pages, split keys and their merge."
    backend_examiner.examine(check_by_id("decode"), drawn, label="long", about=about)


def test_decode_wide_heads(backend_examiner: Examiner) -> None:
    wide = [size for size in (192, 256) if size <= backend_examiner.max_head_dim]
    unasked = None if wide else f"{backend_examiner.subject} offers no head_dim above 128"
    choices = drawable(backend_examiner) | {"head_dims": wide or [192]}
    drawn = cases(families=["marker", "normal", "needle"], max_len=100, **choices)
    about = "head_dim 192 and 256, for which kernels often have code of their own."
    words = {"label": "wide-heads", "about": about, "unasked": unasked}
    backend_examiner.examine(check_by_id("decode"), drawn, share=0.5, **words)


def test_decode_high_page_ids(backend_examiner: Examiner) -> None:
    choices = drawable(backend_examiner)
    del choices["head_dims"], choices["features"]
    drawn = high_page_cases(**choices)
    about = "Page ids around and above 65,536, where an id cut to 16 bits names another page."
    backend_examiner.examine(check_by_id("decode"), drawn, label="high-page-ids", about=about, share=0.5)


def test_decode_vast_pools(backend_examiner: Examiner) -> None:
    emulated = backend_examiner.device.name == "emulated"
    unasked = None if emulated else "a pool larger than memory can be reserved on the emulated device alone"
    choices = drawable(backend_examiner)
    del choices["head_dims"], choices["features"]
    drawn = vast_page_cases(**choices)
    about = "Pages beyond 2 and 4 GiB, and beyond 2^31 and 2^32 elements, where an offset of 32 bits wraps."
    words = {"label": "vast-pools", "about": about, "unasked": unasked}
    backend_examiner.examine(check_by_id("decode"), drawn, share=0.5, **words)


def test_speculative_decode(backend_examiner: Examiner) -> None:
    families = ["marker", "normal", "needle", "ascending", "all-negative"]
    drawn = cases(families=families, batch=speculative_batches, **drawable(backend_examiner))
    backend_examiner.examine(check_by_id("speculative"), drawn)


def test_dead_slots_change_nothing(backend_examiner: Examiner) -> None:
    drawn = cases(families=["normal", "needle", "all-negative"], **drawable(backend_examiner))
    backend_examiner.examine(check_by_id("poison"), drawn)


def test_unused_table_entries_change_nothing(backend_examiner: Examiner) -> None:
    drawn = cases(families=["normal", "needle"], poisons=["nan"], **drawable(backend_examiner))
    backend_examiner.examine(check_by_id("table-tail"), drawn)


def test_page_placement_changes_nothing(backend_examiner: Examiner) -> None:
    drawn = cases(families=["normal", "needle", "one-hot"], **drawable(backend_examiner))
    backend_examiner.examine(check_by_id("placement"), drawn)


def test_shared_prefixes(backend_examiner: Examiner) -> None:
    choices = drawable(backend_examiner) | {"head_dims": backend_examiner.head_dims([16, 128])}
    drafts = backend_examiner.offers("speculative") or backend_examiner.offers("prefill")
    batch = prefix_batches if drafts else partial(prefix_batches, max_rows=1)
    families = ["normal", "needle", "spotlight", "marker", "ascending"]
    drawn = cases(families=families, batch=batch, sharing=True, **choices)
    backend_examiner.examine(check_by_id("shared-prefix"), drawn.filter(lambda case: case.shared_prefix))


def test_strided_views_change_nothing(backend_examiner: Examiner) -> None:
    drawn = cases(families=["normal", "needle"], poisons=["nan"], **drawable(backend_examiner))
    backend_examiner.examine(check_by_id("views"), drawn)


def test_empty_sequences(backend_examiner: Examiner) -> None:
    drawn = cases(poisons=["nan", "zero"], **drawable(backend_examiner)).filter(
        lambda case: 0 in case.batch.kv_lens
    )
    backend_examiner.examine(check_by_id("empty"), drawn)


def test_runs_repeat_bit_for_bit(backend_examiner: Examiner) -> None:
    drawn = cases(families=["normal", "ascending"], **drawable(backend_examiner))
    backend_examiner.examine(check_by_id("repeat"), drawn)


def test_large_page_ids_change_nothing(backend_examiner: Examiner) -> None:
    choices = drawable(backend_examiner)
    del choices["head_dims"], choices["features"]
    about = "The same tokens at low page ids and beyond 65,536 give the same bits."
    drawn = high_page_cases(**choices)
    backend_examiner.examine(check_by_id("placement"), drawn, label="high-page-ids", about=about, share=0.1)
