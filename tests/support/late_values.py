# SPDX-License-Identifier: Apache-2.0
"""A copy of the kernels with a fault: from its second tile on decode takes the keys for the values."""

import shutil
from pathlib import Path

from pabench.resources import resource_dir

RIGHT = "  copy_tile(memory.rows[n % 2], call, [&]"
WRONG = """\
  Call other = call;
  if (work.tile > 0) other.v = call.k;
  copy_tile(memory.rows[n % 2], other, [&]"""


def late_values(folder: Path) -> Path:
    """The copy, in ``folder``."""
    copy = folder / "kernels_cuda"
    shutil.copytree(resource_dir("kernels_cuda"), copy)
    source = copy / "paged_decode.cu"
    text = source.read_text(encoding="utf-8")
    assert text.count(RIGHT) == 1
    source.write_text(text.replace(RIGHT, WRONG), encoding="utf-8")
    return copy
