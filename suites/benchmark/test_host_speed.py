# SPDX-License-Identifier: Apache-2.0
"""How long pabench's own work on the host takes.  Times are printed, never asserted."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.judge.bound import rounding_of
from pabench.judge.reference import truth
from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, NumericsProfile, Problem, Tensors, build_tensors
from pabench.problem.memory import memory_figures
from pabench.report.render import render_report
from pabench.run.directory import RunDirectory
from pabench.run.schema import read_line

CASE = Case(
    problem=Problem(num_qo_heads=8, num_kv_heads=2, head_dim=128, page_size=16, dtype="float16"),
    batch=Batch(kv_lens=(1000, 700, 400, 1948)),
    poison="nan",
)
PROFILE = NumericsProfile()
SHARES = ("internal_fragmentation", "contiguous_fragmentation", "efficiency_gain")
COUNTS = ("num_pages", "slots", "tokens", "waste_tokens", "block_table_bytes", "csr_table_bytes")


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    return build_tensors(CASE)


def test_build_tensors(benchmark: Any) -> None:
    benchmark.pedantic(build_tensors, args=(CASE,), rounds=5, warmup_rounds=1)


def test_oracle_truth_and_bound(benchmark: Any, tensors: Tensors) -> None:
    benchmark.pedantic(truth, args=(tensors, PROFILE), rounds=5, warmup_rounds=1)


def test_bound_constants(benchmark: Any) -> None:
    benchmark(rounding_of, PROFILE, CASE.problem.storage)


def test_verdict(benchmark: Any, tensors: Tensors) -> None:
    """Comparing an output with a truth that is there already."""
    reference = truth(tensors, PROFILE)
    out = reference.out.astype(np.float16)
    lse = reference.lse.astype(np.float32)
    verdict = benchmark.pedantic(
        judge, args=(tensors, out, lse, PROFILE), kwargs={"reference": reference}, rounds=5, warmup_rounds=1
    )
    assert verdict.passed


def test_help_from_a_cold_process(benchmark: Any) -> None:
    command = [sys.executable, "-m", "pabench", "--help"]
    benchmark.pedantic(
        subprocess.run, args=(command,), kwargs={"capture_output": True, "check": True}, rounds=7
    )


def test_report_of_300_cells(benchmark: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with RunDirectory.create(run, kind="sweep", command="pabench sweep", config={}) as directory:
        for line in cells():
            directory.append(read_line(line, "line", schema=1))
        directory.finish(status="finished", exit_code=0)
    made = benchmark.pedantic(
        render_report, args=([run], tmp_path / "report.html"), rounds=3, warmup_rounds=1
    )
    benchmark.extra_info["bytes"] = Path(made).stat().st_size


def cells() -> list[dict[str, Any]]:
    """Journal lines of 5 page sizes x 6 length families x 10 batches, with real memory figures."""
    rng = np.random.default_rng(0)
    lines: list[dict[str, Any]] = []
    for page_size in (1, 8, 16, 32, 64):
        for mean in (128, 256, 512, 1024, 2048, 4096):
            for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
                lengths = f"lognormal:mean={mean},cv=1"
                figures = memory_figures(rng.integers(1, 2 * mean, batch).tolist(), page_size)
                exact: dict[str, Fraction] = {name: getattr(figures, name) for name in SHARES}
                lines.append(
                    {
                        "kind": "cell",
                        "id": f"{page_size}-{mean}-{batch}",
                        "status": "ok",
                        "backend": "rawkernel",
                        "device": "emulated",
                        "page_size": page_size,
                        "lengths": lengths,
                        "batch": batch,
                        "seed": 0,
                        **{name: getattr(figures, name) for name in COUNTS},
                        **{name: float(value) for name, value in exact.items()},
                        "exact": {name: str(value) for name, value in exact.items()},
                        "modelled_ns": 2500.0 + figures.tokens,
                        "modelled_tokens_per_s": 1e9 * batch / (2500.0 + figures.tokens),
                        "modelled_gpu": "h200-sxm",
                        "provenance": {
                            **dict.fromkeys((*COUNTS, *SHARES), "counted"),
                            **dict.fromkeys(("modelled_ns", "modelled_tokens_per_s"), "modelled"),
                        },
                    }
                )
    return lines
