# SPDX-License-Identifier: Apache-2.0
"""A small decode in Triton; its PTX lies beside it, so that it can be judged where Triton is not installed.

Run this where Triton is, to make the PTX again.  Grid: (sequences, KV heads); the query heads of a KV head
are the rows of a tile of 16, keys go through the block table in tiles of 16.
"""

import json
import os
from pathlib import Path
from typing import Any

import triton
import triton.language as tl


# Triton compiles annotations with the rest, so they are its own
@triton.jit  # type: ignore[untyped-decorator]
def paged_decode(
    q: tl.tensor,  # (sequences, GROUP * kv heads, DIM) of half, as out
    k: tl.tensor,  # (pages, PAGE, kv heads, DIM), as v
    v: tl.tensor,
    out: tl.tensor,
    lse: tl.tensor,  # (sequences, GROUP * kv heads) of float
    block_table: tl.tensor,
    kv_lens: tl.tensor,
    sm_scale: tl.tensor,
    table_stride: tl.tensor,
    GROUP: tl.constexpr,
    PAGE: tl.constexpr,
    DIM: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """See the head of this module."""
    row, kv_head = tl.program_id(0), tl.program_id(1)
    members, dims = tl.arange(0, 16), tl.arange(0, DIM)
    heads = row * tl.num_programs(1) * GROUP + kv_head * GROUP + members
    mine = (members < GROUP)[:, None] & (dims < DIM)[None, :]
    queries = tl.load(q + heads[:, None] * DIM + dims[None, :], mask=mine, other=0.0)
    end = tl.load(kv_lens + row)
    maximum = tl.full([16], float("-inf"), tl.float32)
    total = tl.zeros([16], tl.float32)
    weighted = tl.zeros([16, DIM], tl.float32)
    for start in range(0, end, TILE):
        keys = start + tl.arange(0, TILE)
        page = tl.load(block_table + row * table_stride + keys // PAGE, mask=keys < end, other=0)
        slot = page.to(tl.int64) * PAGE + keys % PAGE
        place = (slot * tl.num_programs(1) + kv_head)[:, None] * DIM + dims[None, :]
        key = tl.load(k + place, mask=(keys < end)[:, None], other=0.0)
        value = tl.load(v + place, mask=(keys < end)[:, None], other=0.0)
        logits = tl.where((keys < end)[None, :], tl.dot(queries, tl.trans(key)) * sm_scale, float("-inf"))
        raised = tl.maximum(maximum, tl.max(logits, 1))
        weights = tl.exp(logits - raised[:, None])
        kept = tl.exp(maximum - raised)
        total = total * kept + tl.sum(weights, 1)
        weighted = weighted * kept[:, None] + tl.dot(weights.to(tl.float16), value)
        maximum = raised
    result = weighted / total[:, None]
    tl.store(out + heads[:, None] * DIM + dims[None, :], result.to(tl.float16), mask=mine)
    tl.store(lse + heads, maximum + tl.log(total), mask=members < GROUP)


SIGNATURE = {
    **dict.fromkeys(("q", "k", "v", "out"), "*fp16"),
    **{"lse": "*fp32", "block_table": "*i32", "kv_lens": "*i32", "sm_scale": "fp32", "table_stride": "i32"},
    **dict.fromkeys(("GROUP", "PAGE", "DIM", "TILE"), "constexpr"),
}
CONSTANTS = {"GROUP": 4, "PAGE": 4, "DIM": 16, "TILE": 16}


def write(
    kernel: Any, signature: dict[str, str], constants: dict[str, int], *, capability: int, warps: int
) -> None:
    """Write the PTX of a kernel beside its source, and what a launch needs."""
    os.environ["TRITON_BACKENDS_IN_TREE"] = "1"
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    made: Any = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    here = Path(__file__).parent
    text = made.asm["ptx"].split("\t.section\t.debug")[0]
    for folder in (here.parents[2], Path(triton.__file__).parents[1]):
        text = text.replace(f"{folder}/", "")
    name = kernel.fn.__name__
    (here / f"{name}.ptx").write_text(text)
    told = {"signature": signature, "warps": made.metadata.num_warps, "shared_bytes": made.metadata.shared}
    (here / f"{name}.json").write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    write(paged_decode, SIGNATURE, CONSTANTS, capability=80, warps=1)
