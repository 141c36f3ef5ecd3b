# SPDX-License-Identifier: Apache-2.0
"""Synthetic runs with realistic figures, for the tests of the store and of the report."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pabench.run.files import json_line, pretty
from pabench.run.record import Record
from pabench.run.schema import read_line

PROVENANCE: dict[str, Any] = {
    "pabench": "0.1.0",
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "git_dirty": False,
    "python": "CPython 3.11.7",
    "platform": "Linux-6.1-x86_64-with-glibc2.36",
    "cpu": {"name": "Example CPU 9000", "count": 16, "usable": 2},
    "versions": {"numpy": "2.4.6", "torch": "2.13.0", "hypothesis": "6.170.15"},
    "compiler": "g++ 12.2.0",
    "device": {"name": "emulated", "description": "g++ 12.2.0, fibers on 2 threads"},
}


def record_of(line: Mapping[str, Any]) -> Record:
    """A line of schema 1, which the builders below make, as what is written now."""
    return read_line(dict(line), "line", schema=1)


LENGTHS = ("fixed:len=1024", "lognormal:mean=1024,cv=1,max=32768", "azure-conv")
WORDS = {
    **dict.fromkeys(("num_pages", "slots", "tokens", "waste_tokens", "internal_fragmentation"), "counted"),
    **dict.fromkeys(("contiguous_fragmentation", "efficiency_gain", "block_table_bytes"), "counted"),
    **dict.fromkeys(("csr_table_bytes", "kv_bytes", "run_token_heads"), "counted"),
    **dict.fromkeys(("plan_ns", "run_ns"), "host"),
    **dict.fromkeys(("modelled_ns", "modelled_tokens_per_s", "modelled_bound"), "modelled"),
}


def draw(lengths: str, batch: int) -> list[int]:
    rng = np.random.default_rng([batch, len(lengths)])
    if lengths.startswith("fixed"):
        return [1024] * batch
    if lengths.startswith("list:"):
        return [int(n) for n in lengths[5:].split(",")]
    mean = 1024 if lengths.startswith("lognormal") else 1366
    return [int(n) for n in np.clip(np.rint(rng.lognormal(math.log(mean) - 0.35, 0.83, batch)), 1, 32768)]


def cell(page_size: int, lengths: str, batch: int, **changes: Any) -> dict[str, Any]:
    kv_lens = draw(lengths, batch)
    pages = [-(-n // page_size) for n in kv_lens]
    slots, tokens = sum(pages) * page_size, sum(kv_lens)
    inner = Fraction(slots - tokens, slots)
    outer = 1 - Fraction(tokens, len(kv_lens) * max(kv_lens))
    gain = Fraction(len(kv_lens) * max(kv_lens), slots)
    traffic = 2 * 8 * 128 * 2 * tokens
    modelled = 2500 + traffic / 4.8e3 * (1 + 0.3 / page_size)
    base = 1100.0 * min(tokens, 2048) * 32
    line: dict[str, Any] = {
        "kind": "cell",
        "id": f"{zlib.crc32(repr((page_size, lengths, batch, sorted(changes.items()))).encode()):08x}",
        "status": "ok",
        "reason": None,
        "backend": "rawkernel",
        "device": "emulated",
        "page_size": page_size,
        "lengths": lengths,
        "batch": len(kv_lens),
        "seed": 0,
        "heads": "32:8",
        "head_dim": 128,
        "dtype": "float16",
        "kv_layout": "NHD",
        "interleaved": False,
        "num_pages": sum(pages),
        "slots": slots,
        "tokens": tokens,
        "waste_tokens": slots - tokens,
        "internal_fragmentation": float(inner),
        "contiguous_fragmentation": float(outer),
        "efficiency_gain": float(gain),
        "exact": {
            "internal_fragmentation": str(inner),
            "contiguous_fragmentation": str(outer),
            "efficiency_gain": str(gain),
        },
        "block_table_bytes": 4 * len(pages) * max(pages),
        "csr_table_bytes": 4 * (2 * len(pages) + 1 + sum(pages)),
        "kv_bytes": slots * 2 * 8 * 128 * 2,
        "check": {
            "passed": True,
            "max_ratio": 0.31 + 0.002 * page_size,
            "text": "2 cases, worst err/T 0.37",
            "case_id": "00aa11bb22cc33dd",
            "tokens": 192,
        },
        "plan_ns": [180_000 + 700 * page_size, 171_000, 176_500],
        "run_ns": [int(base * f) for f in (1.02, 1.0, 1.05)],
        "run_token_heads": min(tokens, 2048) * 32,
        "modelled_ns": modelled,
        "modelled_gpu": "H200",
        "modelled_tokens_per_s": len(kv_lens) / (modelled * 1e-9),
        "modelled_bound": "memory",
        "provenance": dict(WORDS),
    }
    line.update(changes)
    return line


def failed_cell(page_size: int, lengths: str, batch: int, **changes: Any) -> dict[str, Any]:
    silent = dict.fromkeys(
        (
            *("plan_ns", "run_ns", "run_token_heads", "modelled_ns"),
            *("modelled_tokens_per_s", "modelled_bound", "modelled_gpu"),
        )
    )
    text = (
        "sequence 3, query head 5, dim 17: err/T 41; the output matches logical page 7 read from "
        "physical page 12, expected 41"
    )
    check = {"passed": False, "max_ratio": 41.0, "text": text, "case_id": "5f3a9c0d11e2b477", "tokens": 192}
    return cell(
        page_size,
        lengths,
        batch,
        **{"status": "failed", "reason": "the quick check failed", "check": check, **silent, **changes},
    )


def sweep_lines(
    page_sizes: Sequence[int] = (8, 16, 32),
    lengths: Sequence[str] = LENGTHS,
    batches: Sequence[int] = (1, 8, 64),
    **changes: Any,
) -> list[dict[str, Any]]:
    return [cell(p, text, b, **changes) for text in lengths for b in batches for p in page_sizes]


CHECKS = {
    "decode[spotlight]": "one key dominates; the output must be its value",
    "decode[needle]": "each position carries its own address; a wrong page shows at once",
    "decode[all-negative]": "large negative logits; a running maximum that starts at 0 fails",
    "decode[huge]": "logits near the end of the range",
    "nan-poison": "every slot that no query may read holds NaN",
    "table-tail": "entries past the last page hold garbage",
    "page-permutation": "another physical order of the pages gives the same bits",
    "empty-sequence": "an empty sequence gives 0 and LSE -inf",
    "append": "writes its slots bit for bit and touches nothing else",
}


def check(subject: str, name: str, **changes: Any) -> dict[str, Any]:
    line: dict[str, Any] = {
        "kind": "check",
        "id": f"{subject}/{name}",
        "subject": subject,
        "subject_kind": "backend",
        "device": "emulated",
        "check": name,
        "about": CHECKS.get(name, "an invariant of the allocator"),
        "status": "passed",
        "cases": 60,
        "max_ratio": None if name in ("append", "page-permutation") else 0.62,
        "reason": None,
        "failure": None,
        "duration_s": 2.5,
    }
    line.update(changes)
    return line


def failed_check(subject: str, name: str, **changes: Any) -> dict[str, Any]:
    failure = {
        "case_id": "9b1d6c0e4a7f2283",
        "text": "sequence 0, query head 2, dim 5: err/T 118; the output matches kv head 2, expected 0",
        "path": "failures/9b1d6c0e4a7f2283",
        "replay": "pabench replay runs/c/failures/9b1d6c0e4a7f2283",
    }
    fixed: dict[str, Any] = {"status": "failed", "max_ratio": 118.0, "failure": failure}
    return check(subject, name, **{**fixed, **changes})


def conformance_lines() -> list[dict[str, Any]]:
    lines = [check("rawkernel", name) for name in CHECKS]
    for name in CHECKS:
        if name == "append":
            reason = "no append"
            lines.append(check("torch-sdpa", name, status="unsupported", reason=reason, cases=0))
        else:
            lines.append(check("torch-sdpa", name, max_ratio=0.91, cases=40))
    for name in ("page conservation", "no double hand-out", "exhaustion leaves state"):
        lines.append(check("scan", name, subject_kind="allocator", max_ratio=None, cases=200))
    return lines


def write_run(path: Path, kind: str, lines: Sequence[Mapping[str, Any]], **changes: Any) -> Path:
    record: dict[str, Any] = {
        "schema": 1,
        "kind": kind,
        "status": "finished",
        "exit_code": 0,
        "command": "pabench sweep --page-sizes 8,16,32"
        if kind == "sweep"
        else "pabench conformance --profile quick",
        "started": "2026-03-01T12:00:00Z",
        "finished": "2026-03-01T12:00:41Z",
        "provenance": PROVENANCE,
        "config": {"page_sizes": [8, 16, 32], "seed": 0, "gpu": "H200"},
    }
    record.update(changes)
    path.mkdir(parents=True)
    (path / "run.json").write_text(pretty(record))
    (path / "journal.jsonl").write_text("".join(json_line(dict(line)) + "\n" for line in lines))
    return path
