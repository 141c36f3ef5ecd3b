"""Case directories: a failing case as files, and the way back from files to a judgement.

``case.json`` holds check, subject, device and the case itself; ``arrays.npz`` holds the arrays it stood for,
for readers without pabench; ``verdict.txt`` is what was wrong.  Replay reads ``case.json`` only.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pabench.allocators.registry import make_allocator
from pabench.backends.registry import is_place, load_backend
from pabench.conformance.allocator_checks import ALLOCATOR_CHECKS, HistoryCase, history_from_dict
from pabench.conformance.outcome import Outcome, crashed
from pabench.conformance.registry import check_by_id
from pabench.device.base import Device
from pabench.errors import InvalidCase, Unsupported, UsageError
from pabench.problem.append import AppendCase, append_case_from_dict, build_append
from pabench.problem.case import Case, case_from_dict
from pabench.problem.layout import pages_needed
from pabench.problem.placement import HIGH_PAGE_BASE
from pabench.problem.tensors import build_tensors
from pabench.store.files import atomic_write_text, pretty

AnyCase = Case | AppendCase | HistoryCase
CASE_FILE = "case.json"
FAILURE_SCHEMA = 1
NAME = re.compile(r"[\w.:/+~-]{1,400}(\[[\w.:-]{1,100}\])?")
READERS: dict[str, Callable[[Any], AnyCase]] = {
    "attention": case_from_dict,
    "append": append_case_from_dict,
    "history": history_from_dict,
}
MAX_REPLAY_BYTES = 2**33
"""Cases of the suite stay far below; a file that asks for more was not written by it."""
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
    """Read a case directory written here or anywhere else.

    Only ``case.json`` is read, as JSON; nothing in it is a path or a program.

    Raises:
        UsageError: there is no such file, or it is not JSON.
        InvalidCase: a field is missing or wrong, or the case is larger than ``MAX_REPLAY_BYTES``.
    """
    path = folder / CASE_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{str(folder)!r} is not a case directory: {path.name}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{str(path)!r} is not JSON: {error}") from None
    if not isinstance(record, dict) or record.get("schema") != FAILURE_SCHEMA:
        raise InvalidCase(str(path), record, f"must be an object of schema {FAILURE_SCHEMA}")
    kind = record.get("kind")
    if not isinstance(kind, str) or kind not in READERS:
        raise InvalidCase(f"{path}: kind", kind, f"must be one of {', '.join(READERS)}")
    names = {field: record.get(field) for field in ("check", "subject", "device")}
    for field, value in names.items():
        if not isinstance(value, str) or not NAME.fullmatch(value):
            raise InvalidCase(f"{path}: {field}", value, "must be a name")
    check = str(names["check"])
    takes = _kind_of_check(check)
    if takes != kind:
        raise InvalidCase(f"{path}: kind", kind, f"must be {takes} for the check {check}")
    try:
        case: Any = READERS[kind](record.get("case"))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    if (size := case_bytes(case)) > MAX_REPLAY_BYTES:
        rule = f"a case to replay must fit in {MAX_REPLAY_BYTES} bytes"
        raise InvalidCase(f"{path}: bytes of the case", size, rule)
    return SavedCase(case=case, check=check, subject=str(names["subject"]), device=str(names["device"]))


def rerun(saved: SavedCase, device: Device, *, subject: str | None = None) -> Outcome:
    """Judge a saved case again, with its own subject or another one; what a crash says becomes the text.

    A saved subject that is a place in the file system is not run on the word of the file: whoever asks names
    it as ``subject``.

    Raises:
        UsageError: the saved subject is a place.
        UnknownName: no such check or subject.
        Unsupported: the subject declares that it cannot run the case.
    """
    name, case = subject or saved.subject, saved.case
    if isinstance(case, HistoryCase):
        allocator = make_allocator(name, device, case.shape)
        return ALLOCATOR_CHECKS[_check_id(saved.check)](case, allocator, device)
    if subject is None and is_place(name):
        hint = f"add --backend {shlex.quote(name)} if you trust that code"
        raise UsageError(
            f"the case was saved for code at {name!r}, which replay does not run unasked", hint=hint
        )
    check, backend = check_by_id(_check_id(saved.check)), load_backend(name, device)
    if check.operation not in backend.capabilities.operations:
        raise Unsupported(f"{name}: no {check.operation}")
    if isinstance(case, Case) and (reason := backend.capabilities.why_not(case)):
        raise Unsupported(f"{name}: {reason}")
    try:
        return check.run(case, backend, device)
    except Unsupported:
        raise
    except (Exception, SystemExit) as error:
        return crashed(error)


def case_bytes(case: AnyCase) -> int:
    """Return about how many bytes the arrays of a case take, its float64 stages included."""
    if isinstance(case, HistoryCase):
        # the shadow of the cache is a Python object a slot and a table entry
        entries = case.shape.max_seqs * case.shape.max_pages_per_seq
        longest = case.shape.max_pages_per_seq * case.shape.page_size
        slots = case.shape.num_pages * case.shape.page_size
        return 1000 * (entries + slots + longest + case.shape.swap_pages + case.shape.max_seqs**2)
    problem = case.problem
    if isinstance(case, AppendCase):
        return 3 * case.num_pages * problem.page_size * problem.token_bytes
    pages = sum(pages_needed(n, problem.page_size) for n in case.batch.kv_lens) + case.spare_pages
    pages += HIGH_PAGE_BASE if case.placement == "high" else 0
    table = 4 * case.batch.num_seqs * (pages_needed(max(case.batch.kv_lens), problem.page_size) + 1)
    wide = 8 * problem.head_dim * problem.num_qo_heads
    tokens = case.batch.num_query_tokens + 2 * sum(case.batch.kv_lens)
    return pages * problem.page_size * problem.token_bytes + table + tokens * wide


def _check_id(check: str) -> str:
    return check.split("[")[0]


def _kind_of_check(check: str) -> str:
    if _check_id(check) in ALLOCATOR_CHECKS:
        return "history"
    return "append" if check_by_id(_check_id(check)).operation == "append" else "attention"


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
