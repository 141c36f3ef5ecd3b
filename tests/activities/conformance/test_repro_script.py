# SPDX-License-Identifier: Apache-2.0
"""The script beside a saved case: numpy and the kernel are all it needs, and its truth is the oracle's."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pabench.checks.case_files import REPRO_FILE, AnyCase, SavedCase
from pabench.judge.reference import truth
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.append import AppendCase
from pabench.problem.merge import MergeCase
from pabench.problem.profile import NumericsProfile
from pabench.selftest.calibration import KINDS, random_case
from tests.support.saved_cases import save_case

KERNELS = Path(__file__).resolve().parents[3] / "docs" / "examples" / "kernel_repository" / "my_kernels.py"
PLAIN = Case(
    problem=Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=4, dtype="float16"),
    batch=Batch(kv_lens=(9, 0, 33)),
    poison="nan",
    seed=3,
)
ALONE = """
import runpy, sys
sys.modules["pabench"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def script_of(case: Case, folder: Path) -> ModuleType:
    """The script of a saved case, loaded."""
    folder.mkdir()
    save_case(folder, SavedCase(case=case, check="decode", subject="rawkernel", device="emulated"), "wrong")
    spec = importlib.util.spec_from_file_location("repro_under_test", folder / REPRO_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_repro_script_is_not_there_for_what_it_would_get_wrong(tmp_path: Path) -> None:
    latent = replace(PLAIN.problem, num_kv_heads=1, head_dim_v=8, latent=True, sm_scale=1.0)
    case = AppendCase(problem=latent, num_pages=2, slots=(1, 3))
    save_case(tmp_path, SavedCase(case=case, check="append", subject="rawkernel", device="emulated"), "wrong")
    assert (tmp_path / "arrays.npz").is_file()
    assert not (tmp_path / REPRO_FILE).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_repro_script_computes_what_the_oracle_computes(kind: str, tmp_path: Path) -> None:
    for number in range(6):
        case = random_case(kind, np.random.default_rng([KINDS.index(kind), number]))
        script = script_of(case, tmp_path / str(number))
        with np.load(tmp_path / str(number) / "arrays.npz") as stored:
            out, lse, size = script.expected(dict(stored))
        right = truth(build_tensors(case), NumericsProfile())
        assert np.allclose(out, right.out, rtol=1e-9, atol=1e-9 * max(1.0, float(size.max(initial=0.0))))
        assert np.allclose(lse, right.lse, rtol=1e-9, atol=1e-9)


def run_alone(case: AnyCase, kernel: str, folder: Path, check: str = "decode[normal]") -> str:
    """Run the script in an empty folder, where pabench cannot be imported; return what it prints."""
    saved, empty = folder / "saved", folder / "empty"
    saved.mkdir(parents=True)
    empty.mkdir()
    save_case(saved, SavedCase(case=case, check=check, subject=kernel, device="emulated"), "wrong")
    command = [sys.executable, "-I", "-c", ALONE, str(saved / REPRO_FILE)]
    ended = subprocess.run(command, cwd=empty, capture_output=True, text=True, timeout=120, check=True)
    assert ended.stderr == ""
    assert not list(empty.iterdir())
    return ended.stdout


def roundings(said: str, name: str) -> float:
    """What the script says of output or LSE."""
    found = re.search(rf"^{name}: off by (\S+) roundings at (query )?row \d", said, re.M)
    assert found, said
    return float(found[1])


def test_repro_script_tells_a_right_kernel_from_a_wrong_one(tmp_path: Path) -> None:
    right = run_alone(PLAIN, f"{KERNELS}:decode", tmp_path / "right")
    wrong = run_alone(PLAIN, f"{KERNELS}:decode_last_page", tmp_path / "wrong")
    assert right.startswith("decode[normal] of ")
    assert "the suite said: wrong" in right
    assert roundings(right, "output") < 4
    assert roundings(right, "LSE") < 100
    assert roundings(wrong, "output") > 100
    assert roundings(wrong, "LSE") > 10_000


def test_repro_script_finds_the_kernel_in_a_folder_above_it(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one" / "failures" / "case"
    folder.mkdir(parents=True)
    (tmp_path / "mine.py").write_text("from beside import decode\n")
    (tmp_path / "beside.py").write_text(KERNELS.read_text())
    save_case(
        folder, SavedCase(case=PLAIN, check="decode", subject="mine.py:decode", device="emulated"), "wrong"
    )
    command = [sys.executable, REPRO_FILE]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.stderr, ended.returncode) == ("", 0)
    assert roundings(ended.stdout, "output") < 4
    (tmp_path / "mine.py").unlink()
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert "mine.py: no such file; name the kernel" in ended.stderr


CACHE_KERNELS = """
import numpy as np

def append(keys, values, k_cache, v_cache, slot_mapping, late=0):
    size = k_cache.shape[1]
    for token, slot in enumerate(slot_mapping):
        if slot >= 0:
            k_cache[slot // size, slot % size] = keys[token]
            v_cache[slot // size, (slot + late) % size] = values[token]

def append_values_late(*arrays):
    append(*arrays, late=1)

def merge(outs, lses, base=np.e):
    top = np.where(np.isfinite(lses).any(0), lses.max(0), 0)
    weights = np.power(np.float64(base), lses - top)
    total = weights.sum(0)
    kept = np.where(np.isfinite(lses)[..., None], outs, 0)
    with np.errstate(divide="ignore"):
        lse = top + np.log(total)
    out = (weights / np.where(total > 0, total, 1))[..., None] * kept
    return out.sum(0).astype(outs.dtype), lse.astype(np.float32)

def merge_base_2(outs, lses):
    return merge(outs, lses, 2.0)
"""


@pytest.fixture
def kernels(tmp_path: Path) -> str:
    file = tmp_path / "cache_kernels.py"
    file.write_text(CACHE_KERNELS)
    return str(file)


def test_repro_script_of_an_append_names_the_first_wrong_slot(kernels: str, tmp_path: Path) -> None:
    problem = Problem(num_qo_heads=2, num_kv_heads=2, head_dim=8, page_size=4, dtype="bfloat16")
    case = AppendCase(problem=problem, num_pages=5, slots=(17, -1, 2), interleaved=True)
    right = run_alone(case, f"{kernels}:append", tmp_path / "right", "append")
    assert "keys: every bit as it must be\nvalues: every bit as it must be\n" in right
    wrong = run_alone(case, f"{kernels}:append_values_late", tmp_path / "wrong", "append")
    assert "keys: every bit as it must be\nvalues: " in wrong
    assert re.search(
        r"elements wrong, first in slot 2 \(page 0, offset 2\), KV head 0, dim 0, .* token 2", wrong
    )


@pytest.mark.parametrize("kv_layout", ["NHD", "HND"])
@pytest.mark.parametrize("check", ["append", "append-e4m3", "append-paged"])
def test_repro_script_of_an_append_agrees_with_our_kernel(check: str, kv_layout: str, tmp_path: Path) -> None:
    scaled: dict[str, Any] = {"kv_dtype": "e4m3", "k_scale": (0.25,), "v_scale": (2.0, 0.5)}
    problem = Problem(
        num_qo_heads=2,
        num_kv_heads=2,
        head_dim=16,
        page_size=4,
        dtype="float16",
        **(scaled if check == "append-e4m3" else {}),
    )
    where: dict[str, Any] = {"slots": (17, -1, 2, 3)}
    if check == "append-paged":
        where = {"block_table": ((3, 1), (0, 2)), "kv_lens": (6, 3), "q_lens": (3, 1)}
    case = AppendCase(problem=problem, num_pages=5, kv_layout=kv_layout, seed=4, **where)
    said = printed_with_pabench(case, check, tmp_path)
    assert "keys: every bit as it must be\nvalues: every bit as it must be\n" in said


def test_repro_script_of_a_merge_tells_right_from_wrong(kernels: str, tmp_path: Path) -> None:
    case = MergeCase(num_states=3, num_rows=4, num_heads=2, head_dim=8, empty="some", poison="nan", seed=2)
    right = run_alone(case, f"{kernels}:merge", tmp_path / "right", "merge[close]")
    assert right.startswith("merge[close] of ")
    assert roundings(right, "output") < 4
    assert roundings(right, "LSE") < 100
    wrong = run_alone(case, f"{kernels}:merge_base_2", tmp_path / "wrong", "merge[close]")
    assert roundings(wrong, "output") > 100


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_repro_script_of_a_merge_agrees_with_our_kernel(dtype: str, tmp_path: Path) -> None:
    case = MergeCase(
        num_states=3, num_rows=4, num_heads=2, head_dim=8, dtype=dtype, empty="some", poison="nan"
    )
    said = printed_with_pabench(case, "merge", tmp_path)
    assert roundings(said, "output") < 50


def printed_with_pabench(case: AnyCase, check: str, folder: Path) -> str:
    """What the script says of our own backend, for which it imports pabench."""
    save_case(folder, SavedCase(case=case, check=check, subject="rawkernel", device="emulated"), "wrong")
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, str(folder / REPRO_FILE)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=True
    ).stdout


@pytest.mark.parametrize("check", ["copy-pages", "append-reject"])
def test_repro_script_is_left_out_where_it_could_do_nothing(check: str, tmp_path: Path) -> None:
    problem = Problem(num_qo_heads=2, num_kv_heads=2, head_dim=8, page_size=4)
    case = AppendCase(problem=problem, num_pages=5, slots=(17,))
    save_case(tmp_path, SavedCase(case=case, check=check, subject="rawkernel", device="emulated"), "wrong")
    assert (tmp_path / "arrays.npz").is_file()
    assert not (tmp_path / REPRO_FILE).exists()
