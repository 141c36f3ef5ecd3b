# SPDX-License-Identifier: Apache-2.0
"""Adapters of libraries that need a GPU, up to the call: arguments by the real signatures, answers converted.

Each library's tests skip where it is not installed; none of its kernels runs here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pabench.checks.registry import check_by_id
from pabench.errors import InvalidCase, Unsupported
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.append import AppendCase
from pabench.problem.merge import MergeCase
from pabench.subjects.backends.adapters.cudnn_frontend import CudnnFrontendBackend
from pabench.subjects.backends.adapters.flash_attn import FlashAttnBackend, VllmCudaBackend
from pabench.subjects.backends.adapters.flashinfer import (
    FlashInferBackend,
    FlashInferBatchBackend,
    FlashInferDecodeBackend,
    FlashInferMlaBackend,
    FlashInferXqaBackend,
)
from pabench.subjects.backends.adapters.gpu_pages import GpuBackend, PagedInputs
from pabench.subjects.backends.adapters.table import ADAPTERS
from pabench.subjects.backends.adapters.xformers import XformersBackend
from pabench.subjects.peers.package import ThirdPartyPackage
from pabench.subjects.registry import load_backend
from tests.support import cuda_library_stubs as stubs
from tests.support.probe import DEVICE


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """The problems are small: waking a second thread costs more than it gives."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


DECODE = Batch(kv_lens=(1, 300, 0, 257))
RAGGED = Batch(kv_lens=(1, 300, 4, 257), q_lens=(1, 7, 4, 20))
LIBRARIES: dict[type[GpuBackend], Callable[[Path], dict[str, Any]]] = {
    FlashAttnBackend: stubs.flash_attn,
    VllmCudaBackend: stubs.vllm,
    FlashInferBackend: stubs.flashinfer,
    FlashInferDecodeBackend: stubs.flashinfer,
    FlashInferBatchBackend: stubs.flashinfer,
    FlashInferXqaBackend: stubs.flashinfer,
    FlashInferMlaBackend: stubs.flashinfer,
    XformersBackend: stubs.xformers,
}
LATENT = {"num_kv_heads": 1, "head_dim": 576, "head_dim_v": 512, "latent": True, "sm_scale": 192.0**-0.5}
FEATURES: dict[str, dict[str, Any]] = {
    "latent-cache": {},
    "soft-cap": {"soft_cap": 1.5},
    "window": {"window": 40},
    "alibi": {"alibi_slopes": (0.5, 0.25, 0.125, 0.01)},
    "sinks": {"sinks": (0.5, -1.0, 2.0, 0.0)},
    "non-causal": {"causal": False},
}


def made(kind: type[GpuBackend], monkeypatch: pytest.MonkeyPatch) -> GpuBackend:
    """The adapter with its library's stub; skips where the library's sources are not here."""
    try:
        folder = kind.peer.find().folder
    except Unsupported as lacking:
        pytest.skip(str(lacking))
    monkeypatch.setattr(ThirdPartyPackage, "load", lambda peer: LIBRARIES[kind](folder))
    return kind(DEVICE)


def case(kind: type[GpuBackend], batch: Batch = DECODE, **features: Any) -> Case:
    page_size = 256 if kind is FlashAttnBackend else 64
    dtype = features.pop("dtype", "float16")
    layout = features.pop("kv_layout", "NHD")
    shape = LATENT if kind is FlashInferMlaBackend else {"num_kv_heads": 2, "head_dim": 64}
    problem = Problem(**{"num_qo_heads": 4, "page_size": page_size, "dtype": dtype, **shape, **features})
    return Case(problem=problem, batch=batch, kv_layout=layout, placement="shuffled", poison="zero", seed=3)


def judged(backend: GpuBackend, asked: Case) -> None:
    assert backend.capabilities.why_not(asked) is None
    outcome = check_by_id("decode").run(asked, backend, DEVICE)
    assert outcome.passed, outcome.text


@pytest.mark.parametrize("kind", LIBRARIES, ids=lambda kind: kind.name)
def test_gpu_library_is_handed_what_its_signature_takes(
    kind: type[GpuBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = made(kind, monkeypatch)
    for layout in sorted(backend.capabilities.kv_layouts):
        judged(backend, case(kind, kv_layout=layout))
    judged(backend, case(kind, dtype="bfloat16", sm_scale=0.3))
    for feature in sorted(backend.capabilities.features - {"non-causal", "page-gaps"}):
        judged(backend, case(kind, **FEATURES[feature]))
    if "prefill" in backend.capabilities.operations:
        judged(backend, case(kind, RAGGED))
        for feature in sorted(backend.capabilities.features - {"page-gaps"}):
            judged(backend, case(kind, RAGGED, **FEATURES[feature]))
    if "page-gaps" in backend.capabilities.features:
        judged(backend, replace(case(kind), page_gaps=(24, 0)))
    if backend.capabilities.interleaved and kind is not FlashInferMlaBackend:
        judged(backend, replace(case(kind), interleaved=True))


@pytest.mark.parametrize("kind", LIBRARIES, ids=lambda kind: kind.name)
def test_gpu_library_plans_apart_from_the_run(
    kind: type[GpuBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = made(kind, monkeypatch)
    tensors = build_tensors(case(kind))
    plan = backend.plan(tensors)
    with pytest.raises(Unsupported, match="fetch before run"):
        backend.fetch(plan)
    backend.run(plan)
    first = backend.fetch(plan)
    backend.run(plan)
    assert np.array_equal(first.out, backend.fetch(plan).out)
    assert (first.lse is None) == (not backend.capabilities.lse)
    with pytest.raises(InvalidCase, match="q = "):
        backend.plan(replace(tensors, q=tensors.q[:-1]))
    with pytest.raises(Unsupported, match="no dtype float32"):
        backend.plan(build_tensors(case(kind, dtype="float32")))


@pytest.mark.parametrize(
    ("kind", "features", "said"),
    [
        (FlashAttnBackend, {}, "page_size 64 is no multiple of 256"),
        (VllmCudaBackend, {"causal": False, "alibi_slopes": (0.5,) * 4}, "ALiBi takes the distance"),
        (XformersBackend, {"window": 4}, "no window"),
        (CudnnFrontendBackend, {"causal": False, "window": 4}, "a window needs the causal mask"),
    ],
)
def test_gpu_library_declines_what_it_cannot(
    kind: type[GpuBackend], features: dict[str, Any], said: str
) -> None:
    batch = RAGGED if features.get("causal") is False else DECODE
    assert said in str(kind.capabilities.why_not(case(XformersBackend, batch, **features)))


def test_vllm_appends_and_merges_two_states(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = made(VllmCudaBackend, monkeypatch)
    problem = case(VllmCudaBackend).problem
    appended = AppendCase(problem=problem, num_pages=3, slots=(5, -1, 130, 64))
    assert check_by_id("append").run(appended, backend, DEVICE).passed
    merged = MergeCase(num_states=2, num_rows=3, num_heads=2, head_dim=8, dtype="float16")
    assert check_by_id("merge").run(merged, backend, DEVICE).passed
    with pytest.raises(Unsupported, match="merge of 3 states, takes 2"):
        check_by_id("merge").run(replace(merged, num_states=3), backend, DEVICE)


def test_flashinfer_appends_and_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = made(FlashInferBackend, monkeypatch)
    for layout in ("NHD", "HND"):
        problem = case(FlashInferBackend).problem
        appended = AppendCase(
            problem=problem,
            num_pages=6,
            kv_layout=layout,
            block_table=((3, 5), (1, 999), (0, -7)),
            kv_lens=(70, 5, 64),
            q_lens=(10, 5, 1),
        )
        outcome = check_by_id("append-paged").run(appended, backend, DEVICE)
        assert outcome.passed, outcome.text
    merged = MergeCase(num_states=3, num_rows=3, num_heads=2, head_dim=8, dtype="float16")
    assert check_by_id("merge").run(merged, backend, DEVICE).passed


@pytest.mark.parametrize(
    ("batch", "features"),
    [(DECODE, {}), (RAGGED, {}), (RAGGED, {"window": 40}), (RAGGED, {"causal": False, "dtype": "bfloat16"})],
)
def test_cudnn_validates_our_graph(batch: Batch, features: dict[str, Any]) -> None:
    try:
        backend = CudnnFrontendBackend(DEVICE)
    except Unsupported as lacking:
        pytest.skip(str(lacking))
    for layout in ("NHD", "HND"):
        given = PagedInputs(
            build_tensors(case(CudnnFrontendBackend, batch, kv_layout=layout, **features)), backend._where
        )
        q, rows = backend._padded(given)
        assert np.array_equal(q.transpose(1, 2)[rows].float(), given.q.float())
        graph, pack, out, lse = backend._graph(given, q)
        assert len(pack) == 8
        assert (out.shape, lse.shape) == (q.shape, (*q.shape[:3], 1))
        assert graph is not None


def test_gpu_libraries_are_refused_without_a_gpu() -> None:
    for name, adapter in ADAPTERS.items():
        if adapter.needs_gpu:
            with pytest.raises(Unsupported, match=f"{name} needs a GPU"):
                load_backend(name, DEVICE)
