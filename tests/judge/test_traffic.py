# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from pabench.errors import InvalidCase
from pabench.judge.traffic import attention_flops, decode_traffic
from pabench.problem import Batch, PageLayout, Problem

LLAMA = Problem(num_qo_heads=32, num_kv_heads=8, head_dim=128, page_size=16, dtype="bfloat16")


def test_traffic_gives_the_published_figures_of_llama_3_8b() -> None:
    traffic = decode_traffic(LLAMA, [4096])
    assert traffic.flops == 67_108_864
    assert traffic.kv_bytes == 16_777_216
    assert traffic.intensity == 4
    assert traffic.table_bytes == 4 * 256 + 4
    assert traffic.q_bytes == traffic.out_bytes == 32 * 128 * 2
    assert traffic.lse_bytes == 32 * 4
    assert traffic.total_bytes == 16_777_216 + 1028 + 2 * 8192 + 128


def test_traffic_flops_of_causal_and_full_prefill() -> None:
    batch = Batch(kv_lens=(4096,), q_lens=(4096,))
    assert attention_flops(LLAMA, batch) == 137_472_507_904
    full = Problem(num_qo_heads=32, num_kv_heads=8, head_dim=128, page_size=16, causal=False)
    assert attention_flops(full, batch) == 274_877_906_944


@pytest.mark.parametrize(
    ("q_len", "kv_len", "pairs"), [(1, 5, 5), (2, 5, 9), (5, 2, 3), (4, 0, 0), (0, 4, 0)]
)
def test_traffic_flops_count_visible_pairs(q_len: int, kv_len: int, pairs: int) -> None:
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=1, page_size=1)
    assert attention_flops(problem, Batch(kv_lens=(kv_len,), q_lens=(q_len,))) == 4 * pairs


@pytest.mark.parametrize(
    ("page_size", "pages", "slots"),
    [
        (1, 1408, 1408),
        (8, 179, 1432),
        (16, 91, 1456),
        (32, 47, 1504),
        (64, 25, 1600),
        (128, 14, 1792),
        (256, 9, 2304),
    ],
)
def test_traffic_pages_and_slots_of_the_worked_example(page_size: int, pages: int, slots: int) -> None:
    problem = Problem(num_qo_heads=8, num_kv_heads=8, head_dim=64, page_size=page_size, dtype="float16")
    traffic = decode_traffic(problem, [100, 250, 17, 1024, 16, 1])
    assert (traffic.tokens, traffic.pages) == (1408, pages)
    assert traffic.kv_page_bytes == slots * problem.token_bytes
    assert traffic.kv_bytes == 1408 * problem.token_bytes


def test_traffic_counts_shared_pages_once() -> None:
    # a 37-token parent forked three times, each of the four grown by one token: 2 shared + 4 own pages
    table = np.array([[5, 9, k] for k in (0, 1, 2, 3)], dtype=np.int32)
    layout = PageLayout(page_size=16, num_pages=10, block_table=table)
    traffic = decode_traffic(LLAMA, [38] * 4, layout=layout)
    assert traffic.pages == 6
    assert traffic.tokens == 32 + 4 * 6
    assert traffic.table_bytes == 4 * 12 + 4 * 4
    assert decode_traffic(LLAMA, [38] * 4).pages == 12


def test_traffic_takes_the_longest_use_of_a_shared_page() -> None:
    layout = PageLayout(page_size=16, num_pages=1, block_table=np.zeros((2, 1), dtype=np.int32))
    assert decode_traffic(LLAMA, [3, 11], layout=layout).tokens == 11


def test_traffic_of_nothing_is_zero() -> None:
    traffic = decode_traffic(LLAMA, [0])
    assert (traffic.kv_bytes, traffic.flops, traffic.intensity, traffic.pages) == (0, 0, 0.0, 0)


def test_traffic_rejects_what_is_no_length() -> None:
    with pytest.raises(InvalidCase, match=r"kv_lens\[1\] = -1: must be at least 0"):
        decode_traffic(LLAMA, [1, -1])
    layout = PageLayout(page_size=16, num_pages=1, block_table=np.ones((1, 1), dtype=np.int32))
    with pytest.raises(InvalidCase, match=r"block_table\[0, 0\] = 1"):
        decode_traffic(LLAMA, [1], layout=layout)
