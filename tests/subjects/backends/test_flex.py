# SPDX-License-Identifier: Apache-2.0
"""FlexAttention through torch's PagedAttention: right where it is, and what it does elsewhere shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import flex_attention

from pabench.errors import EnvironmentRefused, Unsupported
from pabench.problem import build_tensors
from pabench.problem.dtypes import DTYPES
from pabench.subjects.backends.adapters import table
from pabench.subjects.backends.adapters.torch_flex import TorchFlexBackend
from tests.support.adapter_support import Gpu, Host, adapter, make_case, narrower, verdict_of

SEVERAL: dict[str, Any] = {"kv_lens": (33, 5, 2), "q_lens": (7, 5, 0)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_flex_decodes_every_dtype(dtype: str) -> None:
    backend = adapter("torch-flex")
    verdict = verdict_of(backend, make_case(dtype=dtype, kv_lens=(33, 0, 5)))
    assert verdict.passed, verdict.text
    assert backend.mode == "eager"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("features", "options"),
    [
        ({}, {"kv_layout": "HND", "interleaved": True}),
        ({}, {"kv_lens": (2, 9), "q_lens": (5, 1)}),
        ({"causal": False}, SEVERAL),
        ({"window": 4, "soft_cap": 2.0, "alibi_slopes": (0.5, 0.25, 0.0, -1.0)}, SEVERAL),
        ({"window": 3, "causal": False, "sm_scale": 0.7}, SEVERAL),
    ],
)
def test_flex_has_rows_masks_and_scores(features: dict[str, Any], options: dict[str, Any]) -> None:
    verdict = verdict_of(adapter("torch-flex"), make_case(features=features, **options))
    assert verdict.passed, verdict.text


def test_flex_takes_a_batch_without_rows_or_keys() -> None:
    for options in ({"kv_lens": (3,), "q_lens": (0,)}, {"kv_lens": (0, 0), "spare_pages": 0}):
        verdict = verdict_of(adapter("torch-flex"), make_case(**options))
        assert verdict.passed, verdict.text


def test_flex_rounds_its_weights_as_its_profile_says() -> None:
    backend, case = adapter("torch-flex"), make_case(dtype="bfloat16", kv_lens=(300,), head_dim=64)
    assert verdict_of(backend, case).passed
    assert not verdict_of(backend, case, narrower(backend)).passed


def test_flex_shows_what_dead_slots_do_uncompiled() -> None:
    verdict = verdict_of(adapter("torch-flex"), make_case(poison="nan"))
    assert not verdict.passed
    assert "got nan" in verdict.text


def test_flex_declines_what_scoring_every_slot_would_not_fit() -> None:
    case = make_case(placement="high", page_size=16, heads=(16, 2), head_dim=128)
    assert "every slot of the pool is scored" in str(adapter("torch-flex").capabilities.why_not(case))
    assert adapter("torch-flex").capabilities.why_not(replace(case, placement="shuffled")) is None


def test_flex_leaves_the_switch_of_torch_as_it_was() -> None:
    backend, tensors = adapter("torch-flex"), build_tensors(make_case())
    before = flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG
    plan = backend.plan(tensors)
    backend.run(plan)
    first = backend.fetch(plan)
    backend.run(plan)
    assert backend.fetch(plan).out.tobytes() == first.out.tobytes()
    assert flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG is before


def test_flex_refuses_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentRefused, match="'torch-flex' on device 'cuda'"):
        TorchFlexBackend(Gpu())  # type: ignore[arg-type]


def test_flex_of_an_old_torch_is_unsupported_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    old = replace(table.TORCH, version="99.0")
    monkeypatch.setattr("pabench.subjects.backends.adapters.torch_flex.TORCH", old)
    with pytest.raises(
        Unsupported, match=r"must be 99.0 or newer; pip install 'pabench\[torch\]' 'torch>=99.0'"
    ):
        TorchFlexBackend(Host())  # type: ignore[arg-type]
