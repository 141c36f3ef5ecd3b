# SPDX-License-Identifier: Apache-2.0
"""What the scripts of saved cases share: they lie beside it, and need numpy alone."""

import importlib
import importlib.util
import math
import sys
from pathlib import Path

import numpy as np


def numbers(stored, dtype):
    """Return stored numbers as float64: bfloat16 lies in uint16, e4m3 in uint8."""
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype == "e4m3":
        bits = np.arange(256)
        exponent, fraction = bits >> 3 & 15, bits & 7
        table = np.ldexp(np.where(exponent == 0, fraction, 8.0 + fraction), np.maximum(exponent, 1) - 10)
        table[bits & 127 == 127] = math.nan
        return np.where(bits > 127, -table, table)[stored]
    return stored.astype(np.float64)


def load(place):
    """Return what stands at file.py:name or package.module:name; None for other names of backends."""
    if place.endswith(".cu") or ":" not in place:
        return None
    where, _, name = place.rpartition(":")
    if not where.endswith(".py"):
        sys.path.insert(0, str(Path.cwd()))
        return getattr(importlib.import_module(where), name)
    # the run was started in a folder above this one, unless its --out was elsewhere
    folders = [Path.cwd(), *Path(__file__).resolve().parents]
    path = next((folder / where for folder in folders if (folder / where).is_file()), None)
    if path is None:
        raise SystemExit(f"{where}: no such file; name the kernel: python repro.py my_kernel.py:name")
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location("kernel_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def compare(name, got, wanted, unit, axes):
    """Print the largest difference, in units of one rounding."""
    if got is None or got.shape != wanted.shape:
        print(f"{name}: got {None if got is None else got.shape}, must be {wanted.shape}")
        return
    with np.errstate(invalid="ignore", divide="ignore"):
        same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
        roundings = np.where(same, 0.0, np.abs(got - wanted) / unit)
    roundings = np.where(np.isnan(roundings), math.inf, roundings)
    if not roundings.size:
        print(f"{name}: nothing to compare")
        return
    at = np.unravel_index(roundings.argmax(), roundings.shape)
    place = dict(zip(axes, map(int, at), strict=False))
    words = ", ".join(f"{key} {value}" for key, value in place.items())
    print(f"{name}: off by {roundings[at]:.4g} roundings at {words}: {got[at]:.6g}, must be {wanted[at]:.6g}")
