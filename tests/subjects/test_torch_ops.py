# SPDX-License-Identifier: Apache-2.0
"""Operators of torch as backends, by the name that they are registered under."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pabench
from pabench.cli.main import run
from pabench.device.emulated import EmulatedDevice
from pabench.errors import PabenchError
from pabench.subjects.backends.function import FunctionBackend
from pabench.subjects.registry import is_place, load_backend

SOURCE = """
import torch
from torch import Tensor
from typing import Optional


@torch.library.custom_op("{space}::decode", mutates_args=())
def decode(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, block_table: Tensor, kv_lens: Tensor, sm_scale: float,
    window: Optional[int] = None,
) -> tuple[Tensor, Tensor]:
    out, lse = torch.zeros_like(q), torch.full(q.shape[:2], -torch.inf)
    group = q.shape[1] // k_cache.shape[2]
    for i, n in enumerate(kv_lens.tolist()):
        first = 0 if window is None else max(0, n - window)
        pages = block_table[i, : -(-n // k_cache.shape[1])].long()
        k, v = (c[pages].flatten(0, 1)[first:n].double() for c in (k_cache, v_cache))
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        logits = torch.einsum("hd,nhd->hn", q[i].double(), k) * sm_scale
        if n:
            out[i] = torch.einsum("hn,nhd->hd", logits.softmax(1), v).to(q.dtype)
            lse[i] = logits.logsumexp(1)
    return out, lse
"""
torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_torch_operator_is_loaded_by_its_name() -> None:
    Path("ops.py").write_text(SOURCE.format(space="pab_one"))
    name = "ops.py:torch.ops.pab_one.decode"
    assert is_place("backend", name)
    backend = load_backend(name, EmulatedDevice())
    assert isinstance(backend, FunctionBackend)
    assert backend.name == name
    # its schema names a window
    assert backend.capabilities.features == {"window"}
    assert load_backend(f"{name}.default", EmulatedDevice()).capabilities.features == {"window"}
    # registered by now, so that its file need not be named
    assert load_backend("torch.ops.pab_one.decode", EmulatedDevice()).name == "torch.ops.pab_one.decode"


def test_torch_operator_of_a_package_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pab_two").mkdir()
    (tmp_path / "pab_two" / "__init__.py").write_text(SOURCE.format(space="pab_two"))
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(load_backend("torch.ops.pab_two.decode", EmulatedDevice()), FunctionBackend)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torch.ops.pab_none.decode", "there is no torch.ops.pab_none.decode: name what registers it"),
        ("ops.py:torch.ops.pab_three.encode", "ops.py registers none; torch.ops.pab_three has decode"),
        ("ops.py:torch.ops.pab_three.decode.fast", "there is no torch.ops.pab_three.decode"),
        ("none.py:torch.ops.pab_three.decode", "none.py: no such file"),
        ("no_such_module:torch.ops.pab_three.decode", "no module named 'no_such_module'"),
        ("torch.ops.aten.relu", "torch.ops.aten.relu: it has 1 parameters; it is called with .q, k_cache, "),
    ],
)
def test_torch_operator_is_refused(name: str, said: str) -> None:
    Path("ops.py").write_text(SOURCE.format(space="pab_three"))
    with pytest.raises(PabenchError, match=said) as caught:
        load_backend(name, EmulatedDevice())
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_torch_operator_is_judged(capfd: pytest.CaptureFixture[str]) -> None:
    Path("ops.py").write_text(SOURCE.format(space="pab_four").replace("n - window", "n - window + 1"))
    words = ["conformance", "-k", "decode[window]", "--profile", "quick", "--out", "run"]
    assert run([*words, "--backend", "ops.py:torch.ops.pab_four.decode"]) == 1
    assert "first key missing" in capfd.readouterr().out


@pytest.mark.slow
def test_torch_operator_is_checked_in_this_program() -> None:
    names: dict[str, Any] = {}
    exec(SOURCE.format(space="pab_five"), names)
    found = pabench.check(torch.ops.pab_five.decode, only="decode[normal], decode[window]")
    assert found.passed, found
    assert found.subject == "decode"
    assert found.to_frame()["status"].tolist() == ["passed"] * 2
