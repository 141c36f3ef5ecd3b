# SPDX-License-Identifier: Apache-2.0
"""An attention in Triton whose products are wgmma; its PTX for sm_90a lies beside it.

Run this where Triton is, to make the PTX again.  One program: 64 queries of 64 over keys in tiles of 64.
"""

import triton
import triton.language as tl

from tests.support.triton.paged_decode import write


@triton.jit  # type: ignore[untyped-decorator]
def group_attention(
    q: tl.tensor,  # (64, 64) of bfloat16, as out
    k: tl.tensor,  # (keys, 64), as v
    v: tl.tensor,
    out: tl.tensor,
    num_keys: tl.tensor,
    sm_scale: tl.tensor,
) -> None:
    """See the head of this module."""
    rows, dims = tl.arange(0, 64), tl.arange(0, 64)
    queries = tl.load(q + rows[:, None] * 64 + dims[None, :])
    maximum = tl.full([64], float("-inf"), tl.float32)
    total = tl.zeros([64], tl.float32)
    weighted = tl.zeros([64, 64], tl.float32)
    for start in range(0, num_keys, 64):
        keys = start + tl.arange(0, 64)
        place = keys[:, None] * 64 + dims[None, :]
        key = tl.load(k + place, mask=(keys < num_keys)[:, None], other=0.0)
        value = tl.load(v + place, mask=(keys < num_keys)[:, None], other=0.0)
        logits = tl.dot(queries, tl.trans(key)) * sm_scale
        logits = tl.where((keys < num_keys)[None, :], logits, float("-inf"))
        raised = tl.maximum(maximum, tl.max(logits, 1))
        weights = tl.exp(logits - raised[:, None])
        kept = tl.exp(maximum - raised)
        total = total * kept + tl.sum(weights, 1)
        weighted = weighted * kept[:, None] + tl.dot(weights.to(tl.bfloat16), value)
        maximum = raised
    result = weighted / total[:, None]
    tl.store(out + rows[:, None] * 64 + dims[None, :], result.to(tl.bfloat16))


SIGNATURE = {**dict.fromkeys(("q", "k", "v", "out"), "*bf16"), "num_keys": "i32", "sm_scale": "fp32"}

if __name__ == "__main__":
    write(group_attention, SIGNATURE, {}, capability=90, warps=4)
