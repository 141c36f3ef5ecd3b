# SPDX-License-Identifier: Apache-2.0
"""Asks single questions of the suite against a folder of kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pabench.checks.case_budget import CASE_BUDGETS, CaseBudget
from pabench.checks.ledger import Deviation
from pabench.checks.question import AnyQuestion
from pabench.checks.record import CheckRecord
from pabench.checks.runner import CheckRunner
from pabench.checks.subject_facts import Judged
from pabench.checks.suite import question_by_id
from pabench.device.base import Device
from pabench.device.emulated import EmulatedDevice
from pabench.problem.merge import SPREADS
from pabench.resources import resource_dir
from pabench.selftest.killing import CHEAP
from pabench.selftest.mutants import Mutant, overlay
from pabench.subjects.allocators.entry import AllocatorEntry
from pabench.subjects.backends.base import Backend
from pabench.subjects.backends.rawkernel import RawKernelBackend
from pabench.subjects.backends.rawkernel_cascade import RawKernelCascadeBackend
from pabench.subjects.backends.rawkernel_mla import RawKernelMlaBackend
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from pabench.subjects.registry import load_allocator
from tests.support.apart import CRASHED, apart

BACKEND_OF = {"speculative": "rawkernel-mma", "shared-prefix": "rawkernel-cascade"}
"""One of our backends that offers what a question needs, where rawkernel does not."""

TENSOR_CORE = {
    "rawkernel-mma": RawKernelMmaBackend,
    "rawkernel-mla": RawKernelMlaBackend,
    "rawkernel-cascade": RawKernelCascadeBackend,
}

PLACES = {
    "attention": r"sequence \d+(, query head \d+(, dim \d+)?| is empty|, query row \d+, sees no key)",
    **dict.fromkeys(
        (
            "append",
            "append-e4m3",
            "append-stored",
            "append-paged",
            "append-huge-pool",
            "append-paged-huge-pool",
        ),
        r"(key|value) in slot \d+ \(page \d+, offset \d+\), KV head \d+, (dim|byte) \d+",
    ),
    **dict.fromkeys(
        ("copy-pages", "copy-pages[many]"),
        r"layer \d+: (key|value) in page \d+, offset \d+, KV head \d+, dim \d+",
    ),
    "copy-pages-huge-pool": r"layer \d+: (key|value) in page \d+, offset \d+, KV head \d+, dim \d+",
    "gather[huge-pool]": r"(key|value) of sequence \d+, token \d+ \(page \d+\)",
    "gather": r"(key|value) of sequence \d+, token \d+ \(page \d+\), KV head \d+, dim \d+",
    **dict.fromkeys(
        (*(f"merge[{spread}]" for spread in SPREADS), "merge-empty", "merge-in-place"),
        r"row \d+, head \d+",
    ),
    "padded-rows[prefill]": r"row \d+, which is padding",
    "allocator-invariants": r"operation \d+ \([a-z_]+\): ",
}
"""What a verdict says about where: by check, ``attention`` for the rest."""


def plant(mutant: Mutant, folder: Path) -> Path:
    """Return a copy of the kernels with the fault in it."""
    return overlay(mutant, resource_dir("kernels_cuda"), folder / "kernels")


def place_of(check: str) -> str:
    """Return the pattern of a place in a verdict of ``check``; a crash has none."""
    return f"{PLACES.get(check, PLACES['attention'])}|^{CRASHED}: "


def device_of(kernels: Path, **options: Any) -> EmulatedDevice:
    """Return a device with ``kernels``; those with a fault in them are compiled in a hurry, for one run."""
    flags = () if kernels == resource_dir("kernels_cuda") else CHEAP
    return EmulatedDevice(kernels=kernels, flags=flags, **options)


def narrow_backend(
    device: EmulatedDevice,
    *,
    backend: str = "rawkernel",
    dtypes: Sequence[str] | None = None,
    max_head_dim: int = 16,
    features: Sequence[str] = (),
) -> Backend:
    """One of our backends, declared to do little, so that few instances are compiled."""
    if backend in TENSOR_CORE:
        made: Backend = TENSOR_CORE[backend](device)
        dtypes = dtypes or ("bfloat16",)
    else:
        made = RawKernelBackend(device)
        dtypes = dtypes or ("float32",)
    can = made.capabilities
    narrow = replace(
        can,
        dtypes=frozenset(dtypes),
        max_head_dim=max_head_dim,
        features=can.features & frozenset(features),
    )
    object.__setattr__(made, "capabilities", narrow)
    return made


def ask(
    question: str | AnyQuestion,
    subject: Backend | AllocatorEntry,
    device: Device,
    *,
    case_budget: CaseBudget | None = None,
    profile: str = "quick",
    seed: int = 0,
    name: str = "subject",
    known: tuple[Deviation, ...] = (),
) -> CheckRecord:
    """Ask one question, without making a failure smaller unless ``case_budget`` says so."""
    entry = isinstance(subject, AllocatorEntry)
    judged = Judged(
        name=name,
        kind="allocator" if entry else "backend",
        allocator=subject if isinstance(subject, AllocatorEntry) else None,
        backend=None if isinstance(subject, AllocatorEntry) else subject,
        known=known,
    )
    case_budget = case_budget or replace(CASE_BUDGETS[profile], shrink=False)
    row = question_by_id(question) if isinstance(question, str) else question
    return CheckRunner(device=device, case_budget=case_budget, seed=seed).ask(row, judged)


def examine(
    check: str | AnyQuestion,
    kernels: Path,
    *,
    backend: str | None = None,
    seed: int = 0,
    profile: str = "quick",
    **narrow: Any,
) -> CheckRecord:
    """Ask one question of one of our subjects, made of ``kernels``, and return what happened."""
    device = device_of(kernels)
    row = question_by_id(check) if isinstance(check, str) else check
    subject: Backend | AllocatorEntry = load_allocator("scan")
    if row.subject_kind == "backend":
        subject = narrow_backend(device, backend=backend or BACKEND_OF.get(row.id, "rawkernel"), **narrow)
    return ask(row, subject, device, seed=seed, profile=profile, name="scan")


WILD = {
    "barrier-after-weights-removed",
    "causal-top-left",
    "mma-page-stride-rebuilt",
    "mma-table-entry-after-the-last",
    "prefill-live-keys-unseen-copied",
    "prefill-live-lists-of-the-first-sequence",
    "prefill-table-entry-after-the-last",
    "row-of-the-sequence-before",
    "simple-sequence-of-32",
    "table-entry-after-the-last",
}
"""Planted faults that take what lies beside an array for a page id, or touch a guard page: each runs in a
process of its own."""


def killed(mutant: Mutant, kernels: Path, **options: Any) -> str | None:
    """Run ``examine`` with the check that kills, and return the verdict's text, or None where it passes.

    That a process crashed is a verdict too, as it is in the suite.
    """
    order: dict[str, Any] = {"check": mutant.killed_by, "kernels": str(kernels), "options": options}
    return apart(verdict, **order) if mutant.id in WILD else verdict(**order)


def verdict(check: str, kernels: str, options: dict[str, Any]) -> str | None:
    """Return the text of what ``examine`` finds, or None."""
    outcome = examine(check, Path(kernels), **options).outcome
    return None if outcome is None else outcome.text
