# SPDX-License-Identifier: Apache-2.0
"""The tensor-core decode kernels over lists of keys: any set of them, read and no others."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pabench.device.checked import CheckedDevice
from pabench.kernels.key_lists import key_lists
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.dtypes import decode
from pabench.problem.masks import MASKS
from pabench.problem.visibility import seen_keys
from pabench.strategies import cases
from pabench.strategies.masks import mask_batches
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from tests.support.counting import counting_device
from tests.support.kernel_support import bits, judged
from tests.support.probe import DEVICE

PLAIN = Problem(num_qo_heads=6, num_kv_heads=2, head_dim=16, page_size=5, dtype="bfloat16")
CUTS: tuple[dict[str, int], ...] = ({"blocks": 1}, {"blocks": 23}, {"split_tokens": 64})
ALL: dict[str, Any] = {
    "soft_cap": 20.0,
    "alibi_slopes": (0.5, 0.0, -0.25, 0.01, 1.0, 0.125),
    "sinks": (0.3, -40.0, 5.0, 40.0, -1e4, 1.0),
}
SCALES: dict[str, Any] = {"kv_dtype": "e4m3", "k_scale": (0.5, 3.0), "v_scale": (1.5,)}
LENGTHS = (300, 1, 64, 200, 900, 7, 40, 130)
QUERIES = (1, 1, 8, 3, 8, 0, 2, 1)


def token_lists(kept: int, **fields: Any) -> Case:
    """Lists of every ``kept``-th token, from the last one down, and -1 behind; the last one names none."""
    lists = [(*range(length - 1, -1, -kept), -1, -1) for length in LENGTHS]
    lists[-1] = (-1,)
    batch = Batch(kv_lens=LENGTHS, q_lens=QUERIES)
    given = {"problem": PLAIN, "batch": batch, "poison": "nan", "masks": (("token-lists", tuple(lists)),)}
    return Case(**{**given, **fields})


@pytest.mark.parametrize("name", MASKS)
def test_kernels_key_lists_right_for_every_mask_property(name: str) -> None:
    mask = MASKS[name]
    features = [one for one in ("window", "sinks", "alibi", "soft-cap", "fp8-kv") if one not in mask.without]
    drawn = cases(
        required=[name],
        batch=partial(mask_batches, mask=mask, rows=True),
        dtypes=["bfloat16"],
        head_dims=[16],
        features=features,
        poisons=["nan"],
    )

    @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=drawn, cut=st.sampled_from(CUTS))
    def right(case: Case, cut: dict[str, int]) -> None:
        if case.batch.is_speculative:
            judged(RawKernelMmaBackend(DEVICE, **cut), build_tensors(case))

    right()


@pytest.mark.parametrize("kv_dtype", [None, "e4m3"])
def test_kernels_key_lists_with_features_wherever_the_work_is_cut(kv_dtype: str | None) -> None:
    """A bias goes by positions, and a row that sees nothing ends in zeros and -inf, or in its sink."""
    problem = replace(PLAIN, window=150, **ALL, **(SCALES if kv_dtype else {}))
    for case in (token_lists(3, problem=problem), token_lists(7, problem=replace(problem, sinks=None))):
        for cut in CUTS:
            result = judged(RawKernelMmaBackend(DEVICE, **cut), build_tensors(case))
            assert not decode(result.out, PLAIN.storage)[-1].any()
            assert result.lse is not None
            assert (result.lse[-1] == -np.inf).all() == (case.problem.sinks is None)


@pytest.mark.parametrize("cut", CUTS)
def test_kernels_key_lists_of_all_tokens_change_no_bit(cut: dict[str, int]) -> None:
    for problem in (PLAIN, replace(PLAIN, causal=False), replace(PLAIN, alibi_slopes=ALL["alibi_slopes"])):
        case = token_lists(1, problem=problem, family="ascending")
        everything = tuple(tuple(range(length)) for length in LENGTHS)
        tensors = build_tensors(replace(case, masks=(("token-lists", everything),)))
        backend = RawKernelMmaBackend(DEVICE, **cut)
        listed = judged(backend, tensors)
        assert bits(judged(backend, replace(tensors, case=replace(tensors.case, masks=())))) == bits(listed)


@pytest.mark.parametrize("head_dim", [64, 80, 128])
def test_kernels_key_lists_read_what_they_name_and_no_more(head_dim: int) -> None:
    """Keys, values, one table entry and one place of the list a token and KV head; no bank conflicts."""
    problem = replace(PLAIN, num_qo_heads=8, head_dim=head_dim)
    for q_lens in ((1, 1, 1, 1), (2, 1, 3, 1)):
        kv_lens = (300, 1, 900, 64)
        lists = tuple((*range(length - 1, -1, -3), -1) for length in kv_lens)
        batch = Batch(kv_lens=kv_lens, q_lens=q_lens)
        case = Case(problem=problem, batch=batch, masks=(("token-lists", lists),), poison="nan")
        device = counting_device()
        backend = RawKernelMmaBackend(device)
        plan = backend.plan(build_tensors(case))
        backend.run(plan)
        counted = device.counters["paged_decode"]
        # arguments that a macro declares are counted by their number
        positions, words = (f"argument {len(plan[0].launches[1].args) - back}" for back in (4, 3))
        listed = sum(len(entries) - 1 for entries in lists)
        assert counted.loaded_bytes("k", "v") == 2 * listed * problem.num_kv_heads * head_dim * 2
        assert counted.loaded_bytes("block_table") == 4 * listed * problem.num_kv_heads
        assert counted.loaded_bytes(positions) == 4 * listed * problem.num_kv_heads
        assert counted.totals(region="tiles").bank_conflicts == 0
        # one query token sees all of its list: nothing says so a second time
        assert (counted.loaded_bytes(words) > 0) == (max(q_lens) > 1)


def test_kernels_key_lists_need_no_page_outside_them() -> None:
    """Table entries of pages without a listed token are not looked up."""
    case = token_lists(40)
    tensors = build_tensors(case)
    right = judged(RawKernelMmaBackend(DEVICE), tensors)
    table = np.full_like(tensors.layout.block_table, -(2**31))
    for sequence, tokens in enumerate(case.masks[0][1]):
        for token in (token for token in tokens if token >= 0):
            page = token // PLAIN.page_size
            table[sequence, page] = tensors.layout.block_table[sequence, page]
    backend = RawKernelMmaBackend(DEVICE)
    (plan,) = backend.plan(tensors)
    given = [table if one is tensors.layout.block_table else one for one in plan.launches[1].args]
    for launch in (plan.launches[0], replace(plan.launches[1], args=tuple(given))):
        plan.module.launch(launch)
    assert bits(backend.fetch((plan,))) == bits(right)


def test_kernels_key_lists_touch_nothing_but_their_own() -> None:
    """Every access looked at: bounds, alignment, and bytes that nobody wrote."""
    device = CheckedDevice(checks=["memory", "init"])
    problem = replace(PLAIN, head_dim=48, window=50, **ALL, **SCALES)
    for tail in ("minus-one", "int-max"):
        tensors = build_tensors(token_lists(3, problem=problem, tail=tail))
        for cut in CUTS:
            judged(RawKernelMmaBackend(device, **cut), tensors)
    assert device.findings == []


def test_kernels_key_lists_are_the_keys_that_rows_see() -> None:
    """Of rows that see different keys the list is the union, and each row's bits pick its own of it."""
    batch = Batch(kv_lens=(70, 5, 40), q_lens=(3, 0, 1))
    tree = ("draft-tree", ((-1, -1, 0), (), (-1,)))
    tokens = ("token-lists", ((69, 67, 68, 2, -1, 40), (), (39, 1)))
    case = Case(problem=PLAIN, batch=batch, masks=(tree, tokens))
    lists = key_lists(DEVICE, case)
    assert lists.begins.tolist() == [0, 5, 5, 7]
    assert lists.positions.tolist() == [2, 40, 67, 68, 69, 1, 39]
    assert lists.words.tolist() == [[0b00111], [0b01011], [0b10111], [0b11]]
    assert lists.row_keys.tolist() == [3, 3, 4, 2]
    for sequence, row in ((0, 0), (0, 2), (2, 3)):
        own = lists.positions[lists.begins[sequence] : lists.begins[sequence + 1]]
        seen = seen_keys(case, sequence)[row - int(batch.qo_indptr[sequence])]
        picked = [place for place in range(len(own)) if int(lists.words[row, 0]) >> place & 1]
        assert own[picked].tolist() == np.flatnonzero(seen).tolist()


def test_kernels_key_lists_are_of_short_sequences() -> None:
    backend = RawKernelMmaBackend(DEVICE)
    for longest, entry in ((8, "paged_decode"), (9, "paged_prefill")):
        case = token_lists(3, batch=Batch(kv_lens=LENGTHS, q_lens=(longest, *QUERIES[1:])))
        (call,) = backend.plan(build_tensors(case))
        assert call.launches[-1].entry == entry
