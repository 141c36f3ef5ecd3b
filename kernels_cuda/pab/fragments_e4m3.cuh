// SPDX-License-Identifier: Apache-2.0
// Tiles of e4m3 in shared memory as operands of matrix instructions on the storage type of the instance, or float16, in
// which every e4m3 number is exact.
//
// A chunk of 16 bytes is 16 elements: one step of m16n8k16 along head_dim.  ldmatrix hands out pairs of bytes as if
// they were single elements, so that what a lane (4 * g + t) gets has an order of its own:
//
//   keys      ldmatrix gives elements 4t .. 4t + 3 of key g.  They stand at depth 2t, 2t + 1, 2t + 8, 2t + 9 of the
//             product; the sum does not mind as long as the query is numbered alike: load_query_for_e4m3.
//   values    ldmatrix.trans gives elements 2g, 2g + 1 of two neighbouring tokens.  The even ones and the odd ones go
//             to two products, whose accumulators together are elements 4t .. 4t + 3 of a row: row_of_e4m3.
#pragma once

#include "pab/fragments.cuh"

namespace pab {

// Two neighbouring e4m3, in the low half of `both`, as a pair of the storage type.
PAB_FN u32 widen_pair(u32 both) {
  const u32 halves = e4m3x2_to_f16x2(static_cast<u16>(both));
#if PAB_DTYPE == 1
  return halves;
#else
  float low, high;
  unpack_f16x2(halves, low, high);
  return pack_bf16x2(low, high);
#endif
}

// Operand B of one step for eight keys, from a word of ldmatrix.
PAB_FN void keys_of_e4m3(u32& b0, u32& b1, u32 word) {
  b0 = widen_pair(word);
  b1 = widen_pair(word >> 16);
}

// The same as float16, in whatever type the instance stores.
PAB_FN void halves_of_e4m3(u32& b0, u32& b1, u32 word) {
  b0 = e4m3x2_to_f16x2(static_cast<u16>(word));
  b1 = e4m3x2_to_f16x2(static_cast<u16>(word >> 16));
}

// Operand B, one of its two words, for the even and for the odd elements, from a word of ldmatrix.trans.
PAB_FN void values_of_e4m3(u32& even, u32& odd, u32 word) {
  const u32 sorted = byte_permute(word, 0x3120);
  even = widen_pair(sorted);
  odd = widen_pair(sorted >> 16);
}

// Elements 16 * step + 4t .. + 3 of row g (half 0) or g + 8 (half 1), from the accumulators of the step.
PAB_FN Pack<float, 4> row_of_e4m3(const float (&even)[4], const float (&odd)[4], int half) {
  return {{even[2 * half], odd[2 * half], even[2 * half + 1], odd[2 * half + 1]}};
}

// Byte offset of 16-byte chunk `chunk` of row `row` in a query tile of kSteps steps.  Lanes read 8 bytes, four rows of
// two chunks at a time, so the two chunks of a step stay together and four rows lie in different banks.
template <int kSteps>
PAB_FN int query_offset_for_e4m3(int row, int chunk) {
  return ((row * kSteps + swizzled<kSteps, kBankGroups / 2>(row, chunk / 2)) * 2 + chunk % 2) * kChunkBytes;
}

// One step of the query as operand A, numbered like the keys.
template <int kSteps>
PAB_FN void load_query_for_e4m3(u32 (&a)[4], const void* query, int step) {
  const int lane = static_cast<int>(lane_id()), t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = query_offset_for_e4m3<kSteps>(lane / 4 + 8 * half, 2 * step) + 8 * t;
    const auto* words = reinterpret_cast<const u32*>(static_cast<const unsigned char*>(query) + at);
    const Pack<u32, 2> both = load_pack<2>(words);
    a[half] = both.at[0];
    a[half + 2] = both.at[1];
  }
}

}  // namespace pab
