# SPDX-License-Identifier: Apache-2.0
"""Runs the case beside this file on a kernel, and compares it with dense attention in float64.

    python repro.py my_kernel.py:decode      # or package.module:function

Needs numpy and the kernel: a function (q, k_cache, v_cache, block_table, kv_lens, sm_scale) -> (out, lse).
A class, or a backend known by name, also needs pabench. What the suite found is in verdict.txt; checks that
compare several problems are run again by `pabench replay`.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from repro_tools import compare, load, numbers

HERE = Path(__file__).resolve().parent
RECORD = json.loads((HERE / "case.json").read_text(encoding="utf-8"))
CASE, PROBLEM = RECORD["case"], RECORD["case"]["problem"]
AXES = ("query row", "query head", "dim")
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[PROBLEM["dtype"]]


def caches(arrays):
    """Return the pages of keys and values."""
    if "k_cache" in arrays:
        return arrays["k_cache"], arrays["v_cache"]
    storage = arrays["storage"]
    return (storage[:, 0], storage[:, 1]) if CASE["interleaved"] else (storage[0], storage[1])


def scales(kind, heads):
    """Return a scale for each KV head."""
    given = PROBLEM.get(f"{kind}_scale") or (1.0,)
    return np.broadcast_to(np.asarray(given, np.float64), (heads,))


def tokens(arrays, sequence, kind):
    """Return keys or values of a sequence, (kv_len, num_kv_heads, head_dim) float64."""
    dense = arrays.get({"k": "keys", "v": "values"}[kind])
    if dense is not None:  # what a cache of another form stands for, sequence by sequence
        first = int(arrays["kv_lens"][:sequence].sum())
        return dense[first : first + int(arrays["kv_lens"][sequence])]
    kv_len, size, heads = int(arrays["kv_lens"][sequence]), PROBLEM["page_size"], PROBLEM["num_kv_heads"]
    pages = arrays["block_table"][sequence, : -(-kv_len // size)]
    found = caches(arrays)["kv".index(kind)][pages]
    if CASE["kv_layout"] == "HND":
        found = found.swapaxes(1, 2)
    rows = found.reshape(-1, heads, PROBLEM["head_dim"])[:kv_len]
    return numbers(rows, PROBLEM.get("kv_dtype") or PROBLEM["dtype"]) * scales(kind, heads)[:, None]


def softmax_scale():
    """Return the factor of the logits."""
    given = PROBLEM.get("sm_scale")
    return 1.0 / math.sqrt(PROBLEM["head_dim"]) if given is None else given


def expected(arrays):
    """Return output, LSE, and sum of weight times absolute value, which a rounding is a part of."""
    q = arrays["queries"] if "queries" in arrays else numbers(arrays["q"], PROBLEM["dtype"])
    indptr = arrays["qo_indptr"]
    dims = (*q.shape[:2], PROBLEM.get("head_dim_v") or PROBLEM["head_dim"])
    out, size, lse = np.zeros(dims), np.zeros(dims), np.full(q.shape[:2], -math.inf)
    slopes, sinks = PROBLEM.get("alibi_slopes"), PROBLEM.get("sinks")
    window, cap = PROBLEM.get("window"), PROBLEM.get("soft_cap")
    group = PROBLEM["num_qo_heads"] // PROBLEM["num_kv_heads"]
    for sequence, kv_len in enumerate(arrays["kv_lens"].tolist()):
        keys, values = tokens(arrays, sequence, "k"), tokens(arrays, sequence, "v")
        for row in range(indptr[sequence], indptr[sequence + 1]):
            position = kv_len - (indptr[sequence + 1] - row)
            last = max(0, min(position + 1, kv_len)) if PROBLEM.get("causal", True) else kv_len
            first = max(0, position - window + 1) if window else 0
            seen = np.arange(min(first, last), last)
            if "seen" in arrays:  # any set of keys
                seen = np.flatnonzero(arrays["seen"][row, :kv_len])
            for head in range(q.shape[1]):
                logits = keys[seen, head // group] @ q[row, head] * softmax_scale()
                logits = cap * np.tanh(logits / cap) if cap else logits
                logits = logits + slopes[head] * (seen - position) if slopes else logits
                every = np.append(logits, sinks[head]) if sinks else logits
                if not every.size:
                    continue
                top = every.max()
                total = np.exp(every - top).sum()
                weights = np.exp(logits - top) / total
                lse[row, head] = top + math.log(total)
                out[row, head] = weights @ values[seen, head // group]
                size[row, head] = weights @ np.abs(values[seen, head // group])
    return out, lse, size


def answer(place, arrays):
    """Return output and LSE of the kernel at ``place``."""
    found = load(place)
    if found is not None and not isinstance(found, type):
        k, v = caches(arrays)
        return found(arrays["q"], k, v, arrays["block_table"], arrays["kv_lens"], softmax_scale())
    from pabench.checks.recordings import keep_recording
    from pabench.device.registry import open_device
    from pabench.problem import build_tensors
    from pabench.problem.case import case_from_dict
    from pabench.subjects.backends.base import attend
    from pabench.subjects.registry import load_backend

    backend = load_backend(place, open_device(RECORD["device"]))
    case = case_from_dict(CASE)
    keep_recording(HERE, case)
    output = attend(backend, build_tensors(case))
    return output.out, output.lse


def main():
    """Run the kernel of the command line, or the one that the case was saved for."""
    place = sys.argv[1] if len(sys.argv) > 1 else RECORD["subject"]
    print(f"{RECORD['check']} of {place}; the suite said: {(HERE / 'verdict.txt').read_text().strip()}")
    with np.load(HERE / "arrays.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    out, lse, size = expected(arrays)
    got_out, got_lse = answer(place, arrays)
    unit = ROUNDING * np.maximum(size, np.finfo(np.float64).tiny)
    compare("output", numbers(np.asarray(got_out), PROBLEM["dtype"]), out, unit, AXES)
    lse_unit = 2.0**-24 * np.maximum(1.0, np.where(np.isfinite(lse), np.abs(lse), 1.0))
    compare("LSE", None if got_lse is None else np.asarray(got_lse, np.float64), lse, lse_unit, AXES)


if __name__ == "__main__":
    main()
