# SPDX-License-Identifier: Apache-2.0
"""Runs the append beside this file on a kernel, and compares the cache bit for bit.

    python repro.py my_kernel.py:append      # or package.module:function

Needs numpy and the kernel: a function (keys, values, k_cache, v_cache, slot_mapping) that writes into the
caches, and for a cache of e4m3 takes k_scale and v_scale, a number for each KV head, too. A class, or a
backend known by name, also needs pabench. What the suite found is in verdict.txt.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from repro_tools import load, numbers

HERE = Path(__file__).resolve().parent
RECORD = json.loads((HERE / "case.json").read_text(encoding="utf-8"))
CASE, PROBLEM = RECORD["case"], RECORD["case"]["problem"]
E4M3 = PROBLEM.get("kv_dtype") is not None


def e4m3(values):
    """Return the bits of the nearest numbers of e4m3: ties to even, +-448 for what is too large."""
    bits = np.arange(127)
    exponent, fraction = bits >> 3, bits & 7
    table = np.ldexp(np.where(exponent == 0, fraction, 8.0 + fraction), np.maximum(exponent, 1) - 10)
    size = np.minimum(np.abs(np.nan_to_num(values, nan=0.0, posinf=448.0, neginf=448.0)), 448.0)
    above = np.minimum(np.searchsorted(table, size), 126)
    below = np.maximum(above - 1, 0)
    up, down = table[above] - size, size - table[below]
    nearest = np.where((up < down) | ((up == down) & (above % 2 == 0)), above, below)
    return np.where(np.isnan(values), 127, nearest | np.where(np.signbit(values), 128, 0)).astype(np.uint8)


def caches(storage):
    """Return the views of keys and values in the pool."""
    return (storage[:, 0], storage[:, 1]) if CASE["interleaved"] else (storage[0], storage[1])


def scales(kind):
    """Return a scale for each KV head, float32."""
    given = PROBLEM.get(f"{kind}_scale") or (1.0,)
    return np.broadcast_to(np.asarray(given, np.float32), (PROBLEM["num_kv_heads"],)).copy()


def slots(view):
    """Return the cache as (num_slots, num_kv_heads, head_dim), a copy."""
    rows = view.swapaxes(1, 2) if CASE["kv_layout"] == "HND" else view
    return rows.reshape(-1, PROBLEM["num_kv_heads"], PROBLEM["head_dim"]).copy()


def answer(place, arrays):
    """Return the pool after the kernel at ``place`` wrote."""
    found = load(place)
    if found is not None and not isinstance(found, type):
        storage = arrays["storage"].copy()
        more = (scales("k"), scales("v")) if E4M3 else ()
        found(arrays["keys"], arrays["values"], *caches(storage), arrays["slot_mapping"], *more)
        return storage
    from pabench.device.registry import open_device
    from pabench.problem.append import append_case_from_dict, build_append
    from pabench.subjects.registry import load_backend

    backend, case = load_backend(place, open_device(RECORD["device"])), append_case_from_dict(CASE)
    pool, keys, values, slot_mapping = build_append(case)
    if case.is_paged:
        lengths = {"kv_lens": np.asarray(case.kv_lens, np.int32), "qo_indptr": case.batch.qo_indptr}
        table = case.layout.block_table
        return backend.append_paged(pool, case.problem, keys, values, block_table=table, **lengths)
    if E4M3:
        return backend.append_e4m3(pool, case.problem, keys, values, slot_mapping)
    return backend.append(pool, PROBLEM["dtype"], keys, values, slot_mapping)


def compare(name, got, before, rows, where):
    """Print how many elements of a cache are wrong, and the first."""
    wanted, live = before.copy(), where >= 0
    wanted[where[live]] = rows[live]
    bits = np.dtype(f"u{got.dtype.itemsize}")
    wrong = got.view(bits) != wanted.view(bits)
    if E4M3:  # which of the two NaNs is free
        wrong &= ~((got & 127 == 127) & (wanted & 127 == 127))
    if not wrong.any():
        print(f"{name}: every bit as it must be")
        return
    slot, head, dim = (int(i) for i in np.argwhere(wrong)[0])
    token = np.flatnonzero(where == slot)
    owner = f"token {token[0]}" if token.size else "no token"
    page, offset = divmod(slot, PROBLEM["page_size"])
    at = f"slot {slot} (page {page}, offset {offset}), KV head {head}, dim {dim}, which belongs to {owner}"
    here, right = got[slot, head, dim], wanted[slot, head, dim]
    print(f"{name}: {wrong.sum()} elements wrong, first in {at}: {here}, must be {right}")


def main():
    """Run the kernel of the command line, or the one that the case was saved for."""
    place = sys.argv[1] if len(sys.argv) > 1 else RECORD["subject"]
    print(f"{RECORD['check']} of {place}; the suite said: {(HERE / 'verdict.txt').read_text().strip()}")
    with np.load(HERE / "arrays.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    after = caches(np.asarray(answer(place, arrays)))
    for kind, name, got, before in zip(
        "kv", ("keys", "values"), after, caches(arrays["storage"]), strict=True
    ):
        rows = e4m3(numbers(arrays[name], PROBLEM["dtype"]) / scales(kind)[:, None]) if E4M3 else arrays[name]
        compare(name, slots(got), slots(before), rows, arrays["slot_mapping"])


if __name__ == "__main__":
    main()
