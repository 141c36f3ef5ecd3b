// SPDX-License-Identifier: Apache-2.0
// Tiles of keys and values that may lie apart: where their tokens are, and the copies of both.
//
// Part of paged_prefill.cu, not of others: it uses what pab/tile_copy.cuh does.  Memory has rows and, where values lie
// apart, value_rows.
#pragma once

#include "pab/tile_copy.cuh"
#include "pab/values_apart.cuh"

namespace pab {

constexpr int kValueChunks = kValueDim / kChunkElements;

// Notes where token `token` of the tile with rows of number `turn` lies; see note_token.
template <typename Memory>
PAB_FN void note_tokens(Memory& memory, i32 turn, const Call& call, i32 kv_head, u32 token, i32 page, u32 thread) {
  note_token(memory.rows[turn], call, kv_head, token, page, thread);
  if constexpr (kApart) {
    if (thread >= kTile) return;
    const i64 offset = call.value_strides.place(page, token % static_cast<u32>(call.page_size), kv_head);
    memory.value_rows[turn][thread] = page < 0 ? kNoToken : offset * static_cast<i64>(sizeof(Cached));
  }
}

// Starts the copies of the keys, or of the values, of a tile: rows of kDim elements that lie at `rows`; dead ones are
// zeros.
template <int kDim>
PAB_FN void copy_side(Cached* target, const Cached* side, const i64* rows, u32 thread) {
  constexpr int kRowChunks = kDim / kChunkElements;
  const auto* source = reinterpret_cast<const unsigned char*>(side);
#pragma unroll
  for (int i = 0; i < (kTile * kRowChunks + kThreads - 1) / kThreads; ++i) {
    const int index = static_cast<int>(thread) + i * kThreads;
    const int row = index / kRowChunks, chunk = index % kRowChunks;
    if (kTile * kRowChunks % kThreads != 0 && row >= kTile) break;
    const i64 offset = rows[row];
    const int place = chunk_offset<kRowChunks>(row, chunk) / static_cast<int>(sizeof(Cached));
    cp_async16_there(target + place, source + offset + kChunkBytes * chunk, static_cast<i32>(offset >> 32));
  }
}

// Starts the copies of the tile whose tokens are noted under `turn`.
template <typename Memory, typename Group>
PAB_FN void copy_tokens(const Memory& memory, i32 turn, const Call& call, const Group& stage, u32 thread) {
  if constexpr (kApart) {
    copy_side<kHeadDim>(stage(0).keys, call.k, memory.rows[turn], thread);
    copy_side<kValueDim>(stage(0).values, call.v, memory.value_rows[turn], thread);
  } else {
    copy_tile(memory.rows[turn], call, stage, thread);
  }
}

}  // namespace pab
