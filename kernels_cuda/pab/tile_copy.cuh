// SPDX-License-Identifier: Apache-2.0
// Tiles of the paged cache on their way to shared memory: the copies of a tile's keys and values.
//
// Part of paged_decode.cu and paged_prefill.cu, not of others: it uses what these define before it: kHeadDim, kThreads,
// kTile, kGroupRows (rows of a tile that lie behind one another), kCopiesAtOnce, and Call.
#pragma once

#include "pab/tile_rows.cuh"

namespace pab {

constexpr int kChunkElements = kChunkBytes / static_cast<int>(sizeof(Cached));
constexpr int kCacheChunks = kHeadDim / kChunkElements;
constexpr int kRowsAtOnce = kThreads / kCacheChunks;  // that the block copies
// whether a thread's chunk and its place in the swizzle are the same in all rows that it copies
constexpr bool kSameChunk =
    kThreads % kCacheChunks == 0 && kRowsAtOnce % kBankGroups == 0 && kGroupRows % kRowsAtOnce == 0;

// Starts the copies of a tile whose tokens lie at `rows`; group(row) has the keys and values of kGroupRows rows.
// `thread` is this one's number in the block.
template <typename Group>
PAB_FN void copy_tile(const i64* rows, const Call& call, const Group& group, u32 thread = threadIdx.x) {
  const auto* keys = reinterpret_cast<const unsigned char*>(call.k);
  const auto* values = reinterpret_cast<const unsigned char*>(call.v);
  // a weight of zero does not silence a NaN: dead rows are zeros
  if constexpr (kSameChunk) {
    // a thread copies one chunk of every kRowsAtOnce-th row: places are one and constants beside it
    const int first = static_cast<int>(thread) / kCacheChunks, chunk = static_cast<int>(thread) % kCacheChunks;
    const int place = chunk_offset<kCacheChunks>(first, chunk) / static_cast<int>(sizeof(Cached));
    keys = kept(keys + kChunkBytes * chunk);
    values = kept(values + kChunkBytes * chunk);
    i64 offsets[kSameChunk ? kTile / kRowsAtOnce : 1];  // all before the first copy: the next load would wait for it
#pragma unroll
    for (int i = 0; i < kTile / kRowsAtOnce; ++i) offsets[i] = rows[first + i * kRowsAtOnce];
#pragma unroll
    for (int i = 0; i < kTile / kRowsAtOnce; ++i) {
      auto& tokens = group(i * kRowsAtOnce);
      const int target = place + i * kRowsAtOnce % kGroupRows * kHeadDim;
      const i32 there = static_cast<i32>(offsets[i] >> 32);
      cp_async16_there(tokens.keys + target, keys + offsets[i], there);
      cp_async16_there(tokens.values + target, values + offsets[i], there);
    }
  } else {
#pragma unroll kCopiesAtOnce
    for (int i = 0; i < (kTile * kCacheChunks + kThreads - 1) / kThreads; ++i) {
      const int index = static_cast<int>(thread) + i * kThreads;
      const int row = index / kCacheChunks, chunk = index % kCacheChunks;
      if (kTile * kCacheChunks % kThreads != 0 && row >= kTile) break;
      const i64 offset = rows[row], source = offset + kChunkBytes * chunk;
      const int target = chunk_offset<kCacheChunks>(row % kGroupRows, chunk) / static_cast<int>(sizeof(Cached));
      const i32 there = static_cast<i32>(offset >> 32);
      cp_async16_there(group(row).keys + target, keys + source, there);
      cp_async16_there(group(row).values + target, values + source, there);
    }
  }
}

}  // namespace pab
