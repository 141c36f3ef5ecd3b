# SPDX-License-Identifier: Apache-2.0
"""Case directories, the reading side: the way back from ``case.json`` to a judgement."""

from __future__ import annotations

import json
import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any, cast

from pabench.checks.case_files import READERS, AnyCase, SavedCase
from pabench.checks.observer import CaseObserver
from pabench.checks.outcome import Outcome
from pabench.checks.question import Maker
from pabench.checks.registry import ALLOCATOR_CHECKS, check_by_id
from pabench.device.base import Device
from pabench.errors import InvalidCase, Unsupported, UsageError
from pabench.judge.allocators.history import HistoryCase
from pabench.problem.append import AppendCase
from pabench.problem.case import Case
from pabench.problem.layout import pages_needed
from pabench.problem.merge import MergeCase
from pabench.problem.placement import HIGH_PAGE_BASE
from pabench.run.failures import CASE_FILE, CASE_SCHEMA
from pabench.subjects.backends.base import Backend
from pabench.subjects.reference import ALLOCATOR, BACKEND
from pabench.subjects.registry import is_place, load_allocator, load_backend

NAME = re.compile(r"[\w.:/+~-]{1,400}(\[[\w.:-]{1,100}\])?")
MAX_REPLAY_BYTES = 2**33
"""Cases of the suite stay far below; a file that asks for more was not written by it."""


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
    if not isinstance(record, dict) or record.get("schema") != CASE_SCHEMA:
        raise InvalidCase(str(path), record, f"must be an object of schema {CASE_SCHEMA}")
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


def subject_of(saved: SavedCase, asked: str | None = None) -> tuple[str, str]:
    """Return kind and name of the subject to judge a saved case with: its own, or the one asked for.

    A saved subject that is a place in the file system is not run on the word of the file: whoever asks names
    it.

    Raises:
        UsageError: the saved subject is a place.
    """
    kind, name = ALLOCATOR if isinstance(saved.case, HistoryCase) else BACKEND, asked or saved.subject
    if asked is None and is_place(kind, name):
        hint = f"add --backend {shlex.quote(name)} if you trust that code"
        raise UsageError(
            f"the case was saved for code at {name!r}, which replay does not run unasked", hint=hint
        )
    return kind, name


def judge_again(
    saved: SavedCase,
    name: str,
    subject: Backend | Maker,
    device: Device,
    observer: CaseObserver | None = None,
) -> Outcome:
    """Judge a saved case with a backend, or with what makes an allocator; a crash becomes the outcome's text.

    Raises:
        UnknownName: no such check.
        Unsupported: the subject declares that it cannot run the case.
    """
    case, observer = saved.case, observer or CaseObserver()
    if isinstance(case, HistoryCase):
        history, new = case, cast(Maker, subject)
        run = ALLOCATOR_CHECKS[_check_id(saved.check)].run
        return observer.judged(observer.judge(case, lambda: run(history, new, device)), device)
    check, backend = check_by_id(_check_id(saved.check)), cast(Backend, subject)
    if check.operation not in backend.capabilities.operations:
        raise Unsupported(f"{name}: no {check.operation}")
    if isinstance(case, Case) and (reason := backend.capabilities.why_not(case)):
        raise Unsupported(f"{name}: {reason}")
    return observer.judged(observer.judge(case, lambda: check.run(case, backend, device)), device)


def rerun(
    saved: SavedCase, device: Device, *, subject: str | None = None, observer: CaseObserver | None = None
) -> Outcome:
    """Load the subject of a saved case, or another one, in this process, and judge the case again.

    Raises:
        UsageError: the saved subject is a place.
        UnknownName: no such check or subject.
        Unsupported: the subject declares that it cannot run the case.
    """
    kind, name = subject_of(saved, subject)
    if kind == ALLOCATOR:
        return judge_again(saved, name, partial(load_allocator(name).make, device), device, observer)
    return judge_again(saved, name, load_backend(name, device), device, observer)


def case_bytes(case: AnyCase) -> int:
    """Return about how many bytes the arrays of a case take, its float64 stages included."""
    if isinstance(case, HistoryCase):
        # the shadow of the cache is a Python object a slot and a table entry
        entries = case.shape.max_seqs * case.shape.columns
        longest = case.shape.columns * case.shape.page_size
        slots = case.shape.num_pages * case.shape.page_size
        return 1000 * (entries + slots + longest + case.shape.swap_pages + case.shape.max_seqs**2)
    if isinstance(case, MergeCase):
        return 64 * case.num_states * case.num_rows * case.num_heads * case.head_dim
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
    return check_by_id(_check_id(check)).kind
