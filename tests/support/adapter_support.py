# SPDX-License-Identifier: Apache-2.0
"""What the tests of adapters share: cases of any kind, judged by the oracle alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pabench.errors import Unsupported
from pabench.judge.verdict import Verdict, judge
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.profile import NumericsProfile
from pabench.subjects.backends.base import Backend, attend
from pabench.subjects.registry import load_backend


class Host:
    """The part of a device that adapters look at."""

    name = "emulated"


class Gpu:
    """The same of a device with a GPU."""

    name = "cuda"


def adapter(name: str) -> Backend:
    """The adapter, or a skip with the command that installs what it runs."""
    try:
        return load_backend(name, Host())  # type: ignore[arg-type]
    except Unsupported as lacking:
        pytest.skip(str(lacking))


def make_case(
    *,
    heads: tuple[int, int] = (4, 2),
    dtype: str = "float32",
    kv_lens: tuple[int, ...] = (33, 5, 16),
    q_lens: tuple[int, ...] | None = None,
    head_dim: int = 16,
    page_size: int = 4,
    features: dict[str, Any] | None = None,
    **options: Any,
) -> Case:
    problem = Problem(
        num_qo_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=head_dim,
        page_size=page_size,
        dtype=dtype,
        **(features or {}),
    )
    defaults: dict[str, Any] = {"poison": "huge", "tail": "out-of-pool", "spare_pages": 3}
    return Case(problem=problem, batch=Batch(kv_lens=kv_lens, q_lens=q_lens), **(defaults | options))


def verdict_of(backend: Backend, case: Case, profile: NumericsProfile | None = None) -> Verdict:
    """Judge one case; the adapter must support it and leave its inputs alone."""
    tensors = build_tensors(case)
    before = tensors.pool.storage.tobytes(), tensors.q.tobytes()
    result = attend(backend, tensors)
    assert (tensors.pool.storage.tobytes(), tensors.q.tobytes()) == before
    assert (result.lse is None) == (not backend.capabilities.lse)
    missing = not backend.capabilities.lse
    return judge(tensors, result.out, result.lse, profile or backend.profile, allow_missing_lse=missing)


def narrower(backend: Backend) -> NumericsProfile:
    """The profile, but with weights and partial sums that are not rounded to the storage type."""
    return replace(backend.profile, p_dtype="float32", partial_dtype="float32")
