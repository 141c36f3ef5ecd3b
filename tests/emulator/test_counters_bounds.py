# SPDX-License-Identifier: Apache-2.0
"""The counted bounds of the tensor-core decode kernel hold, and their table says when one does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from suites.benchmark import counted_bounds
from suites.benchmark.counted_bounds import (
    CACHES,
    PAGE_SIZES,
    CountedPrompt,
    CountedRow,
    counted_prompts,
    counted_rows,
)
from tests.support.counting import counting_device

LENGTHS = (300, 0, 33, 1, 64, 130)
ROW = CountedRow(
    cache="e4m3",
    page_size=16,
    kv_bytes=1000,
    closed_form_bytes=1000,
    copies=10,
    sectors=40,
    ideal_sectors=40,
    bank_conflicts=0,
    table_reads=20,
    token_heads=20,
)


@pytest.mark.parametrize("cache", CACHES)
def test_counters_bounds_hold_for_every_page_size(cache: str) -> None:
    rows = list(counted_rows(counting_device(), head_dim=64, kv_lens=LENGTHS, caches=[cache]))
    assert [row.page_size for row in rows] == list(PAGE_SIZES)
    for row in rows:
        assert all(row.bounds().values()), row
        # not only within 1 %: what no row sees is not read at all
        assert row.kv_bytes == row.closed_form_bytes
        assert row.copies >= row.kv_bytes // 512


@pytest.mark.parametrize("window", [1, 16, 64, 65, 200, 10_000])
def test_counters_bounds_tiles_before_the_window_are_not_on_the_line(window: int) -> None:
    """They are no work: neither positions of the line, which is that of one head, nor matrix products."""
    problem = Problem(
        num_qo_heads=8, num_kv_heads=2, head_dim=64, page_size=16, dtype="bfloat16", window=window
    )
    device = counting_device()
    backend = RawKernelMmaBackend(device)
    plans = backend.plan(build_tensors(Case(problem=problem, batch=Batch(kv_lens=LENGTHS))))
    backend.run(plans)
    firsts = [max(0, length - window) for length in LENGTHS]
    tiles = [max(1, -(-length // 64) - first // 64) for length, first in zip(LENGTHS, firsts, strict=True)]
    (plan,) = plans
    line = plan.launches[0].args[2]
    assert line.tolist() == [sum(count + 1 for count in tiles[:i]) for i in range(len(LENGTHS) + 1)]
    # 16 tokens of a warp: 4 steps for two halves of the keys, 8 columns of the output
    slices = sum(-(-length // 16) - first // 16 for length, first in zip(LENGTHS, firsts, strict=True))
    products = device.counters["paged_decode"].totals().matrix_products
    assert products == {"m16n8k16.bf16": 2 * slices * 16}


def test_counters_bounds_hold_for_a_prompt() -> None:
    (prompt,) = counted_prompts(counting_device(), length=1024, head_dims=[64])
    # 64 tokens of two heads a block: half a tile of keys too many in each of 16, at 1,024
    assert prompt.closed_form < prompt.products < 1.13 * prompt.closed_form
    assert prompt.bank_conflicts == 0
    assert all(replace(prompt, products=int(1.1 * prompt.closed_form)).bounds().values())
    over = replace(prompt, products=int(1.1 * prompt.closed_form) + 1, bank_conflicts=2)
    assert list(over.bounds().values()) == [False, False]
    assert not replace(prompt, products=int(prompt.closed_form) - 1).bounds()["products within 10 %"]


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, []),
        ({"kv_bytes": 1010}, []),
        ({"kv_bytes": 1011}, ["KV bytes within 1 %"]),
        ({"kv_bytes": 989}, ["KV bytes within 1 %"]),
        ({"sectors": 41}, ["sectors = ideal"]),
        ({"bank_conflicts": 1}, ["bank conflicts = 0"]),
        ({"table_reads": 21}, ["table reads <= 1"]),
        ({"table_reads": 0, "sectors": 0}, ["sectors = ideal", "table reads <= 1"]),
    ],
)
def test_counters_bounds_say_what_is_missed(
    change: dict[str, Any],
    missed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = replace(ROW, **change)
    prompt = CountedPrompt(head_dim=16, products=109, closed_form=100.0, bank_conflicts=0)
    assert [name for name, holds in row.bounds().items() if not holds] == missed
    monkeypatch.setattr(counted_bounds, "counted_rows", lambda device: iter([ROW, row]))
    monkeypatch.setattr(counted_bounds, "counted_prompts", lambda device: iter([prompt]))
    assert counted_bounds.main() == int(bool(missed))
    printed = capsys.readouterr().out
    assert printed.count("MISSED") == len(missed)
    assert printed.endswith(f"{len(missed)} bounds missed\n" if missed else "every bound met\n")
