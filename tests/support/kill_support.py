"""Runs single tests of the suite against a folder of kernels, as the plugin would, without pytest."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from pabench.activities.conformance.examiner import PROFILES, CheckFailed, Examiner, Notebook
from pabench.checks.relation_checks import RELATIONS
from pabench.device.emulated import EmulatedDevice
from pabench.problem.families import FAMILIES
from pabench.problem.merge import SPREADS
from pabench.resources import resource_dir
from pabench.selftest.mutants import Mutant, overlay
from pabench.subjects.allocators.registry import allocator_entry
from pabench.subjects.backends.base import Backend
from pabench.subjects.backends.rawkernel import RawKernelBackend
from pabench.subjects.backends.rawkernel_cascade import RawKernelCascadeBackend
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend
from tests.support.apart import CRASHED, apart

SUITE = resource_dir("suites") / "conformance"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"pabench_suite_{name}", SUITE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


decode, prefill, append, copy, gather, merge = (
    _load(f"test_{name}") for name in ("decode", "prefill", "append", "copy", "gather", "merge")
)
allocators, concurrent, contract, relations = (
    _load(f"test_{name}") for name in ("allocators", "allocators_concurrent", "contract", "relations")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A test of the suite and its arguments beside the examiner."""

    test: Callable[..., None]
    arguments: tuple[str, ...] = ()
    backend: str = "rawkernel"


MATRIX: dict[str, Entry] = {
    **{f"decode[{f}]": Entry(test=decode.test_decode_matches_oracle, arguments=(f,)) for f in FAMILIES},
    **{f"decode[{f}]": Entry(test=decode.test_decode_features, arguments=(f,)) for f in decode.ABOUT},
    **{
        f"prefill[{k}]": Entry(test=prefill.test_prefill_matches_oracle, arguments=(k,))
        for k in prefill.ABOUT
    },
    "prefill[long]": Entry(test=prefill.test_prefill_long_prompts),
    "prefill[high-page-ids]": Entry(test=prefill.test_prefill_high_page_ids),
    "poison[prefill]": Entry(test=prefill.test_prefill_unread_slots_change_nothing),
    "empty[prefill]": Entry(test=prefill.test_prefill_rows_that_see_nothing),
    "repeat[prefill]": Entry(test=prefill.test_prefill_same_bits_every_run),
    "decode[long]": Entry(test=decode.test_decode_long_sequences),
    "decode[high-page-ids]": Entry(test=decode.test_decode_high_page_ids),
    "decode[wide-heads]": Entry(test=decode.test_decode_wide_heads),
    "decode[captured]": Entry(test=decode.test_decode_captured_activations),
    "decode[vast-pools]": Entry(test=decode.test_decode_vast_pools),
    "speculative": Entry(test=decode.test_speculative_decode, backend="rawkernel-mma"),
    "poison": Entry(test=decode.test_dead_slots_change_nothing),
    "table-tail": Entry(test=decode.test_unused_table_entries_change_nothing),
    "placement": Entry(test=decode.test_page_placement_changes_nothing),
    "shared-prefix": Entry(test=decode.test_shared_prefixes, backend="rawkernel-cascade"),
    "views": Entry(test=decode.test_strided_views_change_nothing),
    "empty": Entry(test=decode.test_empty_sequences),
    "repeat": Entry(test=decode.test_runs_repeat_bit_for_bit),
    "placement[high-page-ids]": Entry(test=decode.test_large_page_ids_change_nothing),
    "reject": Entry(test=contract.test_corrupt_problems_are_refused),
    "append-reject": Entry(test=contract.test_corrupt_writes_are_refused),
    "guard": Entry(test=contract.test_arrays_are_read_within_their_ends),
    "guard[prefill]": Entry(test=contract.test_prefill_arrays_are_read_within_their_ends),
    "plans": Entry(test=contract.test_plans_do_not_disturb_each_other),
    "replay": Entry(test=contract.test_plans_answer_for_what_their_arrays_hold),
    "launch-limits": Entry(test=contract.test_grids_beyond_one_launch_are_right_or_refused),
    **{name: Entry(test=relations.test_relation_holds, arguments=(name,)) for name in RELATIONS},
    "append": Entry(test=append.test_append_is_exact_and_touches_nothing_else),
    "append-e4m3": Entry(test=append.test_append_rounds_once_to_e4m3),
    "append-paged": Entry(test=append.test_append_finds_the_slots_itself),
    **{
        f"{name}[high-page-ids]": Entry(test=append.test_append_to_high_pages, arguments=(name,))
        for name in ("append", "append-paged")
    },
    "copy-pages": Entry(test=copy.test_page_copies_are_exact_and_touch_nothing_else),
    "gather": Entry(test=gather.test_gather_is_exact),
    **{f"merge[{s}]": Entry(test=merge.test_merge_is_within_the_bound, arguments=(s,)) for s in SPREADS},
    "parts": Entry(test=merge.test_parts_of_the_keys_merge_to_the_whole),
    "merge-empty": Entry(test=merge.test_merge_ignores_states_without_keys),
    "allocator-invariants": Entry(test=allocators.test_allocator_keeps_its_invariants),
    "allocator-invariants[long-rows]": Entry(test=allocators.test_allocator_serves_long_rows),
    "allocator-invariants[crowd]": Entry(test=allocators.test_allocator_serves_a_crowd),
    "allocator-decode": Entry(test=allocators.test_allocator_tables_lead_a_kernel),
    "allocator-concurrent": Entry(test=concurrent.test_allocator_threads_do_not_share_pages),
}
"""Check id to the test that examines it, and one of our backends that offers what it needs."""

TENSOR_CORE = {"rawkernel-mma": RawKernelMmaBackend, "rawkernel-cascade": RawKernelCascadeBackend}

PLACES = {
    "attention": r"sequence \d+(, query head \d+(, dim \d+)?| is empty|, query row \d+, sees no key)",
    **dict.fromkeys(
        ("append", "append-e4m3", "append-paged"),
        r"(key|value) in slot \d+ \(page \d+, offset \d+\), KV head \d+, dim \d+",
    ),
    "copy-pages": r"layer \d+: (key|value) in page \d+, offset \d+, KV head \d+, dim \d+",
    "gather": r"(key|value) of sequence \d+, token \d+ \(page \d+\), KV head \d+, dim \d+",
    **dict.fromkeys(
        (*(f"merge[{spread}]" for spread in SPREADS), "merge-empty"),
        r"row \d+, head \d+",
    ),
    "allocator-invariants": r"operation \d+ \([a-z_]+\): ",
}
"""What a verdict says about where: by check, ``attention`` for the rest."""


def plant(mutant: Mutant, folder: Path) -> Path:
    """Return a copy of the kernels with the fault in it."""
    return overlay(mutant, resource_dir("kernels_cuda"), folder / "kernels")


def place_of(check: str) -> str:
    """Return the pattern of a place in a verdict of ``check``; a crash has none."""
    return f"{PLACES.get(check, PLACES['attention'])}|^{CRASHED}: "


def names_in_suite() -> set[str]:
    """Names of all tests of the suite."""
    found: set[str] = set()
    for path in SUITE.glob("test_*.py"):
        module = _load(path.stem)
        found |= {name for name, _ in inspect.getmembers(module, inspect.isfunction) if name[:5] == "test_"}
    return found


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


def examiner_of(
    kernels: Path, *, seed: int = 0, shrink: bool = False, profile: str = "quick", **narrow: Any
) -> Examiner:
    """An examiner with a profile's number of cases."""
    device = EmulatedDevice(kernels=kernels)
    return Examiner(
        subject="scan",
        device=device,
        effort=replace(PROFILES[profile], shrink=shrink),
        seed=seed,
        backend=narrow_backend(device, **narrow),
        allocator=allocator_entry("scan"),
    )


def examine(check: str, kernels: Path, *, backend: str | None = None, **options: Any) -> Notebook:
    """Run one check of the suite and return what happened."""
    options["backend"] = backend or MATRIX[check].backend
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


WILD = {
    "causal-top-left",
    "mma-page-stride-rebuilt",
    "mma-table-entry-after-the-last",
    "prefill-table-entry-after-the-last",
    "row-of-the-sequence-before",
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
