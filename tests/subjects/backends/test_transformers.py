# SPDX-License-Identifier: Apache-2.0
"""The attention functions of transformers' continuous batching: right where it is, and the rest shows."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

from pabench.errors import Unsupported
from pabench.problem import build_tensors
from pabench.problem.dtypes import DTYPES
from pabench.subjects.backends.adapters import transformers_paged
from pabench.subjects.peers import transformers
from pabench.subjects.registry import load_backend
from tests.support.adapter_support import Host, adapter, make_case, narrower, verdict_of

NAMES = ("transformers-paged", "transformers-paged-eager")
SEVERAL: dict[str, Any] = {"kv_lens": (33, 5, 9), "q_lens": (7, 5, 1)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_transformers_decodes_every_dtype_beside_poison(name: str, dtype: str) -> None:
    verdict = verdict_of(adapter(name), make_case(dtype=dtype, poison="nan"))
    assert verdict.passed, verdict.text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("features", "options"),
    [
        ({}, {**SEVERAL, "kv_layout": "HND", "interleaved": True}),
        ({"sm_scale": 0.7}, {**SEVERAL, "heads": (7, 1), "head_dim": 80, "page_size": 5}),
        ({"window": 4}, {**SEVERAL, "poison": "nan"}),
        ({"window": 2}, {"poison": "nan"}),
    ],
)
def test_transformers_has_rows_and_windows(
    name: str, features: dict[str, Any], options: dict[str, Any]
) -> None:
    verdict = verdict_of(adapter(name), make_case(features=features, **options))
    assert verdict.passed, verdict.text


def test_transformers_eager_has_sinks() -> None:
    case = make_case(features={"sinks": (0.5, 3.0, -2.0, 40.0)}, **SEVERAL)
    verdict = verdict_of(adapter("transformers-paged-eager"), case)
    assert verdict.passed, verdict.text
    assert adapter("transformers-paged").capabilities.why_not(case) == "no sinks"


@pytest.mark.parametrize("name", NAMES)
def test_transformers_rounds_its_weights_as_its_profile_says(name: str) -> None:
    backend, case = adapter(name), make_case(dtype="bfloat16", kv_lens=(300,), head_dim=64, family="needle")
    assert verdict_of(backend, case).passed
    assert not verdict_of(backend, replace(case, family="normal"), narrower(backend)).passed


@pytest.mark.parametrize("name", NAMES)
def test_transformers_shows_that_an_empty_sequence_sees_the_others(name: str) -> None:
    verdict = verdict_of(adapter(name), make_case(kv_lens=(9, 0)))
    assert not verdict.passed
    assert "the row sees no key" in verdict.text


def test_transformers_runs_its_own_cache_update() -> None:
    backend: Any = adapter("transformers-paged")
    plan = backend.plan(build_tensors(make_case(**SEVERAL)))
    assert type(plan.cache).update.__module__ == transformers.CACHE
    before = [stored.clone() for stored in backend._cache.stored(plan.cache, plan.read)]
    backend.run(plan)
    first = backend.fetch(plan)
    backend.run(plan)
    assert backend.fetch(plan).out.tobytes() == first.out.tobytes()
    for stored, earlier in zip(backend._cache.stored(plan.cache, plan.read), before, strict=True):
        assert stored.numpy().tobytes() == earlier.numpy().tobytes()


def test_transformers_declines_what_the_package_refuses() -> None:
    declines = adapter("transformers-paged").capabilities.why_not
    assert declines(make_case(page_size=3)) == "a block holds at least 4 tokens"
    assert declines(make_case(features={"window": 1})) == "a window of 1 stands for none"
    assert declines(make_case(features={"causal": False}, **SEVERAL)) == "no non-causal"


def test_transformers_leaves_the_table_of_modules_as_it_was() -> None:
    before = {name for name in sys.modules if name.split(".")[0] == "transformers"}
    adapter("transformers-paged")
    assert {name for name in sys.modules if name.split(".")[0] == "transformers"} == before


def test_transformers_that_breaks_half_way_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter("transformers-paged")
    broken = replace(transformers.TRANSFORMERS, replaced=lambda folder: {})
    monkeypatch.setattr(transformers_paged, "TRANSFORMERS", broken)
    with pytest.raises(Unsupported, match=r"transformers 5.* cannot be imported: .*; pip install"):
        load_backend("transformers-paged", Host())  # type: ignore[arg-type]
