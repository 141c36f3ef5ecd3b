// SPDX-License-Identifier: Apache-2.0
// 16-bit floating types as their bits: what the conversions of pab/intrinsics.cuh and the matrix instructions share.
#pragma once

#include <bit>

#include "pab/types.cuh"

namespace pab {

// CUDA's arithmetic yields one NaN, 0x7FFFFFFF and its counterparts; host processors keep the bits of an operand, and
// the NaN that they make themselves has its sign set.  Where values leave a thread's arithmetic CUDA's is put in place.
inline float canonical(float value) { return value == value ? value : std::bit_cast<float>(0x7FFFFFFFu); }

inline float half_to_float(u16 bits) {
  // the exponent is moved by a multiplication, which also normalises subnormals
  const u32 sign = static_cast<u32>(bits & 0x8000u) << 16, rest = static_cast<u32>(bits & 0x7FFFu) << 13;
  u32 scaled = std::bit_cast<u32>(std::bit_cast<float>(rest) * 0x1p112f);
  if (rest >= 0x0F800000u) scaled |= 0x7F800000u;  // infinity and NaN
  return std::bit_cast<float>(sign | scaled);
}
inline u16 float_to_half(float value) {
  const u32 bits = std::bit_cast<u32>(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return 0x7FFF;  // NaN
  if (magnitude >= 0x477FF000u) return static_cast<u16>(sign | 0x7C00u);  // rounds to infinity
  if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 rounds at the right place
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<u16>(sign | (std::bit_cast<u32>(shifted) - 0x3F000000u));
  }
  const u32 odd = magnitude >> 13 & 1u;
  return static_cast<u16>(sign | ((magnitude - 0x38000000u + 0xFFFu + odd) >> 13));
}
inline float bf16_to_float(u16 bits) { return std::bit_cast<float>(static_cast<u32>(bits) << 16); }
inline u16 float_to_bf16(float value) {
  const u32 bits = std::bit_cast<u32>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFF;
  return static_cast<u16>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

// a * b + c rounded to odd, so that rounding it once more, to 16 bits, gives what rounding the exact number would.  The
// product is exact in double; of the sum's error, Knuth's, the sign is enough.
inline float odd_fma(float a, float b, float c) {
  const double product = static_cast<double>(a) * b, sum = product + c, added = sum - product;
  const double error = (product - (sum - added)) + (c - added);
  const float nearest = static_cast<float>(sum);
  const double beside = (sum - static_cast<double>(nearest)) + error;
  const u32 bits = std::bit_cast<u32>(nearest);
  // NaN, infinity, exact, or odd already
  if (!(beside < 0.0 || beside > 0.0) || (bits & 0x7F800000u) == 0x7F800000u || bits & 1) return nearest;
  if (nearest == 0.0f) return beside > 0.0 ? 0x1p-149f : -0x1p-149f;
  return std::bit_cast<float>((beside > 0.0) == (nearest > 0.0f) ? bits + 1 : bits - 1);
}

}  // namespace pab
