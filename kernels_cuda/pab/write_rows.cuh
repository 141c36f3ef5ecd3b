// SPDX-License-Identifier: Apache-2.0
// Numbers to rows of a quantised cache: the way back from pab/cache_rows.cuh, every number and scale rounded once.
//
// Quotients are doubles: a quotient of floats in double is nowhere near another tie than its own, so that rounding
// it is rounding the exact one.
#pragma once

#include "pab/cache_rows.cuh"

#if PAB_ROWS
namespace pab {

// Fraction bits, bias and largest code of a floating-point type of at most 8 bits; the rest of its bits are exponent.
struct SmallFloat {
  i32 fraction, bias;
  u32 largest, sign;
};
PAB_FN SmallFloat small_float(i32 type) {
  if (type == kE5m2) return {2, 15, 0x7Bu, 0x80u};
  if (type == kE2m1) return {1, 1, 7u, 8u};
  return {3, 7, 0x7Eu, 0x80u};
}

// The nearest whole number, ties to even, of what is below 2^51 and not negative.
PAB_FN double nearest_whole(double x) { return (x + 4503599627370496.0) - 4503599627370496.0; }

PAB_FN i32 exponent_of(float x) { return static_cast<i32>(float_bits(x) >> 23 & 0xFFu) - 127; }

// Bits of the number of `type` nearest to x, ties to even; the largest for what is too large, a NaN for a NaN.
PAB_FN u32 nearest_bits(i32 type, double x) {
  const bool negative = float_bits(static_cast<float>(x)) >> 31 != 0;  // of -0 too
  const double size = negative ? -x : x;
  if (type == kInt8 || type == kInt4) {
    const u32 mask = type == kInt8 ? 0xFFu : 15u, most = type == kInt8 ? 127u : 7u;
    const u32 whole = size < most ? static_cast<u32>(nearest_whole(size)) : most;
    return (negative ? 0u - whole : whole) & mask;
  }
  const SmallFloat kind = small_float(type);
  const u32 sign = negative ? kind.sign : 0u;
  if (!(size < 1e30)) return size != size ? 0x7Fu : sign | kind.largest;
  i32 exponent = exponent_of(static_cast<float>(size));
  if (exponent < 1 - kind.bias) exponent = 1 - kind.bias;
  const double steps = nearest_whole(size * power_of_two(kind.fraction - exponent));
  // the leading bit is in the steps, and a carry goes into the exponent
  const i64 code = (static_cast<i64>(exponent + kind.bias - 1) << kind.fraction) + static_cast<i64>(steps);
  return sign | (code < kind.largest ? static_cast<u32>(code) : kind.largest);
}

PAB_FN float largest_number(i32 type) {
  if (type == kInt8) return 127.0f;
  if (type == kInt4) return 7.0f;
  return small_number(type, small_float(type).largest);
}

// Writes the scale of a block whose largest magnitude is given, and returns what it stands for.
PAB_FN float write_scale(const RowFormat& format, u8* at, float largest, float tensor_scale) {
  const float most = largest_number(format.number);
  if (format.scale == kF32) {
    const float scale = largest / most;
    store_wide(reinterpret_cast<float*>(at), scale);
    return scale;
  }
  u32 bits = 0;
  if (format.scale == kE8m0) {
    const i32 exponent = exponent_of(largest) - exponent_of(most) + 127;
    bits = largest == 0.0f || exponent < 0 ? 0u : exponent > 254 ? 254u : static_cast<u32>(exponent);
  } else {
    bits = nearest_bits(format.scale, largest / (static_cast<double>(most) * tensor_scale));
  }
  *at = static_cast<u8>(bits);
  return small_number(format.scale, bits);
}

// Writes a block of a row, `first` to `end` - 1 of its numbers; a byte holds numbers of one block alone.
template <typename Source>
PAB_FN void write_block(const RowFormat& format, const Source* numbers, u8* row, int first, int end,
                        float tensor_scale) {
  double scale = tensor_scale;
  if (format.scale != kOne) {
    float largest = 0.0f;
    for (int i = first; i < end; ++i) {
      const float size = to_float(numbers[i]);
      largest = fmaxf(largest, size < 0.0f ? -size : size);
    }
    u8* at = row + format.scales_at + first / format.block * (format.scale == kF32 ? 4 : 1);
    scale *= write_scale(format, at, largest, tensor_scale);
  }
  const bool narrow = is_narrow(format.number);
  for (int i = first; i < end; i += narrow ? 2 : 1) {
    u32 bits = scale == 0.0 ? 0u : nearest_bits(format.number, to_float(numbers[i]) / scale);
    if (narrow && i + 1 < end) {
      bits |= (scale == 0.0 ? 0u : nearest_bits(format.number, to_float(numbers[i + 1]) / scale)) << 4;
    }
    row[narrow ? i / 2 : i] = static_cast<u8>(bits);
  }
}

}  // namespace pab
#endif
