# SPDX-License-Identifier: Apache-2.0
"""Kernels that wait by themselves for those before them: what is compiled, and what a backend launches."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pabench.device.ptx.source import compile_ptx
from pabench.device.registry import open_device
from pabench.errors import Unsupported
from pabench.judge.verdict import judge
from pabench.kernels import decode, latent, prefill, prefill_wgmma
from pabench.kernels.instance import KernelInstance, kernel_source
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.subjects.backends.base import attend
from pabench.subjects.registry import load_backend
from tests.device.ptx.test_device import needs_nvrtc
from tests.support.probe import DEVICE

MEMORY = re.compile(r"\b(ld|st|atom|red|cp|prefetch|discard)\.(?!param)[a-z0-9.:]*|\bmbarrier\.")
PROBLEM = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=32, page_size=8, dtype="bfloat16")
MIXED = Case(problem=PROBLEM, batch=Batch(kv_lens=(130, 0, 70), q_lens=(1, 1, 20)))


def _smallest(module: Any) -> KernelInstance:
    fit: list[KernelInstance] = [
        one for one in module.instances() if not one.architectures or "sm_90a" in one.architectures
    ]
    return min(fit, key=lambda one: (one.defines["PAB_HEAD_DIM"], sum(one.defines.values())))


def _bodies(module: Any, architecture: str) -> list[str]:
    """PTX of the kernel that plans and of the one that attends."""
    instance = _smallest(module)
    text = compile_ptx(kernel_source(DEVICE, instance.file, **instance.defines), architecture)
    found = {}
    for part in text.split(".entry ")[1:]:
        found[re.split(r"\W", part, maxsplit=1)[0]] = part.partition("{")[2]
    return [found[entry.name] for entry in instance.entries]


@needs_nvrtc
@pytest.mark.parametrize("module", [decode, latent, prefill, prefill_wgmma], ids=lambda one: one.FILE)
def test_attention_waits_before_it_touches_memory(module: Any) -> None:
    plan, attention = _bodies(module, "sm_90a")
    wait = attention.index("griddepcontrol.wait;")
    before = attention[:wait]
    assert not MEMORY.search(before)
    assert not re.search(r"\bbra\b|^\$", before, re.MULTILINE)  # no thread goes around it
    assert MEMORY.search(attention[wait:])
    assert "griddepcontrol.launch_dependents;" in plan
    assert "griddepcontrol.wait" not in plan


@needs_nvrtc
def test_there_is_nothing_of_it_before_sm_90() -> None:
    assert not any("griddepcontrol" in body for body in _bodies(decode, "sm_80"))


def test_attention_is_launched_to_overlap_and_nothing_else() -> None:
    device = open_device("ptx:sm_90a")
    usual, other = (load_backend(name, device) for name in ("rawkernel-mma", "rawkernel-mma-overlap"))
    tensors = build_tensors(MIXED)
    for name, backend, expected in (("usual", usual, False), ("overlap", other, True)):
        plan: Any = backend.plan(tensors)
        again: Any = backend.layer(plan, tensors.q, tensors.pool)  # type: ignore[attr-defined]
        for call in (*plan, *again):
            marks = [launch.overlaps for launch in call.launches]
            assert marks == [False, expected], name


@needs_nvrtc
def test_compiled_attention_that_overlaps_is_right() -> None:
    device = open_device("ptx:sm_90a")
    backend: Any = load_backend("rawkernel-mma-overlap", device)
    tensors = build_tensors(MIXED)
    result = attend(backend, tensors)
    verdict = judge(tensors, result.out, result.lse, backend.profile)
    assert verdict.passed, verdict


@pytest.mark.parametrize("name", ["emulated", "ptx:sm_80"])
def test_it_is_refused_where_nothing_overlaps(name: str) -> None:
    there = name.removeprefix("ptx:")
    rule = (
        f"^rawkernel-mma-overlap: kernels overlap from sm_90 on, not on {there}; .*use --device ptx:sm_90a$"
    )
    with pytest.raises(Unsupported, match=rule):
        load_backend("rawkernel-mma-overlap", open_device(name))
