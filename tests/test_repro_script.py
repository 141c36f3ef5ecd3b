"""The script beside a saved case: numpy and the kernel are all it needs, and its truth is the oracle's."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pabench.conformance.calibration import KINDS, random_case
from pabench.conformance.case_files import REPRO_FILE, SavedCase, save_case
from pabench.oracle.reference import truth
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.merge import MergeCase
from pabench.problem.profile import ComputeProfile

KERNELS = Path(__file__).resolve().parents[1] / "docs" / "examples" / "kernel_repository" / "my_kernels.py"
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


@pytest.mark.parametrize("kind", KINDS)
def test_repro_script_computes_what_the_oracle_computes(kind: str, tmp_path: Path) -> None:
    for number in range(6):
        case = random_case(kind, np.random.default_rng([KINDS.index(kind), number]))
        script = script_of(case, tmp_path / str(number))
        with np.load(tmp_path / str(number) / "arrays.npz") as stored:
            out, lse, size = script.expected(dict(stored))
        right = truth(build_tensors(case), ComputeProfile())
        assert np.allclose(out, right.out, rtol=1e-9, atol=1e-9 * max(1.0, float(size.max(initial=0.0))))
        assert np.allclose(lse, right.lse, rtol=1e-9, atol=1e-9)


def run_alone(case: Case, kernel: str, folder: Path) -> str:
    """Run the script in an empty folder, where pabench cannot be imported; return what it prints."""
    saved, empty = folder / "saved", folder / "empty"
    saved.mkdir()
    empty.mkdir()
    subject = f"{KERNELS}:{kernel}"
    save_case(
        saved, SavedCase(case=case, check="decode[normal]", subject=subject, device="emulated"), "wrong"
    )
    command = [sys.executable, "-I", "-c", ALONE, str(saved / REPRO_FILE)]
    ended = subprocess.run(command, cwd=empty, capture_output=True, text=True, timeout=120, check=True)
    assert ended.stderr == ""
    assert not list(empty.iterdir())
    return ended.stdout


def roundings(said: str, name: str) -> float:
    """What the script says of output or LSE."""
    found = re.search(rf"^{name}: off by (\S+) roundings at query row \d", said, re.M)
    assert found, said
    return float(found[1])


def test_repro_script_tells_a_right_kernel_from_a_wrong_one(tmp_path: Path) -> None:
    (tmp_path / "right").mkdir()
    (tmp_path / "wrong").mkdir()
    right = run_alone(PLAIN, "decode", tmp_path / "right")
    wrong = run_alone(PLAIN, "decode_last_page", tmp_path / "wrong")
    assert right.startswith("decode[normal] of ")
    assert "the suite said: wrong" in right
    assert roundings(right, "output") < 4
    assert roundings(right, "LSE") < 100
    assert roundings(wrong, "output") > 100
    assert roundings(wrong, "LSE") > 10_000


def test_repro_script_is_left_out_where_it_could_do_nothing(tmp_path: Path) -> None:
    merge = MergeCase(dtype="float32", num_states=2, num_rows=2, num_heads=1, head_dim=4)
    save_case(tmp_path, SavedCase(case=merge, check="merge", subject="rawkernel", device="emulated"), "wrong")
    assert (tmp_path / "arrays.npz").is_file()
    assert not (tmp_path / REPRO_FILE).exists()
