# SPDX-License-Identifier: Apache-2.0
"""The tensor-core kernel over latent caches with lists of keys: sparse MLA."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pabench.device.checked import CheckedDevice
from pabench.kernels.latent import LATENT_DIMS
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.dtypes import decode
from pabench.problem.masks import MASKS
from pabench.strategies import cases
from pabench.strategies.masks import mask_batches
from pabench.subjects.backends.rawkernel_mla import RawKernelMlaBackend
from tests.support.counting import counting_device
from tests.support.kernel_support import bits, judged
from tests.support.probe import DEVICE

CUTS: tuple[dict[str, int], ...] = ({"blocks": 1}, {"blocks": 7}, {"split_tokens": 128})
LENGTHS = (300, 1, 64, 200, 900, 7, 130)
QUERIES = (1, 1, 3, 12, 2, 0, 1)


def sparse(heads: int, kept: int, dims: tuple[int, int] = (24, 16), **fields: Any) -> Case:
    """Lists of every ``kept``-th token, from the last one down, and -1 behind; the last one names none."""
    problem = Problem(
        num_qo_heads=heads,
        num_kv_heads=1,
        head_dim=dims[0],
        head_dim_v=dims[1],
        latent=True,
        page_size=7,
        dtype="bfloat16",
        sm_scale=192**-0.5,
    )
    batch = fields.pop("batch", Batch(kv_lens=LENGTHS, q_lens=QUERIES))
    lists = [(*range(length - 1, -1, -kept), -1) for length in batch.kv_lens]
    lists[-1] = (-1,)
    problem = replace(problem, **fields.pop("asked", {}))
    masks = (("token-lists", tuple(lists)),)
    return Case(**{"problem": problem, "batch": batch, "poison": "nan", "masks": masks, **fields})


@pytest.mark.parametrize("name", MASKS)
def test_kernels_key_lists_latent_right_for_every_mask_property(name: str) -> None:
    mask = MASKS[name]
    features = [one for one in ("window", "sinks", "alibi", "soft-cap") if one not in mask.without]
    drawn = cases(
        required=[name, "latent-cache"],
        batch=partial(mask_batches, mask=mask, rows=True),
        dtypes=["bfloat16"],
        features=features,
        poisons=["nan"],
    )

    @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=drawn, cut=st.sampled_from(CUTS))
    def right(case: Case, cut: dict[str, int]) -> None:
        if RawKernelMlaBackend.capabilities.why_not(case) is None:
            judged(RawKernelMlaBackend(DEVICE, **cut), build_tensors(case))

    right()


@pytest.mark.parametrize("heads", [5, 20, 128])
def test_kernels_key_lists_latent_wherever_the_work_is_cut(heads: int) -> None:
    """Units of 16 and of 64 rows, which hold rows of several query tokens, or only some heads of one."""
    slopes = tuple(2.0 ** -(1 + head % 8) for head in range(heads))
    for asked in ({}, {"window": 150, "soft_cap": 20.0, "alibi_slopes": slopes}):
        for kept in (1, 3):
            for cut in CUTS:
                tensors = build_tensors(sparse(heads, kept, asked=asked))
                result = judged(RawKernelMlaBackend(DEVICE, **cut), tensors)
                assert not decode(result.out, tensors.case.problem.storage)[-1].any()
                assert result.lse is not None
                assert (result.lse[-1] == -np.inf).all()


def test_kernels_key_lists_latent_of_all_tokens_change_no_bit() -> None:
    case = sparse(20, 1, (72, 64), family="ascending")
    everything = tuple(tuple(range(length)) for length in LENGTHS)
    tensors = build_tensors(replace(case, masks=(("token-lists", everything),)))
    for cut in CUTS:
        backend = RawKernelMlaBackend(DEVICE, **cut)
        listed = judged(backend, tensors)
        assert bits(judged(backend, replace(tensors, case=replace(tensors.case, masks=())))) == bits(listed)


@pytest.mark.parametrize("heads", [16, 64])
def test_kernels_key_lists_latent_read_what_they_name_and_no_more(heads: int) -> None:
    """Sparse MLA: each listed row once for key and value, one table entry a token, no bank conflicts."""
    for q_lens in ((1, 1, 1), (2, 1, 1)):
        device = counting_device()
        backend = RawKernelMlaBackend(device)
        case = sparse(heads, 3, LATENT_DIMS, batch=Batch(kv_lens=(300, 100, 9), q_lens=q_lens))
        plan = backend.plan(build_tensors(case))
        backend.run(plan)
        counted = device.counters["paged_decode_latent"]
        # two query tokens read their list once where their rows fit a unit of 64
        units = [-(-heads * q_len // 64) for q_len in q_lens]
        listed = sum(unit * (len(one) - 1) for unit, one in zip(units, case.masks[0][1], strict=True))
        positions, words = (f"argument {len(plan[0].launches[1].args) - back}" for back in (4, 3))
        assert counted.loaded_bytes("k") == listed * 576 * 2
        assert counted.loaded_bytes("block_table") == counted.loaded_bytes(positions) == 4 * listed
        assert counted.totals(region="tiles").bank_conflicts == 0
        assert (counted.loaded_bytes(words) > 0) == (max(q_lens) > 1)


@pytest.mark.parametrize("heads", [5, 20])
def test_kernels_key_lists_latent_touch_nothing_but_their_own(heads: int) -> None:
    device = CheckedDevice()
    slopes = (0.25,) * heads
    for tail in ("minus-one", "int-max"):
        tensors = build_tensors(sparse(heads, 3, tail=tail, asked={"window": 50, "alibi_slopes": slopes}))
        for blocks in (1, 9):
            judged(RawKernelMlaBackend(device, blocks=blocks), tensors)
    assert device.findings == []
