// SPDX-License-Identifier: Apache-2.0
// Rounding once: a result on its way through float to fewer bits.
//
// Rounding to nearest twice can miss the number that lies nearest.  Rounding to odd on the way cannot: an exact result
// between two floats becomes that of the two whose last bit is set, and what follows sees on which side of a tie it was
// (Boldo and Melquiond, "When double rounding is odd", 2005).
#pragma once

#include "pab/intrinsics.cuh"

namespace pab {

// `nearest` is the exact result rounded to nearest, `missing` of the sign of exact minus nearest, 0 when nothing is.
PAB_FN float to_odd(float nearest, float missing) {
  const u32 bits = float_bits(nearest);
  const bool inexact = missing < 0.0f || missing > 0.0f;  // not so for NaN
  if (!inexact || bits % 2 == 1 || nearest == 0.0f) return nearest;
  const bool outwards = (missing > 0.0f) == (nearest > 0.0f);
  return float_of_bits(outwards ? bits + 1 : bits - 1);
}

// x / y and x * y to odd.  What fmadd leaves over is exact where it is not below the normal numbers.
PAB_FN float quotient_to_odd(float x, float y) {
  const float nearest = x / y;
  const float missing = fmadd(-nearest, y, x);
  return to_odd(nearest, y < 0.0f ? -missing : missing);
}
PAB_FN float product_to_odd(float x, float y) {
  const float nearest = x * y;
  return to_odd(nearest, fmadd(x, y, -nearest));
}

}  // namespace pab
