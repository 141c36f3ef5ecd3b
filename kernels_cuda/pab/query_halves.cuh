// SPDX-License-Identifier: Apache-2.0
// A query of bfloat16 as float16, so that keys of e4m3 are multiplied as float16: one conversion for two of them, where
// bfloat16 takes four instructions.
//
// Each row is multiplied by a power of two that brings its largest element to 2^15 .. 2^16 and that the logit's scale
// takes back.  Elements down to 2^-32 of that keep all their bits.  A row with one below, with a number that is not
// finite, or so far from 1 that the power leaves other scales no room, does not fit, and is multiplied as bfloat16.
// Of rows that fit every product is that of bfloat16 times the power, exactly: no bit of a logit depends on the way.
#pragma once

#include "pab/storage.cuh"

namespace pab {

constexpr u32 kOneExponent = 127;  // of 1, as float and bfloat16 store it
constexpr u32 kTopExponent = 15;   // to which the largest element of a row goes
constexpr u32 kFarExponent = 60;   // of the largest element at most, either way

// Turns operands A of a warp's 16 rows into float16; `inverse` gets what the logits of the lane's two rows are to be
// multiplied by.  False, the same for all lanes, when some row does not fit: the operands are of no use then.
template <int kSteps>
PAB_FN bool query_as_halves(u32 (&query)[kSteps][4], float (&inverse)[2]) {
  bool fits = true;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    u32 most = 0;  // magnitude of bfloat16: those of finite numbers rise with their bits
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = half; i < 4; i += 2) {
        const u32 low = query[step][i] & 0x7FFFu, high = query[step][i] >> 16 & 0x7FFFu;
        most = most > low ? most : low;
        most = most > high ? most : high;
      }
    }
#pragma unroll
    for (u32 lanes = 1; lanes < 4; lanes *= 2) {
      const u32 other = shfl_xor(kFullMask, most, lanes);
      most = most > other ? most : other;
    }
    const u32 exponent = most >> 7;
    fits = fits && (most == 0 || exponent - (kOneExponent - kFarExponent) <= 2 * kFarExponent);
    const u32 factor_exponent = most == 0 ? kOneExponent : 2 * kOneExponent + kTopExponent - exponent;
    const float factor = float_of_bits(factor_exponent << 23);
    inverse[half] = float_of_bits((2 * kOneExponent - factor_exponent) << 23);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = half; i < 4; i += 2) {
        float low, high, low_after, high_after;
        unpack_bf16x2(query[step][i], low, high);
        query[step][i] = pack_f16x2(low * factor, high * factor);
        unpack_f16x2(query[step][i], low_after, high_after);
        fits = fits && low_after == low * factor && high_after == high * factor;
      }
    }
  }
  return all(kFullMask, fits);
}

}  // namespace pab
