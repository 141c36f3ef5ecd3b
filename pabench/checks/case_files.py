# SPDX-License-Identifier: Apache-2.0
"""Case directories, the writing side: a failing case as files.

``case.json`` holds check, subject, device and the case itself; ``arrays.npz`` holds the arrays it stood for,
for readers without pabench; ``verdict.txt`` is what was wrong; ``repro.py`` runs a kernel on the arrays,
with numpy alone, where the check is of attention, of appending or of merging.  ``failures.py`` reads
``case.json`` back.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pabench.judge.allocators.history import HistoryCase, history_from_dict
from pabench.judge.gather import query_numbers
from pabench.problem.append import AppendCase, append_case_from_dict, build_append
from pabench.problem.case import Case, case_from_dict
from pabench.problem.merge import MergeCase, build_merge, merge_case_from_dict
from pabench.problem.pool import pool_parts
from pabench.problem.problem import FEATURES
from pabench.problem.recorded import RECORDED
from pabench.problem.tensors import Tensors, build_tensors, sequences_of
from pabench.problem.visibility import seen_keys
from pabench.resources import resource_dir
from pabench.workloads import captured as captured

AnyCase = Case | AppendCase | MergeCase | HistoryCase
READERS: dict[str, Callable[[Any], AnyCase]] = {
    "attention": case_from_dict,
    "append": append_case_from_dict,
    "merge": merge_case_from_dict,
    "history": history_from_dict,
}
REPRO_FILE, REPRO_TOOLS = "repro.py", "repro_tools.py"
SCRIPTS = {"attention": REPRO_FILE, "append": "repro_append.py", "merge": "repro_merge.py"}
"""Template of the script by the kind of case."""
APPENDS = ("append", "append-e4m3", "append-paged", "workload-append")
"""Checks of appending; other checks use its cases for something else."""
MAX_ARRAY_BYTES = 2**26
"""Larger caches are left out of ``arrays.npz``; the case rebuilds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCase:
    """What a case directory holds."""

    check: str
    subject: str
    device: str
    case: AnyCase


def save_arrays(folder: Path, check: str, case: AnyCase) -> None:
    """Write the arrays of a case, and a script that runs a kernel on them, into the existing ``folder``."""
    arrays = _arrays(case)
    # what was recorded cannot be made again
    only_here = isinstance(case, Case) and case.family == RECORDED
    if arrays and (only_here or sum(array.nbytes for array in arrays.values()) <= MAX_ARRAY_BYTES):
        np.savez_compressed(folder / "arrays.npz", **arrays)
        script = script_of(check, case)
        if script is not None:
            shutil.copyfile(resource_dir("templates") / script, folder / REPRO_FILE)
            shutil.copyfile(resource_dir("templates") / REPRO_TOOLS, folder / REPRO_TOOLS)


def script_of(check: str, case: AnyCase) -> str | None:
    """Return the template of the script that runs a kernel on the case, or None where there is none."""
    kind = kind_of(case)
    if kind == "append" and check.partition("[")[0] not in APPENDS:
        return None
    if isinstance(case, AppendCase) and not _alike(case):
        # the script knows pools of five axes, and e4m3: it would expect wrong bits
        return None
    return SCRIPTS.get(kind)


def kind_of(case: AnyCase) -> str:
    """Return the name of the case's kind, a key of ``READERS``."""
    if isinstance(case, HistoryCase):
        return "history"
    if isinstance(case, MergeCase):
        return "merge"
    return "append" if isinstance(case, AppendCase) else "attention"


def _arrays(case: AnyCase) -> dict[str, Any]:
    if isinstance(case, HistoryCase):
        return {}
    if isinstance(case, AppendCase):
        pool, keys, values, slot_mapping = build_append(case)
        return {"storage": pool.storage, "keys": keys, "values": values, "slot_mapping": slot_mapping}
    if isinstance(case, MergeCase):
        return dict(zip(("outs", "lses"), build_merge(case), strict=True))
    if case.placement in ("high", "huge-pool"):
        return {}
    tensors = build_tensors(case)
    found = {
        "q": tensors.q,
        "storage": tensors.pool.storage,
        "block_table": tensors.layout.block_table,
        "kv_lens": tensors.kv_lens,
        "qo_indptr": tensors.qo_indptr,
    }
    return found if case.features <= set(FEATURES) else found | _beyond(tensors)


def _alike(case: AppendCase) -> bool:
    """Whether the cache has keys and values alike, stored as the tokens or as e4m3."""
    problem = case.problem
    return pool_parts(problem, case.gaps) is None and problem.kv_dtype in (None, "e4m3")


def _beyond(tensors: Tensors) -> dict[str, Any]:
    """What a script cannot find out of pool and problem alone: views, numbers, and the keys that rows see."""
    case, problem = tensors.case, tensors.case.problem
    rows = sequences_of(tensors)
    seen = np.zeros((case.batch.num_query_tokens, max(case.batch.kv_lens)), bool)
    for sequence, kv_len in enumerate(case.batch.kv_lens):
        first, end = (int(row) for row in tensors.qo_indptr[sequence : sequence + 2])
        seen[first:end, :kv_len] = seen_keys(case, sequence)
    dense = {
        name: np.concatenate(
            [
                problem.decode_rows(stored, kind) * np.asarray(case.scales_of(kind, sequence))[:, None]
                for sequence, stored in enumerate(of_kind)
            ]
        )
        for name, kind, of_kind in (
            ("keys", "k", [one.keys for one in rows]),
            ("values", "v", [one.values for one in rows]),
        )
    }
    if problem.q_dtype is not None:
        dense["queries"] = query_numbers(tensors)
    return {"k_cache": np.array(tensors.pool.k), "v_cache": np.array(tensors.pool.v), "seen": seen, **dense}
