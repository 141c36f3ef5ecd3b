// SPDX-License-Identifier: Apache-2.0
// Tiles of 16-byte chunks in shared memory, and matrix instructions on them in the storage type of the instance.
//
//   PAB_DTYPE   1 float16, 2 bfloat16
//
// A tile is rows of kChunks chunks of 16 bytes (8 elements of 16 bits).  Chunk c of row r lies at place `swizzled(r, c)` of its
// row, so that the eight rows which ldmatrix reads at a time lie in eight different groups of four banks, and the
// eight chunks that a quarter warp writes as well: no bank conflicts either way.
#pragma once

#include "pab/storage.cuh"

#if PAB_DTYPE != 1 && PAB_DTYPE != 2
#error "matrix instructions need PAB_DTYPE 1 or 2"
#endif

namespace pab {

constexpr int kChunkBytes = 16;
constexpr int kBankGroups = 8;  // of 16 bytes, in the 128 bytes that 32 banks deliver at once

// Where chunk `chunk` of row `row` lies within its row, such that kGroups neighbouring rows lie in as many different
// groups of banks.  Rows that are a multiple of 2^k chunks long start in kGroups / 2^k of them; an exclusive or within
// 2^k chunks spreads the rows that share one.
template <int kChunks, int kGroups = kBankGroups>
PAB_FN int swizzled(int row, int chunk) {
  constexpr int kPower = kChunks & -kChunks, kSpread = kPower < kGroups ? kPower : kGroups;
  return chunk ^ (row / (kGroups / kSpread) % kSpread);
}

// Byte offset of chunk `chunk` of row `row` in a tile.
template <int kChunks>
PAB_FN int chunk_offset(int row, int chunk) {
  return (row * kChunks + swizzled<kChunks>(row, chunk)) * kChunkBytes;
}

// Byte offset of chunk 2 * step + c of the row whose chunk c (0 or 1) lies at `first`; of rows with an even number of
// chunks.  A step moves bits of the chunk that the row's exclusive or leaves where they are, so that all steps follow
// from few places by constants.
template <int kChunks>
PAB_FN int step_offset(int first, int step) {
  constexpr int kPower = kChunks & -kChunks, kSpread = kPower < kBankGroups ? kPower : kBankGroups;
  static_assert(kSpread >= 2, "a step is two chunks");
  const int within = 2 * step % kSpread;
  return (first ^ (within * kChunkBytes)) + (2 * step - within) * kChunkBytes;
}

#if PAB_DTYPE == 1
PAB_FN void mma_16816(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) { mma_16816_f16(c, a, b0, b1); }
PAB_FN u32 pack_pair(float low, float high) { return pack_f16x2(low, high); }
#else
PAB_FN void mma_16816(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) { mma_16816_bf16(c, a, b0, b1); }
PAB_FN u32 pack_pair(float low, float high) { return pack_bf16x2(low, high); }
#endif

// The largest and the sum over the four lanes that share a row of an accumulator.
PAB_FN float quad_max(float value) {
  value = fmaxf(value, shfl_xor(kFullMask, value, 1));
  return fmaxf(value, shfl_xor(kFullMask, value, 2));
}
PAB_FN float quad_sum(float value) {
  value += shfl_xor(kFullMask, value, 1);
  return value + shfl_xor(kFullMask, value, 2);
}

}  // namespace pab
