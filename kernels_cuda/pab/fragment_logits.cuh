// SPDX-License-Identifier: Apache-2.0
// What the rows of a 16 x 8 accumulator of mma.m16n8k16 see, and the logits that its products become.
//
// A lane holds elements of two rows, lane / 4 and 8 below: one LogitRow for each.
#pragma once

#include "pab/features.cuh"

namespace pab {

// What a lane knows of a query row; the key's own scale is in `scale_log2`.
struct LogitRow {
  u32 end;  // the row sees keys before this one
#if PAB_FEATURES
  i32 position;
  float slope;
#endif
#if PAB_SCALES
  float scale_log2;
#endif
};

// A row of query head `head` at `position` that sees keys before `end`.
PAB_FN LogitRow logit_row(const Features& given, int head, i32 position, u32 end, float scale_log2) {
#if PAB_FEATURES
  return {end, position, slope_log2(given, head), scale_log2 * key_scale(given, head)};
#elif PAB_SCALES
  return {end, scale_log2 * key_scale(given, head)};
#else
  return {end};
#endif
}

// From here on the row's products are multiplied by `factor` as well.
PAB_FN void scale_products([[maybe_unused]] LogitRow& row, [[maybe_unused]] float factor) {
#if PAB_SCALES
  row.scale_log2 *= factor;
#endif
}

// Whether the row sees key `token`.
PAB_FN bool sees_key(const Features& given, const LogitRow& row, u32 token) {
#if PAB_FEATURES
  const i32 distance = static_cast<i32>(token) - row.position;
  const bool within = given.window == 0 || distance > -given.window;
  return within && token < row.end;
#else
  return token < row.end;
#endif
}

// The logit in units of log 2 of key `token`, which the row sees, from its product with the row.
PAB_FN float seen_logit(const Features& given, const LogitRow& row, float product, u32 token, float scale_log2) {
#if PAB_FEATURES
  const i32 distance = static_cast<i32>(token) - row.position;
  return shaped_logit(given, row.slope, product * row.scale_log2, distance);
#elif PAB_SCALES
  return product * row.scale_log2;
#else
  return product * scale_log2;
#endif
}

// The same for any key; -inf when the row does not see it.
PAB_FN float masked_logit(const Features& given, const LogitRow& row, float product, u32 token, float scale_log2) {
  const float logit = seen_logit(given, row, product, token, scale_log2);
  return sees_key(given, row, token) ? logit : minus_infinity();
}

}  // namespace pab
