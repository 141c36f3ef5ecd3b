// SPDX-License-Identifier: Apache-2.0
// What a block of paged_prefill.cu and of paged_prefill_wgmma.cu attends to, and where its rows lie.
#pragma once

#include "pab/prefill_order.cuh"
#include "pab/storage.cuh"
#include "pab/values_apart.cuh"

namespace pab {

constexpr float kLn2 = 0.693147180559945309f;

// What a block attends to: rows first_row .. last_row of a sequence with one KV head, and their keys.
struct Work {
  Sequence sequence;
  i32 number, kv_head, first_row, last_row;
  i32 begin, end;  // keys that some row sees
  i32 first_tile, tiles;
};

// The arguments of either kernel.
struct Call {
  const Stored* q;
  const Cached *k, *v;
  const i32* block_table;
  Stored* out;
  float* lse;
  i32 num_qo_heads, page_size, max_pages;
  i64 page_stride, token_stride, head_stride;
  ValueStrides value_strides;
  float scale_log2;
};

// Query head of packed row `row`, and the row of q and out that it is.
PAB_FN i32 query_head(const Work& work, i32 row) {
  return work.kv_head * work.sequence.group_size + row % work.sequence.group_size;
}
PAB_FN i64 query_row(const Call& call, const Work& work, i32 row) {
  const i32 token = row / work.sequence.group_size;
  return static_cast<i64>(work.sequence.first_query + token) * call.num_qo_heads + query_head(work, row);
}

}  // namespace pab
