# SPDX-License-Identifier: Apache-2.0
"""Trace sets of our own, in the schema of FlashInfer Trace: definitions, and solutions right and wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GQA = """
import numpy as np


def run({arguments}):
    starts, first = {starts}, kv_indptr
    output = np.zeros(({rows}, q.shape[1], v_cache.shape[-1]), q.dtype)
    lse = np.full(({rows}, q.shape[1]), -np.inf, np.float32)
    group = q.shape[1] // k_cache.shape[2]
    for seq in range(len(first) - 1):
        pages = kv_indices[first[seq] : first[seq + 1]]
        length = max(0, (len(pages) - 1) * k_cache.shape[1] + int({last}))
        keys = k_cache[pages].reshape(-1, *k_cache.shape[2:])[:length].astype(np.float64)
        values = v_cache[pages].reshape(-1, *v_cache.shape[2:])[:length].astype(np.float64)
        rows = starts[seq + 1] - starts[seq]
        for row in range(rows):
            seen = max(0, length - rows + row + 1)
            for head in range(q.shape[1]) if seen else ():
                query = q[starts[seq] + row, head].astype(np.float64)
                logits = keys[:seen, head // group] @ query * sm_scale
                top = logits.max()
                weights = np.exp(logits - top)
                output[starts[seq] + row, head] = weights @ values[:seen, head // group] / weights.sum()
                lse[starts[seq] + row, head] = (top + np.log(weights.sum())) / np.log(2)
    return output, lse
"""
MLA = """
import torch


def run({arguments}):
    starts, first = {starts}, kv_indptr.tolist()
    heads, content = q_nope.shape[1:]
    output = torch.zeros_like(q_nope)
    lse = torch.full((len(q_nope), heads), -float("inf"))
    for seq in range(len(first) - 1):
        pages = kv_indices[first[seq] : first[seq + 1]].long()
        length = max(0, (len(pages) - 1) * ckv_cache.shape[1] + int({last}))
        values = ckv_cache[pages].reshape(-1, content)[:length].double()
        rope = kpe_cache[pages].reshape(-1, kpe_cache.shape[-1])[:length].double()
        rows = starts[seq + 1] - starts[seq]
        for row in range(rows):
            seen, at = max(0, length - rows + row + 1), starts[seq] + row
            if seen:
                logits = q_nope[at].double() @ values[:seen].T + q_pe[at].double() @ rope[:seen].T
                logits = logits * sm_scale
                output[at] = (torch.softmax(logits, -1) @ values[:seen]).to(output.dtype)
                lse[at] = (torch.logsumexp(logits, -1) / torch.log(torch.tensor(2.0).double())).float()
    return output, lse
"""
MISTAKES = {
    "natural-lse": (" / np.log(2)", ""),
    "last-key": ("seen = max(0, length - rows + row + 1)", "seen = max(0, length - rows + row)"),
    "kv-head": ("head // group", "head % k_cache.shape[2]"),
    "crash": ("return output, lse", "raise ValueError('no such page')"),
    "half": ("return output, lse", "return output.astype(np.float64), lse"),
    "shape": ("return output, lse", "return output[:, :1], lse"),
}
"""Name of a wrong solution to the text that makes it one."""


def definition(
    *, latent: bool = False, prefill: bool = False, page_size: int = 4, dtype: str = "float32", **changed: Any
) -> dict[str, Any]:
    """Return a definition: 4 query heads over 2 KV heads of 16, or over a latent of 16 and 8."""
    rows = "total_q" if prefill else "batch_size"
    const = {"num_qo_heads": 4, "page_size": page_size}
    const |= {"head_dim_ckv": 16, "head_dim_kpe": 8} if latent else {"num_kv_heads": 2, "head_dim": 16}
    pages = ("num_pages", "page_size")
    shapes: dict[str, list[str] | None] = {}
    if latent:
        shapes |= {
            "q_nope": [rows, "num_qo_heads", "head_dim_ckv"],
            "q_pe": [rows, "num_qo_heads", "head_dim_kpe"],
        }
        shapes |= {"ckv_cache": [*pages, "head_dim_ckv"], "kpe_cache": [*pages, "head_dim_kpe"]}
    else:
        shapes |= {"q": [rows, "num_qo_heads", "head_dim"]}
        shapes |= {name: [*pages, "num_kv_heads", "head_dim"] for name in ("k_cache", "v_cache")}
    var = [rows, "num_pages", "len_indptr", "num_kv_indices"]
    whole = {"kv_indptr": ["len_indptr"], "kv_indices": ["num_kv_indices"]}
    if prefill:
        whole = {"qo_indptr": ["len_indptr"], **whole}
    if page_size > 1:
        var.append("num_seqs") if prefill else None
        whole["kv_last_page_len"] = ["num_seqs" if prefill else rows]
    inputs = {name: {"shape": shape, "dtype": dtype} for name, shape in shapes.items()}
    inputs |= {name: {"shape": shape, "dtype": "int32"} for name, shape in whole.items()}
    inputs["sm_scale"] = {"shape": None, "dtype": "float32"}
    out = [rows, "num_qo_heads", "head_dim_ckv" if latent else "head_dim"]
    kind = f"{'mla' if latent else 'gqa'}_paged"
    return {
        "name": f"{kind}_{'prefill_causal' if prefill else 'decode'}_h4_ps{page_size}",
        "op_type": kind,
        "axes": {
            **{name: {"type": "var"} for name in var},
            **{name: {"type": "const", "value": size} for name, size in const.items()},
        },
        "inputs": inputs,
        "outputs": {
            "output": {"shape": out, "dtype": dtype},
            "lse": {"shape": out[:2], "dtype": "float32"},
        },
        "reference": "def run(*inputs):\n    raise NotImplementedError\n",
        **changed,
    }


def source(about: dict[str, Any], mistake: str | None = None) -> str:
    """Return a right kernel for a definition, or one with a mistake."""
    inputs = about["inputs"]
    latent, prefill = "q_nope" in inputs, "qo_indptr" in inputs
    size = "ckv_cache.shape[1]" if latent else "k_cache.shape[1]"
    last = "kv_last_page_len[seq]" if "kv_last_page_len" in inputs else f"({size} if len(pages) else 0)"
    rows = f"len({'q_nope' if latent else 'q'})"
    listed = ".tolist()" if latent else ""
    text = (MLA if latent else GQA).format(
        arguments=", ".join(inputs),
        starts=f"qo_indptr{listed}" if prefill else f"list(range({rows} + 1))",
        rows=rows,
        last=last,
    )
    before, after = MISTAKES.get(mistake or "", ("", ""))
    assert before in text
    return text.replace(before, after) if before else text


def solution(
    about: dict[str, Any], name: str = "right", text: str | None = None, **spec: Any
) -> dict[str, Any]:
    """Return a solution of a definition; ``name`` is that of its mistake, if it has one."""
    return {
        "name": name,
        "definition": about["name"],
        "author": "pabench",
        "spec": {
            "language": "python",
            "target_hardware": ["cpu"],
            "entry_point": "main.py::run",
            "destination_passing_style": False,
            **spec,
        },
        "sources": [
            {"path": "main.py", "content": text or source(about, name if name in MISTAKES else None)}
        ],
    }


def write_set(root: Path, about: dict[str, Any], *solutions: dict[str, Any]) -> list[Path]:
    """Write a trace set of one definition; return the files of its solutions."""
    (root / "definitions").mkdir(parents=True, exist_ok=True)
    (root / "solutions").mkdir(exist_ok=True)
    (root / "definitions" / f"{about['name']}.json").write_text(json.dumps(about))
    files = []
    for one in solutions:
        files.append(root / "solutions" / f"{one['name']}.json")
        files[-1].write_text(json.dumps(one))
    return files
