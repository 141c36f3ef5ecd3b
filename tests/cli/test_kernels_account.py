# SPDX-License-Identifier: Apache-2.0
"""``pabench kernels --account``: tables, files of others, bad requests."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pabench.cli.main import run
from pabench.device import disassembler
from pabench.device.base import KernelSource
from pabench.device.nvrtc import compile_cubin
from pabench.kernels import account_goals
from pabench.kernels.account_goals import Goal
from tests.kernels.test_account import needs_disassembler

MINE = """
extern "C" __global__ void mine(float* out, const float* in, int n) {
  __shared__ float tile[128];
  float sum = 0;
#pragma unroll 1
  for (int i = 0; i < n; ++i) {
    unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(tile + threadIdx.x));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(target), "l"(in + i * 128 + threadIdx.x));
    asm volatile("cp.async.commit_group;\\ncp.async.wait_group 0;" ::: "memory");
    __syncthreads();
    sum += tile[127 - threadIdx.x];
    __syncthreads();
  }
  out[threadIdx.x] = sum;
}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PABENCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "mine.cu"
    path.write_text(MINE)
    return path


@needs_disassembler
def test_account_of_a_source_and_of_its_binary_agree(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--account", "--threads", "128", "--json"]
    assert run(["kernels", *words, "--arch", "sm_90a", "--kernel", "mine.cu"]) == 0
    (source,) = json.loads(capsys.readouterr().out)["accounts"]
    assert source["classes"]["copy"] == 1
    assert source["turn_bytes"] == 512
    assert source["lines"]
    image = compile_cubin(KernelSource(path=mine, include_dir=mine.parent), "sm_90a").image
    Path("mine.cubin").write_bytes(image)
    assert run(["kernels", *words, "--kernel", "mine.cubin"]) == 0
    (binary,) = json.loads(capsys.readouterr().out)["accounts"]
    assert not binary["lines"]
    for name in ("registers", "instructions", "classes", "clocks", "arch", "flight_bytes_per_sm"):
        assert binary[name] == source[name]
    assert run(["kernels", "--account", "--kernel", "mine.cubin"]) == 0
    assert "no line information: loads are named by their address" in capsys.readouterr().out
    Path("cut.cubin").write_bytes(image[: len(image) // 2])
    assert run(["kernels", "--account", "--kernel", "cut.cubin"]) == 4
    assert "pabench: cut.cubin: nvdisasm cannot read it: " in capsys.readouterr().err


@needs_disassembler
def test_account_fails_against_a_better_table(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["kernels", "--account", "--threads", "128", "--arch", "sm_90a", "--kernel", "mine.cu"]
    assert run([*words, "--csv"]) == 0
    table = capsys.readouterr().out
    Path("table.csv").write_text(table)
    assert run([*words, "--baseline", "table.csv"]) == 0
    assert "1 compared with table.csv" in capsys.readouterr().out
    head, row = table.splitlines()
    cells = row.split(",")
    at = head.split(",").index("instructions")
    cells[at] = str(int(cells[at]) - 1)
    Path("table.csv").write_text(f"{head}\n{','.join(cells)}\n")
    assert run([*words, "--baseline", "table.csv"]) == 1
    assert (
        f"FAILED mine, no macros, sm_90a: instructions {int(cells[at]) + 1}, at most {cells[at]} before"
        in (capsys.readouterr().out)
    )


@needs_disassembler
def test_account_prints_what_was_set_and_fails_where_a_miss_has_no_reason(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["kernels", "--account", "--threads", "128", "--arch", "sm_90a", "--kernel", "mine.cu"]

    def goal(figure: str, limit: float, missed: str | None) -> Goal:
        row = {"kernel": "mine", "instance": "no macros", "arch": "sm_90a"}
        return Goal(**row, figure=figure, limit=limit, least=False, missed=missed)

    goals = [goal("registers", 255, None), goal("instructions", 1, "it is a loop")]
    monkeypatch.setattr(account_goals, "read_goals", lambda file: goals)
    assert run(words) == 0
    told = capsys.readouterr().out
    assert re.search(r"mine +no macros +sm_90a +at most 255 registers +\d+ +yes\n", told)
    assert re.search(r"mine +no macros +sm_90a +at most 1 instructions a turn +\d+ +no: it is a loop\n", told)
    goals[1] = goal("instructions", 1, None)
    assert run(words) == 1
    assert re.search(
        r"FAILED mine, no macros, sm_90a: \d+, at most 1 instructions a turn was set", capsys.readouterr().out
    )
    assert run([*words, "--json"]) == 1
    assert [one["met"] for one in json.loads(capsys.readouterr().out)["goals"]] == [True, False]


def test_account_without_the_tools_says_so(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(disassembler, "find_tool", lambda name: None)
    Path("x.cubin").write_bytes(b"\x7fELF")
    Path("x.ptx").write_text(".version 8.0\n.target sm_90a\n")
    assert run(["kernels", "--account", "--kernel", "x.cubin"]) == 7
    assert "nvdisasm is not installed" in capsys.readouterr().err
    assert run(["kernels", "--account", "--kernel", "x.ptx"]) == 7
    assert "ptxas is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--csv"], "--baseline and --csv are of --account: give that too"),
        (["--account", "--csv", "--json"], "--csv and --json: print one or the other"),
        (["--kernel", "x.cubin"], "--kernel x.cubin: nothing to compile; --account takes it"),
        (["--account", "--kernel", "none.cubin"], "kernel file none.cubin cannot be read"),
        (["--account", "--kernel", "no_target.ptx"], "no_target.ptx: names no architecture"),
        (["--account", "--baseline", "none.csv"], "none.csv cannot be read"),
        (["--instance", "float128"], "--instance 'float128': no instance has these words"),
    ],
)
def test_account_refuses(words: list[str], said: str, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("no_target.ptx").write_text("nothing\n")
    assert run(["kernels", *words]) == 4
    assert said in capsys.readouterr().err
