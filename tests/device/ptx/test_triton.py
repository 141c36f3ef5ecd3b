# SPDX-License-Identifier: Apache-2.0
"""Kernels that Triton compiled, run from its PTX with no Triton: from a committed file to a verdict."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pabench.device.checked import KernelFindings
from pabench.device.ptx.device import CheckedPtxDevice, PtxDevice
from pabench.device.registry import open_device
from pabench.errors import DeviceFault, LaunchError, Unsupported
from pabench.judge.verdict import Verdict, judge
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.profile import NumericsProfile
from pabench.subjects.backends.adapters.triton_launch import TritonKernel, argument, memory_of

FOLDER = Path(__file__).parents[2] / "support" / "triton"
TOLD = json.loads((FOLDER / "paged_decode.json").read_text())
PTX = FOLDER / "paged_decode.ptx"
CASE = Case(
    problem=Problem(num_qo_heads=8, num_kv_heads=2, head_dim=16, page_size=4, dtype="float16"),
    batch=Batch(kv_lens=(37, 1, 16)),
    poison="nan",
    spare_pages=3,
    seed=3,
)
PROFILE = NumericsProfile(p_dtype="storage", partial_dtype=None)


def kernel(path: Path = PTX) -> TritonKernel:
    return TritonKernel(name="paged_decode", path=path, **TOLD)


def decoded(device: PtxDevice | CheckedPtxDevice, path: Path = PTX) -> Verdict:
    """Run the kernel over ``CASE`` as Triton's launcher would, and judge what it wrote."""
    tensors = build_tensors(CASE)
    given: dict[str, Any] = {
        "q": tensors.q,
        "k": tensors.pool.k,
        "v": tensors.pool.v,
        "out": np.full_like(tensors.q, np.nan),
        "lse": np.full(tensors.q.shape[:2], np.nan, np.float32),
        "block_table": tensors.layout.block_table,
        "kv_lens": tensors.kv_lens,
    }
    there = {name: torch.from_numpy(np.ascontiguousarray(array).copy()) for name, array in given.items()}
    numbers = {"sm_scale": CASE.problem.scale, "table_stride": there["block_table"].stride(0)}
    constants = dict.fromkeys(("GROUP", "PAGE", "DIM", "TILE"))
    told = kernel(path)
    asked = told.launch((len(CASE.batch.kv_lens), 2, 1), [*there.values(), *numbers.values(), *constants])
    told.load(device).launch(asked)
    return judge(tensors, there["out"].numpy(), there["lse"].numpy(), PROFILE)


def test_what_triton_compiled_is_right() -> None:
    verdict = decoded(PtxDevice())
    assert verdict.passed, verdict.text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("setp.lt.s32", "setp.le.s32"),  # a bound of the keys
        ("ex2.approx", "lg2.approx"),
        ("ldmatrix.sync.aligned.m8n8.x4.trans", "ldmatrix.sync.aligned.m8n8.x4"),
    ],
)
def test_a_fault_in_what_triton_compiled_is_seen(before: str, after: str, tmp_path: Path) -> None:
    text = PTX.read_text()
    assert before in text
    path = tmp_path / PTX.name
    path.write_text(text.replace(before, after))
    assert not decoded(PtxDevice(), path).passed


def test_findings_name_line_and_parameter_of_the_kernel(tmp_path: Path) -> None:
    device = CheckedPtxDevice(count=True)
    assert decoded(device).passed
    (counted,) = device.counters.values()
    assert {"k", "v", "block_table", "kv_lens"} <= {buffer.name for buffer in counted.buffers}
    assert counted.load_requests("block_table") > 0
    # stores of all 16 rows of the tile, where 4 query heads share a KV head
    path = tmp_path / PTX.name
    path.write_text(re.sub(r"@%p\d+ st\.global", "st.global", PTX.read_text()))
    with pytest.raises(KernelFindings, match=r"memory: .* in out .*write at paged_decode\.py:\d+"):
        decoded(CheckedPtxDevice(checks=("memory",)), path)


def attended(text: str, tmp_path: Path, *, checked: bool = False) -> tuple[float, float]:
    """Return how far the attention with wgmma is off, and what its roundings to bfloat16 allow."""
    path = tmp_path / "group_attention.ptx"
    path.write_text(text)
    told = json.loads((FOLDER / "group_attention.json").read_text())
    compiled = TritonKernel(name="group_attention", path=path, **told)
    random = np.random.default_rng(2)
    q, k, v = (torch.from_numpy(random.standard_normal((n, 64))).to(torch.bfloat16) for n in (64, 150, 150))
    out = torch.zeros((64, 64), dtype=torch.bfloat16)
    device: Any = open_device("ptx:sm_90a", checked=checked, poll_seconds=5)
    compiled.load(device).launch(compiled.launch((1, 1, 1), [q, k, v, out, 150, 0.125]))
    wide = [one.double().numpy() for one in (q, k, v, out)]
    weights = np.exp(wide[0] @ wide[1].T * 0.125)
    exact = weights / weights.sum(1, keepdims=True) @ wide[2]
    # half a unit in the last of 8 bits: of each weight, which sum up to 1, and of the result
    return float(np.abs(wide[3] - exact).max()), 2**-9 * 2.1 * float(np.abs(wide[2]).max())


WGMMA = FOLDER / "group_attention.ptx"


@pytest.mark.slow
@pytest.mark.parametrize("checked", [False, True])
def test_products_of_a_warpgroup_that_triton_compiled_are_right(checked: bool, tmp_path: Path) -> None:
    assert "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16" in WGMMA.read_text()
    found, allowed = attended(WGMMA.read_text(), tmp_path, checked=checked)
    assert found <= allowed


@pytest.mark.slow
def test_a_wait_that_triton_wrote_is_needed(tmp_path: Path) -> None:
    text, count = re.subn(r"wgmma\.wait_group\.sync\.aligned\s+\d+;", "", WGMMA.read_text())
    assert count
    with pytest.raises(DeviceFault, match=r"read before a wgmma\.wait_group covers it"):
        attended(text, tmp_path)


@pytest.mark.parametrize(
    ("opcode", "says"),
    [
        (
            "tcgen05.strange.f32",
            r"^paged_decode\.ptx for sm_80: .*: 'tcgen05\.strange\.f32' is not supported yet$",
        ),
        ("ex2.strange.f32", r"^not supported yet on ptx:sm_80: paged_decode\.ptx for sm_80: .*\.strange$"),
    ],
)
def test_what_the_device_cannot_run_yet_is_unsupported(opcode: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / PTX.name
    path.write_text(PTX.read_text().replace("ex2.approx.f32", opcode))
    with pytest.raises(Unsupported, match=says):
        kernel(path).load(PtxDevice())


def test_memory_of_a_tensor_is_its_own_from_the_first_element_on() -> None:
    whole = torch.arange(12, dtype=torch.int32)
    part = memory_of(whole[4:])
    assert part.view(np.int32).tolist() == list(range(4, 12))
    part.view(np.int32)[0] = -1
    assert whole[4] == -1


@pytest.mark.parametrize(("kind", "value"), [("*fp16", None), (("i32", "i32"), (1, 2)), ("nvTmaDesc", 0)])
def test_an_argument_of_another_kind_is_unsupported(kind: Any, value: Any) -> None:
    with pytest.raises(Unsupported, match=r"argument one of type .* is not supported yet"):
        argument("one", kind, value)


def test_arguments_that_do_not_fit_are_refused() -> None:
    device = PtxDevice()
    asked = kernel().launch((1, 1, 1), [*[torch.zeros(1)] * 7, 1.0, 1, 4, 4, 16, 16])
    with pytest.raises(LaunchError, match="takes 11 arguments, got 10"):
        kernel().load(device).launch(replace(asked, args=asked.args[1:]))
