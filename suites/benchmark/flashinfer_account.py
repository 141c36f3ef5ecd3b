# SPDX-License-Identifier: Apache-2.0
"""What FlashInfer's compiled kernels spend a key, to stand beside ours; no GPU is needed.

    PABENCH_PEERS=.peers python suites/benchmark/flashinfer_account.py sm_80 sm_90a

Its templates are compiled by nvcc for bfloat16, head_dim 128 (MLA: 576 and 512), with the shapes that its
planning takes, assembled, and accounted for as ``pabench kernels --account`` does with ours.  Prints CSV,
which ``results/flashinfer_account.csv`` holds.  ``make test-peers`` installs what it needs.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabench.device.occupancy import RESERVED_SHARED_BYTES, sm_limits
from pabench.device.ptx.nvcc import compile_with_nvcc
from pabench.kernels.account_binary import binary_account
from pabench.subjects.backends.adapters.flashinfer_compiled import INCLUDES, OPTIONS, SOURCES, find_nvcc
from pabench.subjects.backends.adapters.gpu_table import FLASHINFER

HEAD_DIM, LATENT, VALUES = 128, 576, 512
STORED = {"PAB_STORED": "nv_bfloat16"}
PLAIN = {"PAB_WINDOW": "false", "PAB_SOFT_CAP": "false", "PAB_HEAD_DIM": str(HEAD_DIM)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One instance.

    Attributes:
        file: of ``SOURCES``.
        label: the instance in words.
        threads: of a block.
        token_bytes: of the cache, a key and a value.
        macros: of the file.
    """

    file: str
    label: str
    threads: int
    token_bytes: int
    macros: dict[str, str]


def shapes(architecture: str) -> Iterator[Shape]:
    """Yield the instances that its planning takes on an architecture."""
    shared, rows = sm_limits(architecture).shared_bytes, 2 * HEAD_DIM * 2
    room = {"PAB_SHARED_PER_SM": str(shared), "PAB_CAUSAL": "true"}
    yield Shape(
        file="decode",
        label="CUDA cores, group 4",
        threads=128,
        token_bytes=rows,
        macros=PLAIN | {"PAB_GROUP": "4"},
    )
    for tile in (16, 64, 128):
        block = {"PAB_TILE_Q": str(tile), "PAB_SHARED_PER_BLOCK": str(shared - RESERVED_SHARED_BYTES)}
        yield Shape(
            file="prefill",
            label=f"{tile} rows",
            threads=128,
            token_bytes=rows,
            macros=PLAIN | room | block,
        )
    yield Shape(
        file="mla",
        label="64 rows",
        threads=256,
        token_bytes=2 * LATENT,
        macros=room | {"PAB_HEAD_DIM": str(VALUES)},
    )


def rows_of(shape: Shape, architecture: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what each function of an instance with a hot loop spends."""
    found = FLASHINFER.find()
    data = found.folder / FLASHINFER.package / "data"
    path = folder / f"{shape.file}.ptx"
    text = compile_with_nvcc(
        find_nvcc(),
        SOURCES / f"{shape.file}.cu",
        architecture,
        options=OPTIONS,
        includes=[data / one for one in INCLUDES],
        defines=STORED | shape.macros,
        key=f"flashinfer {found.version}",
    )
    path.write_text(text, encoding="utf-8")
    for row in binary_account(path, default=(shape.threads, 0), architecture=architecture).rows:
        if row.account is None or not row.account.turn_bytes:
            continue
        account, keys = row.account, row.account.turn_bytes / shape.token_bytes
        yield {
            "kernel": shape.file,
            "instance": shape.label,
            "arch": architecture,
            "flashinfer": found.version,
            "registers": row.usage.registers,
            "spill_bytes": row.usage.spill_bytes,
            "keys": f"{keys:g}",
            "per_token": round(account.instructions * account.warps / keys, 1),
            "ldmatrix": account.classes.get("ldmatrix", 0),
            "tensor": account.classes.get("tensor", 0),
            "once": account.inner,
            "bound": account.bound,
            "most_tflops": account.most_tflops and round(account.most_tflops, 1),
            "most_gbps": account.most_gbps and round(account.most_gbps, 1),
        }


def main(architectures: Sequence[str]) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory(prefix="pabench-") as folder:
        rows = [
            row
            for architecture in architectures
            for shape in shapes(architecture)
            for row in rows_of(shape, architecture, Path(folder))
        ]
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    main(sys.argv[1:] or ["sm_80", "sm_90a"])
