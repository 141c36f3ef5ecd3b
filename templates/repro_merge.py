# SPDX-License-Identifier: Apache-2.0
"""Runs the merge beside this file on a kernel, and compares it with a merge in float64.

    python repro.py my_kernel.py:merge      # or package.module:function

Needs numpy and the kernel: a function (outs, lses) -> (out, lse) of (num_states, num_rows, num_heads, ...).
A class, or a backend known by name, also needs pabench. What the suite found is in verdict.txt.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from repro_tools import compare, load, numbers

HERE = Path(__file__).resolve().parent
RECORD = json.loads((HERE / "case.json").read_text(encoding="utf-8"))
CASE = RECORD["case"]
AXES = ("row", "head", "dim")
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[CASE["dtype"]]


def expected(outs, lses):
    """Return output, LSE, and sum of weight times absolute value, which a rounding is a part of."""
    live, lses = np.isfinite(lses), lses.astype(np.float64)
    top = np.where(live.any(0), lses.max(0), 0.0)
    weights = np.exp(lses - top)
    total = weights.sum(0)
    with np.errstate(divide="ignore"):
        lse = top + np.log(total)
    weights = (weights / np.where(total > 0.0, total, 1.0))[..., None]
    values = np.where(live[..., None], numbers(outs, CASE["dtype"]), 0.0)  # whatever an empty state holds
    return (weights * values).sum(0), lse, (weights * np.abs(values)).sum(0)


def answer(place, outs, lses):
    """Return output and LSE of the kernel at ``place``."""
    found = load(place)
    if found is not None and not isinstance(found, type):
        return found(outs, lses)
    from pabench.device.registry import open_device
    from pabench.subjects.registry import load_backend

    merged = load_backend(place, open_device(RECORD["device"])).merge_states(outs, lses, CASE["dtype"])
    return merged.out, merged.lse


def main():
    """Run the kernel of the command line, or the one that the case was saved for."""
    place = sys.argv[1] if len(sys.argv) > 1 else RECORD["subject"]
    print(f"{RECORD['check']} of {place}; the suite said: {(HERE / 'verdict.txt').read_text().strip()}")
    with np.load(HERE / "arrays.npz", allow_pickle=False) as stored:
        outs, lses = stored["outs"], stored["lses"]
    out, lse, size = expected(outs, lses)
    got_out, got_lse = answer(place, outs, lses)
    unit = ROUNDING * np.maximum(size, np.finfo(np.float64).tiny)
    compare("output", numbers(np.asarray(got_out), CASE["dtype"]), out, unit, AXES)
    lse_unit = 2.0**-24 * np.maximum(1.0, np.where(np.isfinite(lse), np.abs(lse), 1.0))
    compare("LSE", None if got_lse is None else np.asarray(got_lse, np.float64), lse, lse_unit, AXES)


if __name__ == "__main__":
    main()
