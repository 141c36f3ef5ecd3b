# SPDX-License-Identifier: Apache-2.0
"""An index beyond a thread's own array ends the process of a checked launch."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = """
import sys
import numpy as np
from tests.support.checked_probe import findings

out = np.zeros(128, np.uint32)
shift, wraps = (np.uint32(int(word)) for word in sys.argv[1:])
assert not findings("bounds", "turned", np.arange(128, dtype=np.uint32), out, shift, wraps)
print(out[:4].tolist())
"""


@pytest.mark.parametrize(
    ("shift", "wraps", "printed"), [(0, 0, "[0, 1, 2, 3]"), (1, 1, "[1, 2, 3, 0]"), (1, 0, None)]
)
def test_checked_bounds_of_a_threads_own_array(shift: int, wraps: int, printed: str | None) -> None:
    command = [sys.executable, "-c", LAUNCH, str(shift), str(wraps)]
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    if printed is None:
        assert ended.returncode in (-signal.SIGILL, -signal.SIGTRAP), ended.stderr
    else:
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == printed + "\n"
