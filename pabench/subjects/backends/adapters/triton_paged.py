# SPDX-License-Identifier: Apache-2.0
"""A small paged attention in Triton, the baseline among the adapters; decode and prefill, every feature.

Grid: (query rows, KV heads); a program holds the query heads of one KV head and walks over the keys of its
row in tiles, each token through the block table. All arithmetic is in float32, both products included, so
that it is right to the same bound on every GPU and in the interpreter. It is written to be read, not to be
fast: every row reads its keys again.
"""

import triton
import triton.language as tl


# Triton compiles annotations with the rest, so they are its own
@triton.jit  # type: ignore[untyped-decorator]
def paged_attention(
    q: tl.tensor,  # (rows, GROUP * kv heads, DIM), contiguous, as out
    k: tl.tensor,
    v: tl.tensor,
    out: tl.tensor,
    lse: tl.tensor,  # (rows, GROUP * kv heads) float32
    block_table: tl.tensor,  # int32, rows table_stride apart
    row_sequence: tl.tensor,  # (rows,) int32
    row_first: tl.tensor,  # (rows,) int32, the first key that a row sees
    row_end: tl.tensor,  # (rows,) int32, one past the last
    row_position: tl.tensor,  # (rows,) int32
    slopes: tl.tensor,
    sinks: tl.tensor,
    k_scales: tl.tensor,  # (kv heads,) float32
    v_scales: tl.tensor,
    sm_scale: tl.tensor,
    soft_cap: tl.tensor,
    table_stride: tl.tensor,
    page_stride: tl.tensor,  # of k and v alike, in elements
    token_stride: tl.tensor,
    head_stride: tl.tensor,
    PAGE: tl.constexpr,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,  # a power of two of at least 16, no less than GROUP
    DIM: tl.constexpr,
    DIMS: tl.constexpr,  # likewise for DIM
    TILE: tl.constexpr,
    CAP: tl.constexpr,
    ALIBI: tl.constexpr,
    SINKS: tl.constexpr,
    SCALED: tl.constexpr,
) -> None:
    """See the head of this module."""
    row, kv_head = tl.program_id(0), tl.program_id(1)
    sequence = tl.load(row_sequence + row).to(tl.int64)
    first, end = tl.load(row_first + row), tl.load(row_end + row)
    position = tl.load(row_position + row)

    members = tl.arange(0, HEADS)
    heads = kv_head * GROUP + members
    dims = tl.arange(0, DIMS)
    inside = (members < GROUP)[:, None] & (dims < DIM)[None, :]
    # where the vectors of the row's heads begin, in 64 bits
    begin = (row.to(tl.int64) * tl.num_programs(1) * GROUP + heads)[:, None] * DIM + dims[None, :]
    queries = tl.load(q + begin, mask=inside, other=0.0).to(tl.float32)

    maximum = tl.full([HEADS], float("-inf"), tl.float32)
    total = tl.zeros([HEADS], tl.float32)
    if SINKS:
        # a key without a value
        maximum = tl.load(sinks + heads, mask=members < GROUP, other=0.0)
        total = tl.full([HEADS], 1.0, tl.float32)
    weighted = tl.zeros([HEADS, DIMS], tl.float32)
    for start in range(first, end, TILE):
        keys = start + tl.arange(0, TILE)
        seen = keys < end
        page = tl.load(block_table + sequence * table_stride + keys // PAGE, mask=seen, other=0).to(tl.int64)
        place = page * page_stride + (keys % PAGE) * token_stride + kv_head * head_stride
        wanted = seen[:, None] & (dims < DIM)[None, :]
        key = tl.load(k + place[:, None] + dims[None, :], mask=wanted, other=0.0).to(tl.float32)
        value = tl.load(v + place[:, None] + dims[None, :], mask=wanted, other=0.0).to(tl.float32)
        if SCALED:
            key *= tl.load(k_scales + kv_head)
            value *= tl.load(v_scales + kv_head)
        logits = tl.dot(queries, tl.trans(key), input_precision="ieee") * sm_scale
        if CAP:
            # tanh by one exponential that cannot overflow into NaN
            logits = soft_cap * (1.0 - 2.0 / (tl.exp(2.0 * (logits / soft_cap)) + 1.0))
        if ALIBI:
            slope = tl.load(slopes + heads, mask=members < GROUP, other=0.0)
            logits += slope[:, None] * (keys - position).to(tl.float32)[None, :]
        logits = tl.where(seen[None, :], logits, float("-inf"))
        raised = tl.maximum(maximum, tl.max(logits, 1))
        # a row whose logits are all -inf has no finite maximum to subtract
        level = tl.where(raised == float("-inf"), 0.0, raised)
        weights = tl.exp(logits - level[:, None])
        kept = tl.exp(maximum - level)
        total = total * kept + tl.sum(weights, 1)
        weighted = weighted * kept[:, None] + tl.dot(weights, value, input_precision="ieee")
        maximum = raised
    some = total > 0.0
    divisor = tl.where(some, total, 1.0)
    result = weighted / divisor[:, None]
    tl.store(out + begin, result.to(out.dtype.element_ty), mask=inside)
    log = tl.where(some, maximum + tl.log(divisor), float("-inf"))
    tl.store(lse + row * tl.num_programs(1) * GROUP + heads, log, mask=members < GROUP)
