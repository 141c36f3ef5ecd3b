# SPDX-License-Identifier: Apache-2.0
"""The account of FlashInfer's compiled kernels: its committed table is what its wheel compiles to.

Skips without the wheel and nvcc, which ``make test-peers`` installs.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pabench.device.disassembler import NVDISASM, PTXAS, find_tool
from pabench.subjects.backends.adapters.gpu_table import FLASHINFER
from suites.benchmark.flashinfer_account import rows_of, shapes
from tests.subjects.backends.test_flashinfer_compiled import need

TABLE = Path(__file__).resolve().parents[3] / "results" / "flashinfer_account.csv"


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_the_table_has_the_shapes_that_are_asked_for(architecture: str) -> None:
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["arch"] == architecture]
    assert [(row["kernel"], row["instance"]) for row in rows] == [
        (one.file, one.label) for one in shapes(architecture)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("label", ["CUDA cores, group 4", "128 rows"])
def test_the_table_is_what_the_wheel_compiles_to(tmp_path: Path, label: str) -> None:
    need("flashinfer", "ptx:sm_90a")
    if find_tool(NVDISASM) is None or find_tool(PTXAS) is None:
        pytest.skip("needs nvdisasm and ptxas: pip install pabench[nvrtc]")
    (shape,) = [one for one in shapes("sm_90a") if one.label == label]
    (row,) = rows_of(shape, "sm_90a", tmp_path)
    with TABLE.open(encoding="utf-8", newline="") as file:
        kept = [one for one in csv.DictReader(file) if one["arch"] == "sm_90a" and one["instance"] == label]
    if kept[0]["flashinfer"] != FLASHINFER.find().version:
        pytest.skip(f"the table is of flashinfer {kept[0]['flashinfer']}")
    assert [{name: "" if value is None else str(value) for name, value in row.items()}] == kept
