# SPDX-License-Identifier: Apache-2.0
"""Decode over latent caches on tensor cores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pabench.device.checked import CheckedDevice
from pabench.device.occupancy import SM_LIMITS
from pabench.errors import InvalidCase, Unsupported
from pabench.judge.traffic import decode_traffic
from pabench.judge.verdict import judge
from pabench.kernels.fitted import architecture_limits
from pabench.kernels.latent import LATENT_DIMS, instances, latent_shape
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput, attend
from pabench.subjects.backends.rawkernel_mla import RawKernelMlaBackend
from tests.support.counting import counting_device
from tests.support.probe import DEVICE

CUTS: tuple[dict[str, int], ...] = ({"blocks": 1}, {"blocks": 7}, {"split_tokens": 128})


def latent(heads: int, dims: tuple[int, int] = LATENT_DIMS, **fields: object) -> Problem:
    given: dict[str, object] = {"page_size": 7, "dtype": "bfloat16", "sm_scale": 192**-0.5, **fields}
    return Problem(
        num_qo_heads=heads,
        num_kv_heads=1,
        head_dim=dims[0],
        head_dim_v=dims[1],
        latent=True,
        **given,  # type: ignore[arg-type]
    )


def assert_right(tensors: Tensors, backend: RawKernelMlaBackend) -> AttentionOutput:
    result = attend(backend, tensors)
    verdict = judge(tensors, result.out, result.lse, backend.profile)
    assert verdict.passed, verdict.text
    return result


@pytest.mark.parametrize(
    ("heads", "dims", "dtype"),
    [
        (16, LATENT_DIMS, "bfloat16"),
        (128, LATENT_DIMS, "float16"),
        (3, (24, 16), "float16"),
        (40, (104, 48), "bfloat16"),
    ],
)
def test_kernels_latent_right_wherever_the_work_is_cut(heads: int, dims: tuple[int, int], dtype: str) -> None:
    """Among the dims: rows filled up with zeros, and warps without columns of the values."""
    batch = Batch(kv_lens=(0, 1, 65, 300), q_lens=(1, 2, 0, 3))
    case = Case(problem=latent(heads, dims, dtype=dtype), batch=batch, poison="nan", family="ascending")
    tensors = build_tensors(case)
    for cut in CUTS:
        result = assert_right(tensors, RawKernelMlaBackend(DEVICE, **cut))
        assert result.lse is not None
        assert (result.lse[0] == -np.inf).all()


@pytest.mark.parametrize("page_size", [1, 16, 256])
def test_kernels_latent_reads_each_row_once_for_key_and_value(page_size: int) -> None:
    """Up to 64 query heads, to the last sector; no bank conflict, and a page looked up once a token."""
    kv_lens = (100, 33, 0, 64)
    for heads in (16, 64):
        problem = latent(heads, page_size=page_size)
        floor = decode_traffic(problem, kv_lens)
        assert floor.kv_bytes == sum(kv_lens) * 576 * 2
        device = counting_device()
        backend = RawKernelMlaBackend(device)
        backend.run(backend.plan(build_tensors(Case(problem=problem, batch=Batch(kv_lens=kv_lens)))))
        counted = device.counters["paged_decode_latent"]
        assert counted.loaded_bytes("k") == floor.kv_bytes
        (cache,) = [buffer for buffer in counted.buffers if "k" in buffer.name.split("+")]
        assert cache.loaded_sectors * 32 == floor.kv_bytes
        assert counted.loaded_bytes("block_table") == 4 * sum(kv_lens)
        assert counted.totals(region="tiles").bank_conflicts == 0
        shape = latent_shape(576, device.limits, heads)
        tiles = sum(-(-length // shape.tile_tokens) for length in kv_lens)
        # 576 / 16 steps for two halves of 16 keys, 512 / 8 columns; times groups of rows and slices of a tile
        products = tiles * shape.groups * shape.tile_tokens // 16 * (2 * 36 + 64)
        assert counted.totals().matrix_products == {"m16n8k16.bf16": products}


def test_kernels_latent_reads_rows_once_for_each_64_query_heads() -> None:
    device = counting_device()
    backend = RawKernelMlaBackend(device)
    backend.run(backend.plan(build_tensors(Case(problem=latent(128), batch=Batch(kv_lens=(70,))))))
    assert device.counters["paged_decode_latent"].loaded_bytes("k") == 2 * 70 * 576 * 2


@pytest.mark.parametrize("heads", [5, 20])
def test_kernels_latent_touches_nothing_but_its_own(heads: int) -> None:
    device = CheckedDevice()
    batch = Batch(kv_lens=(0, 1, 64, 200, 65), q_lens=(1, 2, 3, 1, 0))
    for tail in ("minus-one", "int-max"):
        case = Case(problem=latent(heads, (24, 16)), batch=batch, poison="nan", tail=tail)
        for blocks in (1, 9):
            assert_right(build_tensors(case), RawKernelMlaBackend(device, blocks=blocks))
    assert device.findings == []


def test_kernels_latent_takes_features_together() -> None:
    heads = 20
    problem = latent(
        heads,
        (72, 64),
        window=70,
        soft_cap=20.0,
        sinks=tuple(np.linspace(-2, 3, heads)),
        alibi_slopes=tuple(2.0 ** -(1 + h) for h in range(heads)),
    )
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(0, 300, 64), q_lens=(1, 3, 1))))
    for cut in CUTS:
        assert_right(tensors, RawKernelMlaBackend(DEVICE, **cut))


@pytest.mark.parametrize("architecture", SM_LIMITS)
def test_kernels_latent_instances_fit_their_device(architecture: str) -> None:
    limits = architecture_limits(SM_LIMITS[architecture])
    found = [instance for instance in instances() if architecture in instance.architectures]
    assert {(one.defines["PAB_DTYPE"], one.defines["PAB_FEATURES"]) for one in found} == {
        (dtype, features) for dtype in (1, 2) for features in (0, 1)
    }
    for instance in found:
        assert instance.entries[1].shared_bytes <= limits.shared_bytes_per_block


def test_kernels_latent_refuses_what_it_cannot_do() -> None:
    can = RawKernelMlaBackend.capabilities
    batch = Batch(kv_lens=(3,))
    good = Case(problem=latent(4, (24, 16)), batch=batch)
    assert can.why_not(good) is None
    refused = {
        "no dtype float32": replace(good.problem, dtype="float32"),
        "no fp8-kv": replace(good.problem, kv_dtype="e4m3"),
        "head_dim 20 is not a multiple of 8 up to 576": latent(4, (20, 16)),
        "head_dim 584 is above 576": latent(4, (584, 512)),
        "head_dim_v 24 is not a multiple of 16 up to 512": latent(4, (32, 24)),
        "head_dim_v 576 is not a multiple of 16 up to 512": latent(4, (576, 576)),
    }
    for reason, problem in refused.items():
        assert can.why_not(replace(good, problem=problem)) == reason
        with pytest.raises(Unsupported, match=reason):
            RawKernelMlaBackend(DEVICE).plan(build_tensors(replace(good, problem=problem)))
    assert can.why_not(replace(good, page_gaps=(1, 0))) == "no pages 2 bytes apart: copies take 16 at a time"
    with pytest.raises(InvalidCase, match="split_tokens = 48"):
        RawKernelMlaBackend(DEVICE, split_tokens=48).plan(build_tensors(good))
