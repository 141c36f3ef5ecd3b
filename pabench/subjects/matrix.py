# SPDX-License-Identifier: Apache-2.0
"""The version matrix of docs/backends.md: what each adapter runs, how, and what it does not offer and why."""

from __future__ import annotations

import importlib
from typing import Any

from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.problem.dtypes import DTYPES
from pabench.problem.features import all_features
from pabench.problem.pool import KV_LAYOUTS
from pabench.subjects.backends.adapters.table import ADAPTERS
from pabench.subjects.backends.base import Capabilities
from pabench.subjects.peers.named import NamedSubject
from pabench.subjects.registry import load_backend

COLUMNS = (
    *("adapter", "package", "mode without a GPU", "types", "operations", "features"),
    *("layouts", "LSE", "not offered, and why"),
)
OPERATIONS = (
    *("decode", "speculative", "prefill"),
    *("append", "append-e4m3", "append-stored", "append-paged", "gather", "merge"),
)
TILES = "interpreted, cases too slow for the interpreter"
HALF_ONLY = "float32: tensor cores alone"
NOT_OFFERED = {
    "triton": (f"append, merge: a baseline for attention; {TILES}"),
    "vllm-triton": (
        "LSE: the kernel returns none; a window without a causal mask, which ends on both sides there; "
        f"{TILES}"
    ),
    "vllm-triton-split": (
        f"more than 8 rows, non-causal: keys are split for neither; LSE: returns none; {TILES}"
    ),
    "vllm-triton-chunked": (
        "soft cap, e4m3, LSE: the kernels have none; more rows than keys: each row brings its own key; "
        f"ALiBi with sinks; {TILES}"
    ),
    "vllm-triton-decode": (f"several rows, window, ALiBi, sinks: the kernel has none; {TILES}"),
    "sglang-triton": (
        "HND and strided views: a slot names a token; LSE: returns none; e4m3: queries and weights are "
        f"rounded to e4m3 too; {TILES}"
    ),
    "sglang-triton-extend": (
        "HND and strided views: a slot names a token; more rows than keys: each row brings its own key;"
        f" a window of one, which means none; {TILES}"
    ),
    "jax-pallas": (
        "several rows, window, ALiBi, sinks: the kernel has none; LSE: returns none; 16-bit types with "
        "a scale that is no power of two: queries come scaled; interpreted, pools and grids above a "
        "size"
    ),
    "torch-flex": (
        "sinks, e4m3: left to the caller there; uncompiled, pools whose scores are large; compiled, "
        "pages that are no whole blocks"
    ),
    "transformers-paged": (
        "LSE: returns none; soft cap, ALiBi, e4m3: the function has none; pages of fewer than 4 tokens,"
        " a window of 1, which stands for none"
    ),
    "transformers-paged-eager": (
        "LSE: returns none; soft cap, ALiBi, e4m3: the function has none; pages of fewer than 4 tokens,"
        " a window of 1, which stands for none"
    ),
    "flashinfer": (
        f"{HALF_ONLY}; ALiBi: slopes of its own; sinks: another variant; e4m3: a scale for each tensor "
        "and roundings we have not seen; head_dim other than 64, 128, 256"
    ),
    "flashinfer-decode": (f"{HALF_ONLY}; as `flashinfer`, and groups that it is not compiled for"),
    "flashinfer-mla": (
        f"{HALF_ONLY}; head_dim other than 576 with values of 512: models have these; window, soft cap, "
        "ALiBi, sinks, e4m3: its kernel for any GPU has none or a scale we have not seen"
    ),
    "flashinfer-batch": (f"{HALF_ONLY}; window: `plan` takes none; else as `flashinfer`"),
    "flashinfer-xqa": (
        f"{HALF_ONLY}; LSE: returns none; soft cap, ALiBi: has none; pages other than 16 to 128"
    ),
    "flash-attn": (
        f"{HALF_ONLY}; pages that are no multiple of 256; sinks, e4m3: version 2 has none; ALiBi without"
        " a causal mask: its distance has no sign"
    ),
    "vllm-cuda": (
        f"{HALF_ONLY}; `paged_attention_v1`, `_v2`: gone from this version; pages that are no multiple "
        "of 16; merging more than two states: rounded in between; ALiBi without a causal mask"
    ),
    "cudnn-frontend": (f"{HALF_ONLY}; soft cap, ALiBi, sinks, e4m3: not asked for yet; head_dim above 128"),
    "xformers": (
        f"{HALF_ONLY}; several rows: only as many of each sequence; HND and strided views: the cache is "
        "one row of slots; pages that are no multiple of 64"
    ),
}
"""Adapter to what it leaves out of what a backend may offer; every adapter has a line."""


def matrix_rows(device: Device) -> dict[str, dict[str, str] | None]:
    """Return the cells of each adapter by column, None where its package is not here."""
    return {name: _row(name, adapter, device) for name, adapter in ADAPTERS.items()}


def matrix_line(row: dict[str, str]) -> str:
    """Return a row as Markdown."""
    return "| " + " | ".join(row[column] for column in COLUMNS) + " |"


def version_matrix(device: Device) -> str:
    """Return the matrix as Markdown.

    Raises:
        Unsupported: a package is not here, and the row cannot be made.
    """
    rows = matrix_rows(device)
    for name, row in rows.items():
        if row is None:
            load_backend(name, device)
    lines = [matrix_line({column: column for column in COLUMNS}), "| --- " * len(COLUMNS) + "|"]
    return "\n".join([*lines, *(matrix_line(row) for row in rows.values() if row is not None)])


def _row(name: str, adapter: NamedSubject, device: Device) -> dict[str, str] | None:
    module, _, attribute = adapter.place.partition(":")
    subject: Any
    if adapter.needs_gpu:
        # its class tells what it can; an object of it would need the package and the GPU
        subject = getattr(importlib.import_module(module), attribute)
    else:
        try:
            subject = load_backend(name, device)
        except Unsupported:
            return None
    can: Capabilities = subject.capabilities
    peer = adapter.peers[0]
    layouts = [layout for layout in KV_LAYOUTS if layout in can.kv_layouts]
    return {
        "adapter": f"`{name}`",
        "package": f"{peer.title} {peer.version}",
        "mode without a GPU": "ptx" if adapter.on_ptx else "none" if adapter.needs_gpu else subject.mode,
        "types": ", ".join(dtype for dtype in DTYPES if dtype in can.dtypes),
        "operations": ", ".join(one for one in OPERATIONS if one in can.operations),
        "features": ", ".join(one for one in all_features() if one in can.features) or "none",
        "layouts": ", ".join([*layouts, *(["strided"] if can.interleaved else [])]),
        "LSE": "yes" if can.lse else "no",
        "not offered, and why": NOT_OFFERED[name],
    }
