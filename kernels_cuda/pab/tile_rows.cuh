// SPDX-License-Identifier: Apache-2.0
// Where the tokens of a tile lie in the paged cache.
//
// Part of the tensor-core kernels, not of others: it uses what these define before it: kTile and Call.
#pragma once

#include "pab/fragments.cuh"

namespace pab {

constexpr i32 kNoToken = -kChunkBytes;  // so that the address beside it is aligned

// Notes where token `token` of a tile lies, in bytes; its page, negative for none, is first needed here.  `thread` is
// this one's number in the block, and the token's in the tile.
PAB_FN void note_token(i64* rows, const Call& call, i32 kv_head, u32 token, i32 page, u32 thread = threadIdx.x) {
  if (thread >= kTile) return;
  const u32 page_size = static_cast<u32>(call.page_size);
  const i64 offset = page * call.page_stride + token % page_size * call.token_stride + kv_head * call.head_stride;
  rows[thread] = page < 0 ? kNoToken : offset * static_cast<i64>(sizeof(Cached));
}

}  // namespace pab
