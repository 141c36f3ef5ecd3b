// SPDX-License-Identifier: Apache-2.0
// Tiles of a cache whose rows hold their scales (PAB_TILE_ROWS): where numbers and scales lie in shared memory.
//
// Rows begin at multiples of 4 bytes and no more (int8 of head_dim 128 takes 132), so that a copy moves 4.  Numbers go
// to the chunks that copies of 16 bytes would fill, scales beside them: products find numbers as they find e4m3.
//
// Part of paged_decode.cu, not of others: it uses what that defines before it: kHeadDim, kTileDim and kGroupRows.
#pragma once

#include "pab/fragments.cuh"

namespace pab {

constexpr int kNumbersOfWord = 32 / kNumberBits;
constexpr int kCacheChunks = kTileDim * kNumberBits / 8 / kChunkBytes;
constexpr int kRowWords = kHeadDim / kNumbersOfWord;   // of numbers in the cache, with scales behind them
constexpr int kTileWords = kTileDim / kNumbersOfWord;  // of numbers in a tile, the last of which may be zeros
constexpr int kBlocks = kBlockScales ? kHeadDim / 16 : 0;
constexpr int kScaleWords = kBlockScales ? (kBlocks + 3) / 4 : 1;
static_assert(kHeadDim % 16 == 0, "numbers are whole words, blocks are whole");

// A warp's tokens of a stage.
struct Tokens {
  Cached keys[kGroupRows * 4 * kTileWords], values[kGroupRows * 4 * kTileWords];
  u32 scales[2 * kGroupRows * kScaleWords];  // of the keys, then of the values

  PAB_METHOD const u32* key_scales() const { return scales; }
  PAB_METHOD const u32* value_scales() const { return scales + kGroupRows * kScaleWords; }
};

// Word `word` of the scales of row `row`: what fills the last one up means nothing.
PAB_FN u32 scale_word(const u32* scales, int row, int word) {
  constexpr u32 kLast = kBlocks % 4 == 0 ? 0xFFFFFFFFu : (1u << 8 * (kBlocks % 4)) - 1;
  const u32 found = scales[row * kScaleWords + word];
  return word == kScaleWords - 1 ? found & kLast : found;
}

}  // namespace pab
