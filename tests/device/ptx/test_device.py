# SPDX-License-Identifier: Apache-2.0
"""Our kernels from their PTX: the bits of the emulated device, and what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pabench.device.base import KernelSource, Launch
from pabench.device.emulated import EmulatedDevice
from pabench.device.ptx.architectures import read_name
from pabench.device.ptx.body import HANDLERS
from pabench.device.ptx.device import PtxDevice, constant_parameters
from pabench.device.ptx.refusals import MNEMONICS
from pabench.device.registry import open_device
from pabench.errors import (
    CompileError,
    DeviceFault,
    EnvironmentRefused,
    LaunchError,
    UnknownName,
    Unsupported,
)
from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.resources import resource_dir
from pabench.subjects.backends.base import attend
from pabench.subjects.registry import load_backend

KERNELS = resource_dir("kernels_cuda")
needs_nvrtc = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None or importlib.util.find_spec("nvidia") is None,
    reason="NVRTC is not installed: pip install pabench[nvrtc]",
)
DECODE = Batch(kv_lens=(0, 5, 140, 600))
PREFILL = Batch(kv_lens=(3, 90, 120), q_lens=(3, 40, 70))


def problem(**given: object) -> Problem:
    fields = {"num_qo_heads": 8, "num_kv_heads": 2, "head_dim": 64, "page_size": 16, "dtype": "float16"}
    return Problem(**{**fields, **given})  # type: ignore[arg-type]


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "backend", "case"),
    [
        ("sm_80", "rawkernel", Case(problem=problem(), batch=DECODE, poison="nan")),
        ("sm_90a", "rawkernel-mma", Case(problem=problem(kv_dtype="e4m3"), batch=DECODE, poison="nan")),
        ("sm_80", "rawkernel-mma", Case(problem=problem(dtype="bfloat16"), batch=PREFILL, poison="nan")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_our_kernels_have_the_bits_of_the_emulated_device(
    architecture: str, backend: str, case: Case
) -> None:
    ptx, emulated = open_device(f"ptx:{architecture}"), EmulatedDevice()
    emulated.limits = ptx.limits  # so that both plan the same launches
    tensors = build_tensors(case)
    outputs = [attend(load_backend(backend, device), tensors) for device in (ptx, emulated)]
    verdict = judge(tensors, outputs[0].out, outputs[0].lse, load_backend(backend, ptx).profile)
    assert verdict.passed, verdict.text
    assert outputs[0].out.tobytes() == outputs[1].out.tobytes()
    assert outputs[0].lse is not None
    assert outputs[1].lse is not None
    assert outputs[0].lse.tobytes() == outputs[1].lse.tobytes()


@pytest.mark.parametrize(
    ("name", "architecture", "lockstep"),
    [
        ("ptx", "sm_80", False),
        ("ptx:sm_90a", "sm_90a", False),
        ("ptx:sm_89:lockstep", "sm_89", True),
        ("ptx:lockstep", "sm_80", True),
    ],
)
def test_name_says_architecture_and_schedule(name: str, architecture: str, lockstep: bool) -> None:
    asked = read_name(name)
    assert (asked.architecture, asked.lockstep) == (architecture, lockstep)
    assert read_name(asked.name) == asked


@pytest.mark.parametrize("name", ["ptx:sm_30", "ptx:", "ptx:sm_80:fast", "ptx:lockstep:sm_80", "ptx:sm_80:"])
def test_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UnknownName, match=r"ptx:sm_80.*ptx:sm_90a") as caught:
        open_device(name)
    assert caught.value.exit_code == 4


def load(text: str, tmp_path: Path, suffix: str = ".ptx") -> object:
    path = tmp_path / f"kernel{suffix}"
    path.write_text(text, encoding="utf-8")
    return PtxDevice().load(KernelSource(path=path, include_dir=KERNELS))


HEAD = ".version 9.0\n.target sm_80\n.address_size 64\n"
KERNEL = (
    ".visible .entry k(.param .u64 p, .param .f32 x)\n{\n  .reg .b32 %r<9>; .reg .b64 %rd<9>;\n  ret;\n}\n"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "kernel.ptx for sm_80: no PTX: it has no .version and .target"),
        ("int main() {}", "no PTX"),
        (HEAD + KERNEL[:-20], r"PTX line 4: function k without an end: is the text cut\?"),
        (HEAD + KERNEL[:80], r"PTX line 4: function k without an end: is the text cut\?"),
        (
            HEAD + KERNEL.replace("ret;", "frob.b32 %r1, %r2;"),
            "k: PTX line 7: 'frob.b32' is not supported: PTX has no such instruction",
        ),
        (HEAD + KERNEL.replace("ret;", "add.odd.u32 %r1, %r2, 3;"), "line 7: 'add.odd.u32' .* modifier .odd"),
        (
            HEAD + KERNEL.replace("ret;", "add.u32 %r1, %r2;"),
            "line 7: 'add.u32' is not supported: 2 operands",
        ),
        (HEAD + KERNEL.replace("ret;", "add.u32 %r1, %q2, 3;"), "line 7: .* unknown operand '%q2'"),
        (HEAD + KERNEL.replace("ret;", "add.u32 %r1 %r2"), "line 7"),
        (HEAD + KERNEL.replace("ret;", "call.uni foo, ();"), "a call of foo, which the PTX does not define"),
        (HEAD + KERNEL.replace("ret;", "ld.global.u32 %r1, [%rd1*4];"), r"cannot read address '\[%rd1\*4\]'"),
        (
            HEAD + KERNEL.replace("ret;", ".shared .b8 m[50000];"),
            "50000 bytes of shared memory with a size: at most",
        ),
        (
            HEAD + KERNEL.replace("ret;", ".local .b8 m[50000];"),
            "50000 bytes of arrays of a thread: at most 16384",
        ),
    ],
)
def test_ptx_that_cannot_run_is_refused_in_a_line(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=words) as caught:
        load(text, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opcode", ["tcgen05.wait::ld.sync.aligned", "tex.2d.v4.f32.f32", "wmma.load.a.sync"])
def test_ptx_that_is_not_executed_yet_is_no_fault_of_the_kernel(opcode: str, tmp_path: Path) -> None:
    text = KERNEL.replace("ret;", f".loc 1 12 3\n  {opcode} %r1;") + '.file 1 "/a/kernel.cu"\n'
    with pytest.raises(Unsupported) as caught:
        load(HEAD + text, tmp_path)
    said = f"kernel.ptx for sm_80: k: PTX line 8 (kernel.cu:12): {opcode!r} is not supported yet"
    assert str(caught.value) == said


def test_every_opcode_with_a_translation_is_one_of_ptx() -> None:
    assert HANDLERS.keys() <= MNEMONICS
    assert "tcgen05" in MNEMONICS - HANDLERS.keys()


def test_launch_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    module = load(HEAD + ".extern .shared .align 16 .b8 dynamic[];\n" + KERNEL, tmp_path)
    fine = {"grid": (1, 1, 1), "block": (32, 1, 1), "args": (np.zeros(4, np.float32), np.float32(1))}

    def refused(words: str, **given: object) -> None:
        with pytest.raises(LaunchError, match=words):
            module.launch(Launch(**{"entry": "k", **fine, **given}))  # type: ignore[attr-defined, arg-type]

    module.launch(Launch(entry="k", **fine))  # type: ignore[attr-defined, arg-type]
    refused("kernel.ptx has no kernel 'other'", entry="other")
    refused("k: takes 2 arguments, got 1", args=fine["args"][:1])
    refused("argument 1 must be a floating number of 4 bytes, got int32", args=(fine["args"][0], np.int32(1)))
    refused(
        "argument 1 must be a floating number of 4 bytes, got float64", args=(fine["args"][0], np.float64(1))
    )
    refused(
        "170000 bytes of dynamic shared memory: a block has at most 166912 on ptx:sm_80", shared_bytes=170_000
    )


def test_a_loop_without_end_is_told(tmp_path: Path) -> None:
    loop = "again:\n  ld.param.u64 %rd1, [p]; ld.volatile.global.u32 %r1, [%rd1];\n  bra.uni again;\n"
    path = tmp_path / "kernel.ptx"
    path.write_text(HEAD + KERNEL.replace("ret;", loop), encoding="utf-8")
    module = PtxDevice(poll_seconds=1).load(KernelSource(path=path, include_dir=KERNELS))
    args = (np.zeros(4, np.float32), np.float32(1))
    with pytest.raises(DeviceFault, match=r"polled memory for more than 1 s without end"):
        module.launch(Launch(entry="k", grid=(1, 1, 1), block=(32, 1, 1), args=args))


@needs_nvrtc
def test_cuda_that_does_not_compile_is_refused_with_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(
        CompileError, match=r"kernel\.cu\(2\): error: identifier \"nothing\" is undefined"
    ) as caught:
        load('extern "C" __global__ void k(int* out) {\n  out[0] = nothing;\n}\n', tmp_path, ".cu")
    assert str(caught.value).count("error") == 1


def test_without_nvrtc_cuda_is_refused_and_ptx_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "cupy" else find(name, *rest)
    )
    with pytest.raises(EnvironmentRefused, match="CuPy, which is missing") as caught:
        load('extern "C" __global__ void only_here(int* out) {}\n', tmp_path, ".cu")
    assert caught.value.exit_code == 7
    load(HEAD + KERNEL, tmp_path)


def test_const_pointers_are_read_from_the_cuda_source() -> None:
    source = KernelSource(path=KERNELS / "page_copy.cu", include_dir=KERNELS)
    text = source.path.read_text(encoding="utf-8")
    names = text[text.index("page_copy(") :].split(")")[0].split(",")
    found = constant_parameters(source, "page_copy", len(names))
    assert any(found)
    assert found == tuple("const" in name and "*" in name for name in names)
