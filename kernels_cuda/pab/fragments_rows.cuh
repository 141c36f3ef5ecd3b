// SPDX-License-Identifier: Apache-2.0
// Numbers of quantised rows as operands of matrix instructions: int8, int4, e2m1, and e4m3 with scales of its own.
//
// Numbers of 8 bits lie and are numbered as those of e4m3 (pab/fragments_e4m3.cuh).  A chunk of 16 bytes is 32 of 4 bits,
// two steps along head_dim, and what a lane (4 * g + t) gets from ldmatrix is
//
//   keys      elements 8t .. 8t + 7 of key g.  Element j and j + 4 fall out of one shift and one mask as a pair; pairs 0
//             and 1 are the first step, 2 and 3 the second, and the query is numbered alike: load_query_for_4_bits.
//   values    with .trans elements 4g .. 4g + 3 of two neighbouring tokens: element j of both is a pair, operand B of
//             product j, whose columns are elements 4g + j.  The accumulators of the four are elements 8t .. 8t + 7 of
//             a row: half_row_of_4_bits.
//
// Every number is exact in float16 and in bfloat16, but for a power of two (kKeyFactor, kValueFactor), and made of its bits
// by one operation on pairs.  Where the scale is that of a token and head, weight times scale takes the weight's place in
// the second product: that is beyond float16, so that values are bfloat16 whatever the instance stores, and for float16,
// which has three bits more, the weight is the sum of two.  Scales of blocks, of e4m3, are multiplied into the numbers,
// which is exact too.
#pragma once

#include "pab/fragments_e4m3.cuh"

namespace pab {

constexpr bool kHalfKeys = PAB_DTYPE == 1;
constexpr bool kHalfValues = PAB_DTYPE == 1 && !kTokenScales;
constexpr bool kTwoWeights = PAB_DTYPE == 1 && kTokenScales;

// Whole numbers in the low bits of both halves of `both`, 0 to 255, less `zero`: as the bits of 16-bit floating numbers they
// stand for themselves times 2^-24, or 2^-133, which one operation on pairs turns into what kWholeFactor brings back.
template <bool kHalves>
constexpr float kWholeFactor = kHalves ? 512.0f : 128.0f;
template <bool kHalves>
PAB_FN u32 whole_pair(u32 both, int zero, int place = 0) {
  // 2^15 and zero * 2^-9, 2^126 and zero * 2^-7, of numbers `place` bits up that much less
  const u32 power = (kHalves ? 0x7800u : 0x7E80u) - (kHalves ? 0x0400u : 0x0080u) * static_cast<u32>(place);
  const u32 less = zero == 128 ? (kHalves ? 0xB400u : 0xBF80u) : (kHalves ? 0xA400u : 0xBD80u);
  const u32 powers = power * 0x10001u, both_less = less * 0x10001u;
  return kHalves ? fma_f16x2(both, powers, both_less) : fma_bf16x2(both, powers, both_less);
}

// Two e2m1, number `j` of either half of `word`, times `scales`, which pair_of_scales made: 2^14 too small.
template <bool kHalves>
PAB_FN u32 widen_e2m1(u32 word, int j, u32 scales) {
  constexpr int kPlace = kHalves ? 9 : 6;  // of the fraction's bit: float16 is 2^14 too small then, bfloat16 2^126
  const u32 sign = word << (12 - 4 * j) & 0x80008000u;
  const u32 moved = 4 * j > kPlace ? word >> (4 * j - kPlace) : word << (kPlace - 4 * j);
  const u32 both = sign | (moved & (0x00070007u << kPlace));
  return kHalves ? fma_f16x2(both, scales, 0x80008000u) : fma_bf16x2(both, scales, 0x80008000u);
}

PAB_FN u32 bfloats_of_halves(u32 halves) {
  float low, high;
  unpack_f16x2(halves, low, high);
  return pack_bf16x2(low, high);
}

// Two scales of e4m3 in the low bytes of `both`; of bfloat16 2^112 times.
template <bool kHalves>
PAB_FN u32 pair_of_scales(u32 both) {
  const u32 halves = e4m3x2_to_f16x2(static_cast<u16>(both));
  return kHalves ? halves : fma_bf16x2(bfloats_of_halves(halves), 0x77807780u, 0x80008000u);
}

// What products with keys, and outputs, are to be multiplied by.
template <bool kHalves>
constexpr float kNumberFactor = kBlockScales                                        ? 16384.0f
                                : kTileRows == kInt8Rows || kTileRows == kInt4Rows ? kWholeFactor<kHalves>
                                                                                   : 1.0f;
constexpr float kKeyFactor = kNumberFactor<kHalfKeys>, kValueFactor = kNumberFactor<kHalfValues>;

// Operand B of one step for eight keys of 8 bits, from a word of ldmatrix, in the storage type.
PAB_FN void keys_of_bytes(u32& b0, u32& b1, u32 word) {
  if constexpr (kTileRows == kInt8Rows) {
    const u32 above = word ^ 0x80808080u;
    b0 = whole_pair<kHalfKeys>(byte_permute(above, 0u, 0x4140), 128);
    b1 = whole_pair<kHalfKeys>(byte_permute(above, 0u, 0x4342), 128);
  } else {
    keys_of_e4m3(b0, b1, word);
  }
}

// Operand B, one of its two words, for the even and for the odd elements of 8 bits, from a word of ldmatrix.trans.
PAB_FN void values_of_bytes(u32& even, u32& odd, u32 word) {
  if constexpr (kTileRows == kInt8Rows) {
    const u32 above = word ^ 0x80808080u;
    even = whole_pair<kHalfValues>(byte_permute(above, 0u, 0x4240), 128);
    odd = whole_pair<kHalfValues>(byte_permute(above, 0u, 0x4341), 128);
  } else if constexpr (kTileRows == kE4m3Rows) {
    const u32 sorted = byte_permute(word, 0x3120);
    even = bfloats_of_halves(e4m3x2_to_f16x2(static_cast<u16>(sorted)));
    odd = bfloats_of_halves(e4m3x2_to_f16x2(static_cast<u16>(sorted >> 16)));
  } else {
    values_of_e4m3(even, odd, word);
  }
}

// The four pairs of a word of 4-bit numbers; `scales` is not used where numbers have none.
template <bool kHalves>
PAB_FN void widen_4_bits(u32 (&pairs)[4], u32 word, [[maybe_unused]] u32 scales) {
  if constexpr (kTileRows == kInt4Rows) {
    const u32 low = word ^ 0x88888888u, high = low >> 8;
    pairs[0] = whole_pair<kHalves>(low & 0x000F000Fu, 8);
    pairs[1] = whole_pair<kHalves>(low & 0x00F000F0u, 8, 4);
    pairs[2] = whole_pair<kHalves>(high & 0x000F000Fu, 8);
    pairs[3] = whole_pair<kHalves>(high & 0x00F000F0u, 8, 4);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) pairs[j] = widen_e2m1<kHalves>(word, j, scales);
  }
}

// Elements 8t + 4 * second .. + 3 of a chunk of row g (half 0) or g + 8 (half 1), from the accumulators of its products.
PAB_FN Pack<float, 4> half_row_of_4_bits(const float (*products)[4], int half, int second) {
  Pack<float, 4> found;
#pragma unroll
  for (int j = 0; j < 4; ++j) found.at[j] = second ? products[j][2 * half + 1] : products[j][2 * half];
  return found;
}

// Multiplies operand A by 1, once a piece: registers of a wide load are neighbours in another order than the instruction
// wants, and were moved for each product otherwise.
PAB_FN void settle_query(u32 (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    a[i] = PAB_DTYPE == 1 ? fma_f16x2(a[i], 0x3C003C00u, 0x80008000u) : fma_bf16x2(a[i], 0x3F803F80u, 0x80008000u);
  }
}

// Byte offset of 16-byte chunk `chunk` of row `row` in a query tile of kSteps steps, an even number.  Lanes read 16 bytes,
// two rows of four chunks at a time, so the four chunks of two steps stay together and two rows lie in different banks.
template <int kSteps>
PAB_FN int query_offset_for_4_bits(int row, int chunk) {
  constexpr int kUnits = kSteps / 2;
  return ((row * kUnits + swizzled<kUnits, kBankGroups / 4>(row, chunk / 4)) * 4 + chunk % 4) * kChunkBytes;
}

// One step of the query as operand A, numbered like the keys.
template <int kSteps>
PAB_FN void load_query_for_4_bits(u32 (&a)[4], const void* query, int step) {
  const int lane = static_cast<int>(lane_id());
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = query_offset_for_4_bits<kSteps>(lane / 4 + 8 * half, step / 2 * 4 + lane % 4);
    const auto* words = reinterpret_cast<const u32*>(static_cast<const unsigned char*>(query) + at);
    const Pack<u32, 4> eight = load_pack<4>(words);
    a[half] = byte_permute(eight.at[step % 2], eight.at[step % 2 + 2], 0x5410);
    a[half + 2] = byte_permute(eight.at[step % 2], eight.at[step % 2 + 2], 0x7632);
  }
}

}  // namespace pab
