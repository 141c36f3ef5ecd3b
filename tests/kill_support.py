"""Runs single tests of the suite against a folder of kernels, as the plugin would, without pytest."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from pabench.allocators.registry import allocator_entry
from pabench.backends.rawkernel import RawKernelBackend
from pabench.conformance.examiner import PROFILES, CheckFailed, Examiner, Notebook
from pabench.device.emulated import EmulatedDevice
from pabench.problem.families import FAMILIES
from pabench.resources import resource_dir

SUITE = resource_dir("suites") / "conformance"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"pabench_suite_{name}", SUITE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NAMES = ("decode", "append", "allocators", "allocators_concurrent")
decode, append, allocators, concurrent = (_load(f"test_{name}") for name in NAMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A test of the suite and its arguments beside the examiner."""

    test: Callable[..., None]
    arguments: tuple[str, ...] = ()
    allocator: bool = False


MATRIX: dict[str, Entry] = {
    **{f"decode[{f}]": Entry(test=decode.test_decode_matches_oracle, arguments=(f,)) for f in FAMILIES},
    "decode[long]": Entry(test=decode.test_decode_long_sequences),
    "decode[high-page-ids]": Entry(test=decode.test_decode_high_page_ids),
    "poison": Entry(test=decode.test_dead_slots_change_nothing),
    "table-tail": Entry(test=decode.test_unused_table_entries_change_nothing),
    "placement": Entry(test=decode.test_page_placement_changes_nothing),
    "views": Entry(test=decode.test_strided_views_change_nothing),
    "empty": Entry(test=decode.test_empty_sequences),
    "repeat": Entry(test=decode.test_runs_repeat_bit_for_bit),
    "reject": Entry(test=decode.test_corrupt_problems_are_refused),
    "append": Entry(test=append.test_append_is_exact_and_touches_nothing_else),
    "allocator-invariants": Entry(test=allocators.test_allocator_keeps_its_invariants, allocator=True),
    "allocator-decode": Entry(test=allocators.test_allocator_tables_lead_a_kernel, allocator=True),
    "allocator-concurrent": Entry(test=concurrent.test_allocator_threads_do_not_share_pages, allocator=True),
}
"""Check id to the test that examines it."""


def names_in_suite() -> set[str]:
    """Names of all tests of the suite."""
    found: set[str] = set()
    for path in SUITE.glob("test_*.py"):
        module = _load(path.stem)
        found |= {name for name, _ in inspect.getmembers(module, inspect.isfunction) if name[:5] == "test_"}
    return found


def narrow_backend(
    device: EmulatedDevice, *, dtypes: Sequence[str] = ("float32",), max_head_dim: int = 16
) -> RawKernelBackend:
    """Our backend, declared to do little, so that few instances are compiled."""
    backend = RawKernelBackend(device)
    narrow = replace(backend.capabilities, dtypes=frozenset(dtypes), max_head_dim=max_head_dim)
    object.__setattr__(backend, "capabilities", narrow)
    return backend


def examiner_of(kernels: Path, *, seed: int = 0, shrink: bool = False, **narrow: Any) -> Examiner:
    """An examiner with the quick profile's number of cases."""
    device = EmulatedDevice(kernels=kernels)
    return Examiner(
        subject="scan",
        device=device,
        effort=replace(PROFILES["quick"], shrink=shrink),
        seed=seed,
        backend=narrow_backend(device, **narrow),
        allocator=allocator_entry("scan"),
    )


def examine(check: str, kernels: Path, **options: Any) -> Notebook:
    """Run one check of the suite and return what happened."""
    return run_check(check, examiner_of(kernels, **options))


def run_check(check: str, examiner: Examiner) -> Notebook:
    """Run one check of the suite on what ``examiner`` examines."""
    entry = MATRIX[check]
    try:
        entry.test(examiner, *entry.arguments)
    except CheckFailed:
        assert examiner.notebook.outcome is not None
    assert examiner.notebook.check == check
    return examiner.notebook
