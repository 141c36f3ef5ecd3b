# SPDX-License-Identifier: Apache-2.0
"""A plain function, or a class, as a backend by its place."""

from pathlib import Path

import numpy as np
import pytest

from pabench.cli.main import run
from pabench.device.emulated import EmulatedDevice
from pabench.errors import InvalidCase, Unsupported, UsageError
from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, NumericsProfile, Problem, build_tensors
from pabench.problem.dtypes import Array
from pabench.subjects.backends.base import attend
from pabench.subjects.backends.function import FunctionBackend
from pabench.subjects.registry import load_backend

PROBLEM = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=4)


def decode(
    q: Array, k_cache: Array, v_cache: Array, block_table: Array, kv_lens: Array, sm_scale: float
) -> tuple[Array, Array]:
    """Right, and as plain as can be."""
    out, lse = np.zeros_like(q), np.full(q.shape[:2], -np.inf, np.float32)
    for i, n in enumerate(kv_lens):
        pages = block_table[i, : -(-n // k_cache.shape[1])]
        k, v = (np.float32(c[pages]).reshape(-1, *c.shape[2:])[:n] for c in (k_cache, v_cache))
        for h in range(q.shape[1] if n else 0):
            logits = k[:, h // 2] @ np.float32(q[i, h]) * np.float32(sm_scale)
            weights = np.exp(logits - logits.max())
            out[i, h] = weights @ v[:, h // 2] / weights.sum()
            lse[i, h] = logits.max() + np.log(weights.sum())
    return out, lse


def case(**changes: object) -> Case:
    return Case(problem=PROBLEM, batch=Batch(kv_lens=(0, 5, 40)), poison="nan", **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def device() -> EmulatedDevice:
    return EmulatedDevice()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "kernel.py"
    path.write_text("import os\n\nvalue = 3\n\ndef decode(*args):\n    return None\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("interleaved", [False, True])
def test_function_is_judged_right(device: EmulatedDevice, interleaved: bool) -> None:
    backend = FunctionBackend("mine", decode, device)
    tensors = build_tensors(case(interleaved=interleaved))
    output = attend(backend, tensors)
    assert judge(tensors, output.out, output.lse, backend.profile).passed


def test_function_declares_by_attributes(device: EmulatedDevice) -> None:
    def half(*args: object) -> None:
        return None

    half.dtypes = ("float16", "bfloat16")  # type: ignore[attr-defined]
    half.lse = False  # type: ignore[attr-defined]
    half.profile = NumericsProfile(p_dtype="float16")  # type: ignore[attr-defined]
    backend = FunctionBackend("half", half, device)
    assert backend.capabilities.dtypes == {"float16", "bfloat16"}
    assert not backend.capabilities.lse
    assert backend.profile.p_dtype == "float16"
    with pytest.raises(Unsupported, match="no dtype"):
        backend.plan(build_tensors(case()))
    half.profile = 3  # type: ignore[attr-defined]
    with pytest.raises(InvalidCase, match=r"profile = 3"):
        FunctionBackend("half", half, device)


def test_function_result_of_another_kind_is_a_verdict(device: EmulatedDevice) -> None:
    tensors = build_tensors(case())
    for result in (None, 3, "out", (1, 2, 3)):
        backend = FunctionBackend("odd", lambda *args, result=result: result, device)
        output = attend(backend, tensors)
        assert not judge(tensors, output.out, output.lse, backend.profile).passed


def test_backend_by_place_is_a_function_or_a_factory(device: EmulatedDevice, source: Path) -> None:
    assert load_backend(f"{source}:decode", device).name == f"{source}:decode"
    place = "pabench.subjects.backends.rawkernel:RawKernelBackend"
    assert load_backend(place, device).name == place


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("{source}:nothing", "has no 'nothing'"),
        (
            "{source}:value",
            "int has no 'capabilities', 'profile', 'plan', 'run', 'fetch'; must be",
        ),
        ("{source}x.py:decode", "no such file"),
        ("no_such_package.module:decode", "no module named 'no_such_package'"),
        (":decode", "'' is no module"),
        ("{broken}:decode", "cannot be loaded: ZeroDivisionError: division by zero (broken.py:1)"),
    ],
)
def test_backend_by_place_says_what_is_wrong(
    device: EmulatedDevice, source: Path, place: str, words: str
) -> None:
    broken = source.with_name("broken.py")
    broken.write_text("1 / 0\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"^backend ") as caught:
        load_backend(place.format(source=source, broken=broken), device)
    assert words in str(caught.value)


@pytest.mark.slow
def test_sweep_takes_a_backend_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = f"{__file__}:decode"
    words = ["sweep", "--page-sizes", "8", "--lengths", "list:9,0", "--heads", "2:1", "--head-dim", "16"]
    assert run([*words, "--device", "emulated", "--backend", place, "--out", "run"]) == 0
    assert place in (tmp_path / "run" / "journal.jsonl").read_text(encoding="utf-8")
