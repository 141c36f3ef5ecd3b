// SPDX-License-Identifier: Apache-2.0
// Rows of a quantised cache: the vector of one token and KV head as bytes, and what they stand for.
//
//   PAB_ROWS   1: the cache holds rows of a format that is known at run time; else, or not defined, elements as
//              pab/storage.cuh has them
//
// A row is its numbers, of 8 bits or two of 4 in a byte (the even one low), and at scales_at bytes from its start one
// scale for each `block` numbers, where the format has scales.
#pragma once

#include "pab/storage.cuh"

namespace pab {

#if defined(PAB_ROWS) && PAB_ROWS

// Types of numbers and scales; the host has the same list.
enum RowType : i32 { kOne, kF32, kE4m3, kE5m2, kE2m1, kInt8, kInt4, kE8m0 };

struct RowFormat {
  i32 number, scale, block, scales_at;
};
#define PAB_ROW_FORMAT_PARAMETERS \
  , pab::i32 number_type, pab::i32 scale_type, pab::i32 block, pab::i32 key_scales_at, pab::i32 value_scales_at
#define PAB_KEY_ROWS , pab::RowFormat{number_type, scale_type, block, key_scales_at}
#define PAB_VALUE_ROWS , pab::RowFormat{number_type, scale_type, block, value_scales_at}

#if PAB_DTYPE != 0
PAB_FN float to_float(float x) { return x; }
#endif

PAB_FN bool is_narrow(i32 type) { return type == kE2m1 || type == kInt4; }

// 2^exponent, of a normal float or half the smallest one.
PAB_FN float power_of_two(i32 exponent) {
  return exponent < -126 ? float_of_bits(0x00400000u) : float_of_bits(static_cast<u32>(exponent + 127) << 23);
}

// What the bits of a type stand for.
PAB_FN float small_number(i32 type, u32 bits) {
  if (type == kE4m3) return e4m3_to_float(static_cast<u8>(bits));
  if (type == kE5m2) return half_to_float(static_cast<u16>(bits << 8));  // the upper half of a float16
  if (type == kInt8) return static_cast<float>(static_cast<i32>(bits) - (bits >= 128 ? 256 : 0));
  if (type == kInt4) return static_cast<float>(static_cast<i32>(bits) - (bits >= 8 ? 16 : 0));
  if (type == kE8m0) return bits == 255 ? float_of_bits(0x7FFFFFFFu) : power_of_two(static_cast<i32>(bits) - 127);
  const u32 exponent = bits >> 1 & 3, fraction = bits & 1;  // e2m1
  const float size = exponent == 0 ? 0.5f * static_cast<float>(fraction)
                                   : power_of_two(static_cast<i32>(exponent) - 2) * static_cast<float>(2 + fraction);
  return bits >= 8 ? -size : size;
}

PAB_FN u32 number_bits(const RowFormat& format, const u8* row, int element) {
  if (!is_narrow(format.number)) return row[element];
  return static_cast<u32>(row[element / 2]) >> (element % 2 * 4) & 15u;
}

PAB_FN float block_scale(const RowFormat& format, const u8* row, int element) {
  const int at = format.scales_at + element / format.block * (format.scale == kF32 ? 4 : 1);
  if (format.scale == kOne) return 1.0f;
  if (format.scale != kF32) return small_number(format.scale, row[at]);
  return load_wide(reinterpret_cast<const float*>(row + at));  // rows and scales begin at multiples of 4
}

// N numbers from `element` on, which one scale may not be enough for.
using Number = float;
template <int N>
PAB_FN Pack<Number, N> load_numbers(const u8* row, int element, const RowFormat& format) {
  Pack<Number, N> found;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const u32 bits = number_bits(format, row, element + i);
    found.at[i] = small_number(format.number, bits) * block_scale(format, row, element + i);
  }
  return found;
}

#else
#undef PAB_ROWS
#define PAB_ROWS 0
#define PAB_ROW_FORMAT_PARAMETERS
#define PAB_KEY_ROWS
#define PAB_VALUE_ROWS

using Number = Cached;
template <int N>
PAB_FN Pack<Number, N> load_numbers(const Cached* row, int element) {
  return load_pack<N>(row + element);
}
#endif

}  // namespace pab
