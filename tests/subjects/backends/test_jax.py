# SPDX-License-Identifier: Apache-2.0
"""JAX's Pallas kernel: right where it is, and what it does elsewhere shows."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from pabench.errors import EnvironmentRefused, Unsupported
from pabench.subjects.backends.adapters import jax_pallas, table
from pabench.subjects.registry import load_backend
from tests.support.adapter_support import Gpu, Host, adapter, make_case, narrower, verdict_of

UNSCALED: dict[str, Any] = {"head_dim": 16}
"""A head dimension whose default scale is a power of two, so that queries of 16 bits stay exact."""


def test_jax_stays_on_the_cpu_and_off_the_memory_of_a_gpu() -> None:
    backend: Any = adapter("jax-pallas")
    assert backend.mode == "interpreted"
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert {device.platform for device in backend._jax.devices()} == {"cpu"}


@pytest.mark.parametrize(
    ("dtype", "features", "options"),
    [
        ("float32", {"sm_scale": 0.3}, {"heads": (7, 1), "head_dim": 80, "page_size": 5}),
        ("float16", {}, {"kv_layout": "HND", "interleaved": True}),
        ("bfloat16", {"kv_dtype": "e4m3", "k_scale": (0.5, 3.0), "v_scale": (0.25,)}, {"poison": "zero"}),
        ("float32", {"soft_cap": 2.0}, {"kv_lens": (90, 0, 3), "page_size": 3}),
    ],
)
def test_jax_decodes(dtype: str, features: dict[str, Any], options: dict[str, Any]) -> None:
    case = make_case(dtype=dtype, features=features, **(UNSCALED | options))
    verdict = verdict_of(adapter("jax-pallas"), case)
    assert verdict.passed, verdict.text


def test_jax_rounds_weights_and_partial_outputs_as_its_profile_says() -> None:
    backend = adapter("jax-pallas")
    case = make_case(dtype="bfloat16", kv_lens=(300,), family="normal", **UNSCALED)
    assert verdict_of(backend, case).passed
    assert not verdict_of(backend, case, narrower(backend)).passed


def test_jax_shows_what_dead_slots_do() -> None:
    verdict = verdict_of(adapter("jax-pallas"), make_case(poison="nan"))
    assert not verdict.passed
    assert "got nan" in verdict.text


def test_jax_declines_what_it_does_not_do() -> None:
    declines = adapter("jax-pallas").capabilities.why_not
    assert declines(make_case(q_lens=(2, 1, 1))) == "no speculative"
    assert declines(make_case(dtype="bfloat16", head_dim=80)) == (
        "takes no scale, and bfloat16 queries times 0.1118 are rounded"
    )
    assert declines(make_case(head_dim=80)) is None
    high = make_case(placement="high", head_dim=16, page_size=2)
    assert declines(high) == "interpreted, 128 steps copy 512 Mi elements of K, at most 256"
    assert declines(replace(high, problem=replace(high.problem, page_size=1))) is None
    many = make_case(heads=(2048, 2048), kv_lens=(1,))
    assert declines(many) == "interpreted, 32768 steps of the grid, at most 16384"
    odd = jax_pallas._native_rule(make_case(page_size=5))
    assert odd == "compiled by Triton, whose tiles are powers of two, and page_size is 5"


def test_jax_refuses_a_gpu_that_is_not_there() -> None:
    adapter("jax-pallas")  # once a process has settled for the CPU it stays there
    with pytest.raises(EnvironmentRefused, match="backend 'jax-pallas' on device 'cuda': JAX"):
        load_backend("jax-pallas", Gpu())  # type: ignore[arg-type]


def test_jax_without_one_of_its_packages_is_unsupported_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = replace(table.JAX[0], package="no_such_package")
    monkeypatch.setitem(table.ADAPTERS, "jax-pallas", replace(table.ADAPTERS["jax-pallas"], peers=(absent,)))
    monkeypatch.setattr(jax_pallas, "JAX", (absent,))
    with pytest.raises(Unsupported, match="no_such_package is not installed: pip install --no-deps --target"):
        load_backend("jax-pallas", Host())  # type: ignore[arg-type]
