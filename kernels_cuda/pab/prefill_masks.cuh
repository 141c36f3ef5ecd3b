// SPDX-License-Identifier: Apache-2.0
// How a block of paged_prefill.cu goes over its tiles, and what a lane knows of the keys that its rows see.  Without
// PAB_MASKS these are ranges: all tiles one after another, and ends of rows.
//
// Part of that kernel, not of others: it uses the constants and the memory that it defines before.
#pragma once

#include "pab/prefill_memory.cuh"

namespace pab {

#if PAB_MASKS
// The number of the block's list, and with it how many tiles the block has.
PAB_FN i32 list_of(const Batch& batch, const Work& work) {
  return first_list<kRows>(batch, work.number) + work.first_row / kRows;
}
PAB_FN void count_live(Work& work, const LiveLists& lists, const Batch& batch) {
  work.first_tile = list_of(batch, work);
  work.tiles = lists.counts[work.first_tile];
}

// The first tiles of the list that the block looks up, before anything else.
PAB_FN void begin_live(SharedMemory& memory, const LiveLists& lists, const Work& work) {
  const i32 n = static_cast<i32>(threadIdx.x);
  if (n < kLive - 1 && n < work.tiles) {
    store_wide(&memory.live[n], load_wide(&lists.tiles[static_cast<i64>(work.first_tile) * lists.stride + n]));
  }
  block_sync();
}
// Entry n of the list comes with the copies of the tile kStages before it, and is there when that tile is waited for,
// which is before it is looked up itself.  Its place is that of the tile before the one that is attended to.
PAB_FN void fetch_live(SharedMemory& memory, const LiveLists& lists, const Work& work, i32 n) {
  if (threadIdx.x == 0 && n >= kLive - 1 && n < work.tiles) {
    const LiveTile* source = &lists.tiles[static_cast<i64>(work.first_tile) * lists.stride + n];
    cp_async16(&memory.live[n % kLive], source, true);
  }
}
PAB_FN bool warp_sees_some(const SharedMemory& memory, i32 n) {
  return (memory.live[n % kLive].warps >> (threadIdx.x / kWarpSize) & 1) != 0;
}
PAB_FN bool warp_sees_all(const SharedMemory& memory, i32 n) {
  return (memory.live[n % kLive].warps >> (16 + threadIdx.x / kWarpSize) & 1) != 0;
}

// The lane's two rows of 16, as rows of the mask.
struct MaskRows {
  MaskBits mask;
  i32 row[2];
};
PAB_FN MaskRows mask_rows(const MaskBits& mask, const Work& work, i32 row) {
  const i32 group = work.sequence.group_size, first = work.sequence.first_query;
  const i32 other = row + 8 < work.last_row ? row + 8 : work.last_row;
  return {mask, {first + (row < work.last_row ? row : work.last_row) / group, first + other / group}};
}

// The bits of both rows for the keys of a tile; none where they are not asked for.
struct TileBits {
  u32 words[2][kTileWords];
};
PAB_FN TileBits tile_bits(const MaskRows& rows, u32 first, bool masked) {
  TileBits bits = {};
  if (masked) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int word = 0; word < kTileWords; ++word) {
        bits.words[half][word] = mask_word(rows.mask, rows.row[half], static_cast<i32>(first / 32) + word);
      }
    }
  }
  return bits;
}
// Whether row `half` of the lane sees its key j of the 8 of number i, which is key `token`.
PAB_FN bool sees_key(const TileBits& bits, const Features&, const LogitRow&, int half, int i, int j, u32, int lane) {
  return (bits.words[half][i / 4] >> (2 * (lane % 4)) >> (8 * (i % 4) + j) & 1) != 0;
}
// Keeps in `end` whether the row sees anything at all: what its length is to rows with a range.
PAB_FN void note_seen(LogitRow& row, const TileBits& bits, int half, bool masked) {
  u32 any_key = masked ? 0 : 1;
#pragma unroll
  for (int word = 0; word < kTileWords; ++word) any_key |= bits.words[half][word];
  row.end |= any_key;
}
#else
PAB_FN void count_live(Work&, const LiveLists&, const Batch&) {}
PAB_FN void begin_live(SharedMemory&, const LiveLists&, const Work&) {}
PAB_FN void fetch_live(SharedMemory&, const LiveLists&, const Work&, i32) {}
PAB_FN bool warp_sees_some(const SharedMemory&, i32) { return true; }
PAB_FN bool warp_sees_all(const SharedMemory&, i32) { return true; }
struct MaskRows {};
PAB_FN MaskRows mask_rows(const MaskBits&, const Work&, i32) { return {}; }
struct TileBits {};
PAB_FN TileBits tile_bits(const MaskRows&, u32, bool) { return {}; }
PAB_FN bool sees_key(const TileBits&, const Features& features, const LogitRow& row, int, int, int, u32 token, int) {
  return sees_key(features, row, token);
}
PAB_FN void note_seen(LogitRow&, const TileBits&, int, bool) {}
#endif

}  // namespace pab
