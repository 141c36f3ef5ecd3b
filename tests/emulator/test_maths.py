# SPDX-License-Identifier: Apache-2.0
"""What ``emulator/maths.h`` declares is the C library's, with and without ``<cmath>`` before it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pabench.device.base import KernelSource, Launch
from pabench.device.emulated import EmulatedDevice
from pabench.device.headers import EMULATOR

TEXT = (EMULATOR / "maths.h").read_text()
OF_ONE, OF_TWO = (
    re.findall(rf"^PAB_EMU_OF_{count}\((\w+)\)", TEXT, re.MULTILINE) for count in ("ONE", "TWO")
)
PYTHON: dict[str, Callable[..., float]] = {
    "rint": round,
    "nearbyint": round,
    "round": lambda x: math.floor(x + 0.5),
    "fdim": lambda x, y: max(x - y, 0.0),
    "fmax": max,
    "fmin": min,
    "tgamma": math.gamma,
    "logb": lambda x: math.frexp(x)[1] - 1,
}
"""What Python calls otherwise; for arguments above zero that lie on no tie."""
X = {"asin": 0.8125, "acos": 0.8125, "atanh": 0.8125}
"""Where a function is not real at 1.375."""


@pytest.mark.parametrize("before", ["", "#include <cmath>\n"])
def test_maths_functions_are_the_c_librarys(tmp_path: Path, before: str) -> None:
    names = [*OF_ONE, *OF_TWO]
    assert len(names) > 40
    lines = []
    for i, name in enumerate(names):
        for suffix, kind in (("", "double"), ("f", "float")):
            second = f", {kind}(y)" if name in OF_TWO else ""
            lines.append(f"  *out++ = {name}{suffix}({kind}(x[{i}]){second});\n")
    path = tmp_path / "calls.cu"
    path.write_text(
        f'{before}extern "C" __global__ void calls(double* out, const double* x, double y) {{\n'
        f"{''.join(lines)}  *out++ = INFINITY;\n  *out++ = NAN;\n}}\n"
    )
    x, y, out = np.array([X.get(name, 1.375) for name in names]), 0.8125, np.zeros(2 * len(names) + 2)
    module = EmulatedDevice().load(KernelSource(path=path, include_dir=tmp_path))
    module.launch(Launch(entry="calls", grid=(1, 1, 1), block=(1, 1, 1), args=(out, x, np.float64(y))))
    for i, name in enumerate(names):
        function = PYTHON.get(name) or getattr(math, name)
        expected = function(float(x[i]), y) if name in OF_TWO else function(float(x[i]))
        assert math.isclose(out[2 * i], expected, rel_tol=1e-14), name
        assert math.isclose(out[2 * i + 1], expected, rel_tol=1e-6), name
    assert math.isinf(out[-2])
    assert math.isnan(out[-1])
