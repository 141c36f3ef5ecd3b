# SPDX-License-Identifier: Apache-2.0
"""The examples of the documents: each is short, shows one idea, is right, and wrong without it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.device.emulated import EmulatedDevice
from pabench.judge.verdict import Verdict, judge
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.masks import MASKS
from pabench.problem.pool import KvPool, pool_shape
from pabench.subjects.backends.base import Backend, attend
from pabench.subjects.registry import load_backend

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
SLOPES = (0.5, 0.25, -1.0, 2.0)
ROWS: dict[str, Any] = {"q_lens": (3, 1, 6)}
SHOWN: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "window": ("decode", {"window": 7}, "n - window", "n - window + 1"),
    "soft_cap": ("decode", {"soft_cap": 2.0}, "np.tanh(", "("),
    "alibi": ("decode", {"alibi_slopes": SLOPES}, "np.float32(n - 1)", "np.float32(n)"),
    "sinks": ("decode", {"sinks": SLOPES}, "np.append(logits, sinks[h])", "logits"),
    "prefill": ("attend", ROWS, "n - (end - 1 - row)", "n - (end - row)"),
    "custom_mask": (
        "attend",
        {**ROWS, "masks": {"image-spans": (((0, 2),), (), ((295, 300),))}},
        "mask[row, :n]",
        "mask[row, :n] | True",
    ),
    "e4m3_cache": (
        "decode",
        {"kv_dtype": "e4m3", "k_scale": (0.5, 3.0)},
        "E4M3[k] * k_scale[:, None]",
        "E4M3[k]",
    ),
    "mla_decode": (
        "mla_decode",
        {"num_kv_heads": 1, "head_dim_v": 8, "latent": True, "sm_scale": 0.25},
        "keys[:, :head_dim_v]",
        "keys[:, -head_dim_v:]",
    ),
    "append": ("decode", {}, "[:n]", "[: n - 1]"),
    "hnd_layout": ("decode", {"kv_layout": "HND"}, "c[pages, kv]", "c[pages, 0]"),
    "rounding": ("decode", {"dtype": "float16"}, 'NumericsProfile(p_dtype="storage")', "NumericsProfile()"),
    "torch_window": ("decode", {"window": 7}, "n - window", "n - window + 1"),
}


@pytest.fixture(scope="module")
def device() -> EmulatedDevice:
    return EmulatedDevice()


def case_of(**asked: Any) -> Case:
    """40 keys and 300 among the sequences: enough for every window, and for roundings to show."""
    layout = {name: asked.pop(name) for name in ("kv_layout", "masks") if name in asked}
    batch = Batch(kv_lens=(3, 5, 300), q_lens=asked.pop("q_lens", None))
    heads = {"num_qo_heads": 4, "num_kv_heads": 2, "head_dim": 16, "page_size": 4}
    return Case(problem=Problem(**{**heads, **asked}), batch=batch, poison="nan", **layout)


def verdict(backend: Backend, case: Case) -> Verdict:
    tensors = build_tensors(case)
    output = attend(backend, tensors)
    return judge(tensors, output.out, output.lse, backend.profile)


@pytest.fixture
def load(device: EmulatedDevice, tmp_path: Path) -> Callable[..., Backend]:
    def loaded(name: str, before: str = "", after: str = "") -> Backend:
        source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
        assert before in source
        path = tmp_path / f"{name}.py"
        path.write_text(source.replace(before, after) if before else source, encoding="utf-8")
        return load_backend(f"{path}:{SHOWN[name][0]}", device)

    return loaded


@pytest.mark.parametrize("name", SHOWN)
def test_example_is_right_and_would_be_found_wrong(load: Any, name: str) -> None:
    if name == "torch_window":
        pytest.importorskip("torch")
    _, asked, before, after = SHOWN[name]
    case = case_of(**asked)
    found = verdict(load(name), case)
    assert found.passed, found.text
    assert not verdict(load(name, before, after), case).passed


@pytest.mark.parametrize("name", SHOWN)
def test_example_is_short_and_listed(name: str) -> None:
    licence, text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").split("\n", 1)
    assert licence.startswith("# SPDX-License-Identifier: ")
    assert len(text.splitlines()) <= 30
    assert text.startswith('"""')
    assert f"[{name}.py]({name}.py)" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_examples_are_all_listed_and_there() -> None:
    listed = set(re.findall(r"\]\(([^)]+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    there = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
    assert listed == there | {"kernel_repository/README.md"}
    assert len(SHOWN) == 12


def test_example_declares_all_masks(load: Any) -> None:
    assert load("custom_mask").capabilities.features == set(MASKS)


def test_example_appends(load: Any) -> None:
    problem = Problem(num_qo_heads=2, num_kv_heads=2, head_dim=4, page_size=4)
    shape = pool_shape(problem, 3, kv_layout="NHD", interleaved=False)
    pool = KvPool(storage=np.zeros(shape, np.float32), kv_layout="NHD", interleaved=False)
    new = np.arange(16, dtype=np.float32).reshape(2, 2, 4)
    written = load("append").append(pool, "float32", new, new + 50, np.array([-1, 9]))
    assert np.array_equal(written[0, 2, 1], new[1])
    assert np.array_equal(written[1, 2, 1], new[1] + 50)
    assert written.sum() == new[1].sum() + (new[1] + 50).sum()
