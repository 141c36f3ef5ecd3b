"""A copy of the kernels with a fault: decode takes the page of each value one tile late."""

import shutil
from pathlib import Path

from pabench.resources import resource_dir

RIGHT = "    cp_async16(slices[row / kSlice].tokens.values + target, call.v + source, live);\n"
LATE = """\
    const u32 token = static_cast<u32>(work.tile) * kTile + static_cast<u32>(row);
    const u32 late = token >= kTile ? token - kTile : token, size = static_cast<u32>(call.page_size);
    const i64 entry = static_cast<i64>(work.sequence) * call.max_pages + late / size;
    const i64 page = live ? call.block_table[entry] : 0, place = page * call.page_stride;
    const i64 inside = token % size * call.token_stride + work.kv_head * call.head_stride;
    const i64 wrong = live ? place + inside + kChunkElements * chunk : 0;
    cp_async16(slices[row / kSlice].tokens.values + target, call.v + wrong, live);
"""


def late_values(folder: Path) -> Path:
    """The copy, in ``folder``."""
    copy = folder / "kernels_cuda"
    shutil.copytree(resource_dir("kernels_cuda"), copy)
    source = copy / "paged_decode.cu"
    text = source.read_text(encoding="utf-8")
    assert text.count(RIGHT) == 1
    source.write_text(text.replace(RIGHT, LATE), encoding="utf-8")
    return copy
