// SPDX-License-Identifier: Apache-2.0
// The copies of a tile of pab/row_tiles.cuh from the paged cache to shared memory.
//
// Part of paged_decode.cu, not of others: it uses what pab/row_tiles.cuh does, and kThreads, kTile, kCopiesAtOnce and Call.
#pragma once

#include "pab/row_tiles.cuh"
#include "pab/tile_rows.cuh"

namespace pab {

constexpr int kRowsAtOnce = kThreads / kTileWords;  // that the block copies
// whether a thread copies the same word of all its rows, whose places are then one and constants beside it
constexpr bool kSameWord = kThreads % kTileWords == 0 && kGroupRows % kRowsAtOnce == 0;

// Starts the copies of a tile whose tokens lie at `rows`; group(row) has the tokens of kGroupRows rows.  What is not
// there is zeros: a weight of zero does not silence a NaN, be it a number or a scale.
template <typename Group>
PAB_FN void copy_tile(const i64* rows, const Call& call, const Group& group) {
  const int thread = static_cast<int>(threadIdx.x);
  const u8 *keys = call.k, *values = call.v;
  if constexpr (kSameWord) {
    const int first = thread / kTileWords, word = thread % kTileWords;
    const int place = chunk_offset<kCacheChunks>(first, word / 4) + word % 4 * 4;
    // what a row has not is not there for any: its number is as negative as that of no token
    const i32 behind = kRowWords == kTileWords || word < kRowWords ? 0 : -1;
    const u8 *key = kept(keys + 4 * word), *value = kept(values + 4 * word);
    constexpr int kCopies = kTile / kRowsAtOnce, kBatch = kCopies < kCopiesAtOnce ? kCopies : kCopiesAtOnce;
    static_assert(!kSameWord || kCopies % kBatch == 0, "batches are whole");
#pragma unroll
    for (int base = 0; base < kCopies; base += kBatch) {
      i64 offsets[kBatch];  // all before the first copy: the next load would wait for it
#pragma unroll
      for (int i = 0; i < kBatch; ++i) offsets[i] = rows[first + (base + i) * kRowsAtOnce];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        // rows that are 2^k apart: a step moves other bits of the row than the first one has, and so of the swizzle
        const int row = (base + i) * kRowsAtOnce % kGroupRows;
        const int target = (place ^ swizzled<kCacheChunks>(row, 0) * kChunkBytes) + row * kCacheChunks * kChunkBytes;
        const i32 there = static_cast<i32>(offsets[i] >> 32) | behind;
        Tokens& tokens = group((base + i) * kRowsAtOnce);
        cp_async4(tokens.keys + target, key + offsets[i], there);
        cp_async4(tokens.values + target, value + offsets[i], there);
      }
    }
  } else {
#pragma unroll kCopiesAtOnce
    for (int i = 0; i < (kTile * kTileWords + kThreads - 1) / kThreads; ++i) {
      const int index = thread + i * kThreads, row = index / kTileWords, word = index % kTileWords;
      if (kTile * kTileWords % kThreads != 0 && row >= kTile) break;
      const i64 offset = rows[row];
      const i32 there = static_cast<i32>(offset >> 32) | (word < kRowWords ? 0 : -1);
      const i64 source = offset + 4 * word;
      const int target = chunk_offset<kCacheChunks>(row % kGroupRows, word / 4) + word % 4 * 4;
      cp_async4(group(row).keys + target, keys + source, there);
      cp_async4(group(row).values + target, values + source, there);
    }
  }
  // the scales of a group are one array, keys first, which neighbouring threads write without bank conflicts
  constexpr int kSide = kGroupRows * kScaleWords, kAll = kTile / kGroupRows * 2 * kSide;
#pragma unroll
  for (int i = 0; i < (kAll + kThreads - 1) / kThreads; ++i) {
    const int index = thread + i * kThreads, place = index % (2 * kSide), within = place % kSide;
    if (kAll % kThreads != 0 && index >= kAll) break;
    const int row = index / (2 * kSide) * kGroupRows + within / kScaleWords;
    const i64 offset = rows[row];
    const u8* side = place < kSide ? keys : values;
    const i32 there = static_cast<i32>(offset >> 32);
    cp_async4(group(row).scales + place, side + offset + 4 * (kRowWords + within % kScaleWords), there);
  }
}

}  // namespace pab
