// SPDX-License-Identifier: Apache-2.0
// What a kernel instance does beyond plain decode: soft cap, window, ALiBi, sinks, scales of an e4m3 cache, several
// query rows a sequence.
//
//   PAB_FEATURES   1: the kernel takes PAB_FEATURE_PARAMETERS after its own, and each feature is there when its
//                  parameter says so; 0 or not defined: none of it is compiled, but for the scales of a cache of
//                  e4m3 (PAB_E4M3), which are then the only parameter.  PAB_ROW_PARAMETERS come before them in a
//                  kernel that has none of its own for several query rows.
//
//   qo_indptr      (num_seqs + 1) first query row of each sequence
//   causal         0 or 1, aligned at the bottom right
//   window         keys a row sees at most, up to its own position; 0 for all
//   cap_log2       soft cap * log2(e), 0 for none
//   per_head       (4, num_qo_heads): ALiBi slope * log2(e), 0 for none; sink * log2(e), -inf for none; scale of
//                  the keys, scale of the values, 1 for none.  PAB_SEQUENCE_SCALES 1: the two scales for each sequence,
//                  (2 + 2 * num_seqs, num_qo_heads).  Scales of queries are in those of the keys.
//   scales         (2, num_qo_heads): the last two of per_head
//
// Logits are in base 2 throughout.
#pragma once

#include "pab/intrinsics.cuh"

#if defined(PAB_FEATURES) && PAB_FEATURES
#define PAB_SCALES 1
#define PAB_ROW_PARAMETERS , const pab::i32 *qo_indptr, pab::i32 num_seqs, pab::i32 causal
#define PAB_FEATURE_PARAMETERS , pab::i32 window, float cap_log2, const float *per_head
#define PAB_GIVEN_ROWS \
  pab::Rows { qo_indptr, num_seqs, causal }
#define PAB_GIVEN_FEATURES(num_qo_heads) \
  pab::Features { window, cap_log2, per_head, num_qo_heads }
#elif defined(PAB_E4M3) && PAB_E4M3
#define PAB_FEATURES 0
#define PAB_SCALES 1
#define PAB_FEATURE_PARAMETERS , const float *scales
#define PAB_GIVEN_FEATURES(num_qo_heads) \
  pab::Features { scales, num_qo_heads }
#else
#define PAB_FEATURES 0
#define PAB_SCALES 0
#define PAB_ROW_PARAMETERS
#define PAB_FEATURE_PARAMETERS
#define PAB_GIVEN_ROWS \
  pab::Rows {}
#define PAB_GIVEN_FEATURES(num_qo_heads) \
  pab::Features {}
#endif

namespace pab {

// Keys first .. end - 1 are those that a query row at `position` sees.
struct RowKeys {
  i64 sequence;
  int position, first, end;
};

#if PAB_FEATURES
constexpr bool kFeatures = true;

struct Rows {
  const i32* qo_indptr;
  i32 num_seqs, causal;
};
struct Features {
  i32 window;
  float cap_log2;
  const float* per_head;
  i32 num_qo_heads;
};

PAB_FN float slope_log2(const Features& given, int head) { return given.per_head[head]; }
PAB_FN float sink_log2(const Features& given, int head) { return given.per_head[given.num_qo_heads + head]; }

// What dot products and outputs of a head are multiplied by.
#if defined(PAB_SEQUENCE_SCALES) && PAB_SEQUENCE_SCALES
PAB_FN const float* scales_of(const Features& given, i64 sequence) {
  return given.per_head + (2 + 2 * sequence) * given.num_qo_heads;
}
#else
PAB_FN const float* scales_of(const Features& given, i64) { return given.per_head + 2 * given.num_qo_heads; }
#endif
PAB_FN float key_scale(const Features& given, int head, i64 sequence = 0) { return scales_of(given, sequence)[head]; }
PAB_FN float value_scale(const Features& given, int head, i64 sequence = 0) {
  return scales_of(given, sequence)[given.num_qo_heads + head];
}

// The first key that a query row at `position` sees.
PAB_FN int oldest_key(const Features& given, int position) {
  const i64 oldest = given.window == 0 ? 0 : static_cast<i64>(position) - given.window + 1;
  return static_cast<int>(oldest > 0 ? oldest : 0);
}

PAB_FN RowKeys keys_of_row(const Features& given, const Rows& rows, i64 query, const i32* kv_lens) {
  // the last sequence whose first row is not after this one; sequences without rows lie in between
  int low = 0, high = rows.num_seqs;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (rows.qo_indptr[middle] <= query) low = middle; else high = middle;
  }
  if (query >= rows.qo_indptr[rows.num_seqs]) return {low, 0, 0, 0};  // padding, behind all sequences
  const int kv_len = kv_lens[low];
  const int position = kv_len - rows.qo_indptr[low + 1] + static_cast<int>(query);
  const int end = rows.causal == 0 ? kv_len : position < 0 ? 0 : position + 1;
  return {low, position, oldest_key(given, position), end};
}

// 1 - 2 / (1 + e^2x): an absolute error below 2^-20, where the hardware's own tanh has 2^-11.
PAB_FN float tanh_from_exp(float x) { return 1.0f - 2.0f * rcp(1.0f + ex2(x * 2.885390081777926815f)); }

// The logit of a key `distance` positions from the query (0 or below before it) from its scaled dot product.
PAB_FN float shaped_logit(const Features& given, float slope, float product, int distance) {
  // the inverse is one division for all keys
  if (given.cap_log2 > 0.0f) product = given.cap_log2 * tanh_from_exp(product * (1.0f / given.cap_log2));
  return fmadd(slope, static_cast<float>(distance), product);
}

#else
constexpr bool kFeatures = false;

struct Rows {};
#if PAB_SCALES
struct Features {
  const float* scales;
  i32 num_qo_heads;
};
PAB_FN float key_scale(const Features& given, int head, i64 = 0) { return given.scales[head]; }
PAB_FN float value_scale(const Features& given, int head, i64 = 0) { return given.scales[given.num_qo_heads + head]; }
#else
struct Features {};
PAB_FN float key_scale(const Features&, int, i64 = 0) { return 1.0f; }
PAB_FN float value_scale(const Features&, int, i64 = 0) { return 1.0f; }
#endif

PAB_FN float slope_log2(const Features&, int) { return 0.0f; }
PAB_FN float sink_log2(const Features&, int) { return minus_infinity(); }
PAB_FN int oldest_key(const Features&, int) { return 0; }
PAB_FN RowKeys keys_of_row(const Features&, const Rows&, i64 query, const i32* kv_lens) {
  return {query, kv_lens[query] - 1, 0, kv_lens[query]};
}
PAB_FN float shaped_logit(const Features&, float, float product, int) { return product; }
#endif

}  // namespace pab
