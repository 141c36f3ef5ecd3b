# SPDX-License-Identifier: Apache-2.0
"""A definition of each other kind of FlashInfer Trace that is taken, with a right solution and wrong ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

E4M3 = """
import numpy as np

BITS = np.arange(128)
STEPS = np.where(BITS < 8, BITS / 512, (1 + BITS % 8 / 8) * 2.0 ** (BITS // 8 - 7))
STEPS[127] = np.nan
VALUES = np.concatenate([STEPS, -STEPS])


def run(q, k_cache, v_cache, kv_indptr, kv_indices, kv_last_page_len, sm_scale, k_scale, v_scale):
    output = np.zeros_like(q)
    lse = np.full(q.shape[:2], -np.inf, np.float32)
    group = q.shape[1] // k_cache.shape[2]
    for seq in range(len(q)):
        pages = kv_indices[kv_indptr[seq] : kv_indptr[seq + 1]]
        length = max(0, (len(pages) - 1) * k_cache.shape[1] + int(kv_last_page_len[seq]))
        rows = [VALUES[cache[pages]].reshape(-1, *cache.shape[2:])[:length] for cache in (k_cache, v_cache)]
        keys, values = rows[0] * k_scale, rows[1] * v_scale
        for head in range(q.shape[1]) if length else ():
            logits = keys[:, head // group] @ np.float64(q[seq, head]) * sm_scale
            weights = np.exp(logits - logits.max())
            output[seq, head] = weights @ values[:, head // group] / weights.sum()
            lse[seq, head] = (logits.max() + np.log(weights.sum())) / np.log(2)
    return output, lse
"""
SPARSE = """
import numpy as np


def run(q_nope, q_pe, ckv_cache, kpe_cache, sparse_indices, sm_scale):
    output = np.zeros_like(q_nope)
    lse = np.full(q_nope.shape[:2], -np.inf, np.float32)
    latent = np.concatenate([ckv_cache, kpe_cache], -1).reshape(-1, ckv_cache.shape[-1] + kpe_cache.shape[-1])
    for row, slots in enumerate(sparse_indices):
        keys = np.float64(latent[slots[slots >= 0]])
        if len(keys):
            logits = np.float64(np.concatenate([q_nope[row], q_pe[row]], -1)) @ keys.T * sm_scale
            top = logits.max(-1, keepdims=True)
            weights = np.exp(logits - top)
            total = weights.sum(-1, keepdims=True)
            output[row] = weights @ keys[:, : q_nope.shape[-1]] / total
            lse[row] = ((top + np.log(total)) / np.log(2))[:, 0]
    return output, lse
"""
APPEND = """
def run(
    append_key, append_value, batch_indices, positions, paged_kv_cache, kv_indices, kv_indptr, last_page_len
):
    keys, values = {caches}
    size = keys.shape[1]
    for key, value, seq, position in zip(append_key, append_value, batch_indices, positions):
        page = kv_indices[kv_indptr[seq] + position // size]
        keys[page, position % size] = key
        values[page, position % size] = value
"""
APPEND_LATENT = """
def run(
    append_ckv, append_kpe, batch_indices, positions, ckv_cache, kpe_cache, kv_indices, kv_indptr, last
):
    size = ckv_cache.shape[1]
    page = kv_indices[kv_indptr[batch_indices] + positions // size]
    ckv_cache[page, positions % size] = append_ckv
    kpe_cache[page, positions % size] = append_kpe
    return ckv_cache, kpe_cache
"""
MERGE = """
import numpy as np


def merged(outs, lses):
    top = lses.max(0)
    top = np.where(np.isfinite(top), top, 0.0)
    weights = np.exp2(np.float64(lses) - top)
    total = weights.sum(0)
    kept = weights[..., None] > 0
    parts = np.where(kept, weights[..., None] * np.where(kept, np.float64(outs), 0), 0).sum(0)
    with np.errstate(all="ignore"):
        out = np.where(total[..., None] > 0, parts / total[..., None], 0)
        return np.float32(out), np.float32(np.where(total > 0, np.log2(total) + top, -np.inf))


"""
TWO = """def run(v_a, s_a, v_b, s_b, v_merged, s_merged):
    v_merged[:], s_merged[:] = merged(np.stack([v_a, v_b]), np.stack([s_a, s_b]))
"""
IN_PLACE = """def run(v, s, v_other, s_other, mask):
    assert mask is None
    v[:], s[:] = merged(np.stack([v, v_other]), np.stack([s, s_other]))
"""
MANY = """def run(v, s):
    return merged(np.swapaxes(v, 0, 1), np.swapaxes(s, 0, 1))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of definition.

    Attributes:
        definition: as JSON.
        right: source of a right solution.
        wrong: name of a mistake to the text that is replaced, and by what.
        spec: of its solutions.
        drawn: a question that drawn cases of it are asked.
    """

    definition: dict[str, Any]
    right: str
    wrong: Mapping[str, tuple[str, str]]
    drawn: str
    spec: Mapping[str, Any]


def _definition(
    name: str,
    op_type: str,
    const: Mapping[str, int],
    inputs: Mapping[str, tuple[list[str] | None, str]],
    outputs: Mapping[str, tuple[list[str], str]],
    optional: tuple[str, ...] = (),
) -> dict[str, Any]:
    shapes = [shape or [] for shape, _ in (*inputs.values(), *outputs.values())]
    axes = dict.fromkeys(axis for shape in shapes for axis in shape)
    return {
        "name": name,
        "op_type": op_type,
        "axes": {
            axis: {"type": "const", "value": const[axis]} if axis in const else {"type": "var"}
            for axis in axes
        },
        "inputs": {
            key: {"shape": shape, "dtype": dtype, **({"optional": True} if key in optional else {})}
            for key, (shape, dtype) in inputs.items()
        },
        "outputs": {key: {"shape": shape, "dtype": dtype} for key, (shape, dtype) in outputs.items()},
        "reference": "def run(*inputs):\n    raise NotImplementedError\n",
    }


def _csr(lengths: str = "batch_size") -> dict[str, tuple[list[str] | None, str]]:
    return {
        "kv_indptr": (["len_indptr"], "int32"),
        "kv_indices": (["num_kv_indices"], "int32"),
        "kv_last_page_len": ([lengths], "int32"),
    }


def _append(paired: bool) -> dict[str, Any]:
    cache = ["num_pages", *([] if paired else ["two"]), "page_size", "num_kv_heads", "head_dim"]
    rows = (["nnz_kv", "num_kv_heads", "head_dim"], "float16")
    tables = _csr()
    return _definition(
        f"append_paged_kv_cache_kv2_d16_ps4{'' if paired else '_both'}",
        "page_append",
        {"num_kv_heads": 2, "head_dim": 16, "page_size": 4, "two": 2},
        {
            "append_key": rows,
            "append_value": rows,
            "batch_indices": (["nnz_kv"], "int32"),
            "positions": (["nnz_kv"], "int32"),
            "paged_kv_cache": (cache, "float16"),
            **{name: tables[name] for name in ("kv_indices", "kv_indptr", "kv_last_page_len")},
        },
        {"paged_kv_cache": (cache, "float16")},
    )


STATE: tuple[list[str] | None, str] = (["seq_len", "num_heads", "head_dim"], "float32")
LSE: tuple[list[str] | None, str] = (["seq_len", "num_heads"], "float32")
MERGED: dict[str, Any] = {"v_merged": STATE, "s_merged": LSE}
SIZES = {"num_heads": 3, "head_dim": 16}
NATURAL = {"natural-log": ("np.exp2(np.float64(lses) - top)", "np.exp(np.float64(lses) - top)")}
LATENT = ["num_pages", "page_size"]
KINDS = {
    "e4m3": Kind(
        definition=_definition(
            "gqa_paged_decode_h4_kv2_d16_ps4_e4m3",
            "gqa_paged",
            {"num_qo_heads": 4, "num_kv_heads": 2, "head_dim": 16, "page_size": 4},
            {
                "q": (["batch_size", "num_qo_heads", "head_dim"], "float32"),
                **{
                    name: (["num_pages", "page_size", "num_kv_heads", "head_dim"], "float8_e4m3fn")
                    for name in ("k_cache", "v_cache")
                },
                **_csr(),
                **{name: (None, "float32") for name in ("sm_scale", "k_scale", "v_scale")},
            },
            {
                "output": (["batch_size", "num_qo_heads", "head_dim"], "float32"),
                "lse": (["batch_size", "num_qo_heads"], "float32"),
            },
        ),
        right=E4M3,
        wrong={"one-scale": ("rows[1] * v_scale", "rows[1] * k_scale")},
        drawn="decode[fp8-kv]",
        spec={},
    ),
    "lists": Kind(
        definition=_definition(
            "dsa_sparse_attention_h4_ckv16_kpe8_topk48_ps4",
            "dsa_paged",
            {"num_qo_heads": 4, "head_dim_ckv": 16, "head_dim_kpe": 8, "page_size": 4, "topk": 48},
            {
                "q_nope": (["num_tokens", "num_qo_heads", "head_dim_ckv"], "float32"),
                "q_pe": (["num_tokens", "num_qo_heads", "head_dim_kpe"], "float32"),
                "ckv_cache": ([*LATENT, "head_dim_ckv"], "float32"),
                "kpe_cache": ([*LATENT, "head_dim_kpe"], "float32"),
                "sparse_indices": (["num_tokens", "topk"], "int32"),
                "sm_scale": (None, "float32"),
            },
            {
                "output": (["num_tokens", "num_qo_heads", "head_dim_ckv"], "float32"),
                "lse": (["num_tokens", "num_qo_heads"], "float32"),
            },
        ),
        right=SPARSE,
        wrong={
            "holes": ("slots[slots >= 0]", "slots"),
            "cut": ("slots[slots >= 0]", "slots[: (list(slots) + [-1]).index(-1)]"),
        },
        drawn="masked[token-lists]",
        spec={},
    ),
    "append": Kind(
        definition=_append(paired=True),
        right=APPEND.format(caches="paged_kv_cache"),
        wrong={
            "table-of-the-first": ("kv_indptr[seq]", "kv_indptr[0]"),
            "last-page": ("position // size]", "position // size + (position % size == 3)]"),
        },
        drawn="append-paged",
        spec={},
    ),
    "append-both": Kind(
        definition=_append(paired=False),
        right=APPEND.format(caches="paged_kv_cache[:, 0], paged_kv_cache[:, 1]"),
        wrong={"values-for-keys": ("= key", "= value")},
        drawn="append",
        spec={"destination_passing_style": True},
    ),
    "append-latent": Kind(
        definition=_definition(
            "append_paged_mla_kv_cache_ckv16_kpe8",
            "page_append",
            {"head_dim_ckv": 16, "head_dim_kpe": 8},
            {
                "append_ckv": (["nnz_kv", "head_dim_ckv"], "bfloat16"),
                "append_kpe": (["nnz_kv", "head_dim_kpe"], "bfloat16"),
                "batch_indices": (["nnz_kv"], "int32"),
                "positions": (["nnz_kv"], "int32"),
                "ckv_cache": ([*LATENT, "head_dim_ckv"], "bfloat16"),
                "kpe_cache": ([*LATENT, "head_dim_kpe"], "bfloat16"),
                **{name: _csr()[name] for name in ("kv_indices", "kv_indptr", "kv_last_page_len")},
            },
            {
                "ckv_cache": ([*LATENT, "head_dim_ckv"], "bfloat16"),
                "kpe_cache": ([*LATENT, "head_dim_kpe"], "bfloat16"),
            },
        ),
        right=APPEND_LATENT,
        wrong={"no-rope": ("= append_kpe", "= append_kpe * 0")},
        drawn="append-paged",
        spec={},
    ),
    "merge": Kind(
        definition=_definition(
            "merge_state_h3_d16",
            "cascade_merge",
            SIZES,
            {"v_a": STATE, "s_a": LSE, "v_b": STATE, "s_b": LSE},
            MERGED,
        ),
        right=MERGE + TWO,
        wrong=NATURAL,
        drawn="merge[far]",
        spec={"destination_passing_style": True},
    ),
    "merge-in-place": Kind(
        definition=_definition(
            "merge_state_in_place_h3_d16",
            "cascade_merge",
            SIZES,
            {"v": STATE, "s": LSE, "v_other": STATE, "s_other": LSE, "mask": (["seq_len"], "bool")},
            {"v": STATE, "s": LSE},  # type: ignore[dict-item]
            optional=("mask",),
        ),
        right=MERGE + IN_PLACE,
        wrong=NATURAL,
        drawn="merge-empty",
        spec={"destination_passing_style": True},
    ),
    "merge-states": Kind(
        definition=_definition(
            "merge_states_h3_d16",
            "cascade_merge",
            SIZES,
            {
                "v": (["seq_len", "num_states", "num_heads", "head_dim"], "float32"),
                "s": (["seq_len", "num_states", "num_heads"], "float32"),
            },
            MERGED,
        ),
        right=MERGE + MANY,
        wrong={**NATURAL, "not-swapped": ("np.swapaxes(s, 0, 1)", "np.swapaxes(s, 0, 1)[::-1]")},
        drawn="merge[close]",
        spec={},
    ),
}
