"""Case directories: a failing case as files, and the way back from files to a judgement.

``case.json`` holds check, subject, device and the case itself; ``arrays.npz`` holds the arrays it stood for,
for readers without pabench; ``verdict.txt`` is what was wrong.  Replay reads ``case.json`` only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pabench.allocators.registry import make_allocator
from pabench.backends.registry import load_backend
from pabench.conformance.allocator_checks import HistoryCase, check_history, history_from_dict
from pabench.conformance.outcome import Outcome, failed
from pabench.conformance.registry import check_by_id
from pabench.device.base import Device
from pabench.errors import InvalidCase, PabenchError, UsageError
from pabench.problem.append import AppendCase, append_case_from_dict, build_append
from pabench.problem.case import Case, case_from_dict
from pabench.problem.tensors import build_tensors
from pabench.store.files import atomic_write_text, pretty

AnyCase = Case | AppendCase | HistoryCase
CASE_FILE = "case.json"
FAILURE_SCHEMA = 1
MAX_ARRAY_BYTES = 2**26
"""Larger caches are left out of ``arrays.npz``; the case rebuilds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedCase:
    """What a case directory holds."""

    check: str
    subject: str
    device: str
    case: AnyCase


def save_case(folder: Path, saved: SavedCase, text: str) -> None:
    """Write a case directory into the existing, empty or older ``folder``."""
    record = {
        "schema": FAILURE_SCHEMA,
        "check": saved.check,
        "subject": saved.subject,
        "device": saved.device,
        "kind": _kind(saved.case),
        "case": saved.case.to_dict(),
    }
    arrays = _arrays(saved.case)
    if arrays and sum(array.nbytes for array in arrays.values()) <= MAX_ARRAY_BYTES:
        np.savez_compressed(folder / "arrays.npz", **arrays)
    atomic_write_text(folder / "verdict.txt", text + "\n")
    atomic_write_text(folder / CASE_FILE, pretty(record))


def load_case(folder: Path) -> SavedCase:
    """Read a case directory; raises ``UsageError`` or ``InvalidCase`` in one line."""
    path = folder / CASE_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{folder} is not a case directory: {path.name}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(record, dict) or record.get("schema") != FAILURE_SCHEMA:
        raise InvalidCase(str(path), record, f"must be an object of schema {FAILURE_SCHEMA}")
    readers = {"attention": case_from_dict, "append": append_case_from_dict, "history": history_from_dict}
    kind = record.get("kind")
    if kind not in readers:
        raise InvalidCase(f"{path}: kind", kind, f"must be one of {', '.join(readers)}")
    names = {field: record.get(field) for field in ("check", "subject", "device")}
    for field, value in names.items():
        if not isinstance(value, str):
            raise InvalidCase(f"{path}: {field}", value, "must be a name")
    case: Any = readers[kind](record.get("case"))
    return SavedCase(
        case=case, check=str(names["check"]), subject=str(names["subject"]), device=str(names["device"])
    )


def rerun(saved: SavedCase, device: Device, *, subject: str | None = None) -> Outcome:
    """Judge a saved case again, with its own subject or another one; what a crash says becomes the text."""
    name = subject or saved.subject
    try:
        if isinstance(saved.case, HistoryCase):
            return check_history(saved.case, make_allocator(name, device, saved.case.shape))
        check = check_by_id(saved.check.split("[")[0])
        return check.run(saved.case, load_backend(name, device), device)
    except PabenchError as error:
        if isinstance(error, UsageError):
            raise
        return failed(f"{type(error).__name__}: {error}")


def _kind(case: AnyCase) -> str:
    if isinstance(case, HistoryCase):
        return "history"
    return "append" if isinstance(case, AppendCase) else "attention"


def _arrays(case: AnyCase) -> dict[str, Any]:
    if isinstance(case, HistoryCase):
        return {}
    if isinstance(case, AppendCase):
        pool, keys, values, slot_mapping = build_append(case)
        return {"storage": pool.storage, "keys": keys, "values": values, "slot_mapping": slot_mapping}
    if case.placement == "high":
        return {}
    tensors = build_tensors(case)
    return {
        "q": tensors.q,
        "storage": tensors.pool.storage,
        "block_table": tensors.layout.block_table,
        "kv_lens": tensors.kv_lens,
        "qo_indptr": tensors.qo_indptr,
    }
