// SPDX-License-Identifier: Apache-2.0
// Paged attention, the readable one: one warp per (query row, query head, split of the keys).  For plain decode a
// sequence has one query row; PAB_FEATURES adds more of them, and all that pab/features.cuh lists.
//
//   paged_decode_simple   grid  ceil(num_query_rows * num_qo_heads * num_splits / PAB_WARPS), 1, 1
//                         block 32 * PAB_WARPS threads
//                         shared, per warp: PAB_HEAD_DIM floats (query) rounded up to 16 bytes, 32 tokens of
//                         16 bytes (value row and weight)
//   paged_decode_merge    grid  ceil(num_query_rows * num_qo_heads / PAB_WARPS), block as above, no shared memory
//
// Layout   q (num_query_rows, num_qo_heads, head_dim), out likewise with head_dim_v; lse (num_query_rows,
//          num_qo_heads) float, natural log; k, v any layout with contiguous head_dim, each given by its own three
//          element strides (page, token, head).  A latent cache is v = k: values are the beginnings of the keys;
//          block_table (num_seqs, max_pages), kv_lens (num_seqs); partial_* (row, split) with row = query * Hq + head.
// Compile  PAB_HEAD_DIM, PAB_HEAD_DIM_V any; PAB_DTYPE see pab/storage.cuh; PAB_VEC elements of one load (divides
//          both); PAB_WARPS warps of a block; PAB_FEATURES, PAB_E4M3 and PAB_ROWS 0 or 1, see pab/features.cuh,
//          pab/storage.cuh and pab/cache_rows.cuh; PAB_MASK 1 (with PAB_FEATURES): the keys of a query row are the set bits of its
//          mask_words words of mask, row_keys of them, and causal and window are 0.
// Floor    each live K and V element once: sum(kv_lens) * num_kv_heads * (head_dim + head_dim_v) * itemsize bytes;
//          of a latent cache its keys alone.  This kernel reads them once per query head (the group's heads are
//          separate warps), so a group of G asks L2 for G times the floor: it is the specification, not the fast one.
//
// A warp takes 32 tokens at a time.  For the scores a lane owns a token and walks its key row; for the output a
// lane owns elements of the head and walks the 32 value rows, so that both passes need no reduction but the
// running maximum.  Sums are blocked: 32 products first, then the rescaled accumulator.
#include "pab/cache_rows.cuh"
#include "pab/features.cuh"
#include "pab/storage.cuh"

namespace pab {

constexpr int kHeadDim = PAB_HEAD_DIM;
constexpr int kValueDim = PAB_HEAD_DIM_V;
constexpr int kVec = PAB_VEC;
constexpr int kWarps = PAB_WARPS;
constexpr int kTile = 32;
constexpr int kRunsAtOnce = PAB_ROWS ? 1 : 4, kTokensAtOnce = PAB_ROWS ? 1 : 8;  // rows are much code each
constexpr int kQueryVec = kVec < 4 ? kVec : 4;  // floats of one read of the query
static_assert(kHeadDim % kVec == 0 && kValueDim % kVec == 0, "a load must not cross the end of a row");

// Elements of one value load: as wide as allowed while every lane has work.
PAB_FN constexpr int value_vec() {
  int vec = kVec;
  while (vec > 1 && kValueDim / vec < 32) vec /= 2;
  return vec;
}
constexpr int kValueVec = value_vec();
constexpr int kValuePacks = kValueDim / kValueVec;
constexpr int kPacksPerLane = (kValuePacks + 31) / 32;

#if defined(PAB_Q_E4M3) && PAB_Q_E4M3
using Query = u8;
PAB_FN float query_float(Query x) { return e4m3_to_float(x); }
#else
using Query = Stored;
PAB_FN float query_float(Query x) { return to_float(x); }
#endif

#if PAB_MASK
#define PAB_MASK_PARAMETERS , const pab::u32 *mask, pab::i32 mask_words, const pab::i32 *row_keys
#define PAB_GIVEN_MASK(query) \
  pab::MaskRow { mask + (query) * mask_words, row_keys[query] }
// Keys that a query row sees, a bit each, and how many.
struct MaskRow {
  const u32* words;
  int count;
};
PAB_FN bool sees(const MaskRow& row, int token) { return (row.words[token / 32] >> (token % 32) & 1) != 0; }
PAB_FN bool sees_nothing(const MaskRow& row, const RowKeys&) { return row.count == 0; }
#else
#define PAB_MASK_PARAMETERS
#define PAB_GIVEN_MASK(query) \
  pab::MaskRow {}
struct MaskRow {};
PAB_FN bool sees(const MaskRow&, int) { return true; }
PAB_FN bool sees_nothing(const MaskRow&, const RowKeys& keys) { return keys.first == keys.end; }
#endif

#if defined(PAB_LSE_BASE_2) && PAB_LSE_BASE_2
constexpr float kLn2 = 1.0f;  // the LSE stays in base 2, as sums are
#else
constexpr float kLn2 = 0.693147180559945309f;
#endif

// What the value pass needs of a token, in one read that all lanes share.
struct alignas(16) Token {
  i64 row;  // of its value, in elements
  float weight;
  u32 live;
};
struct alignas(16) WarpMemory {
  float query[kHeadDim];
  Token tokens[kTile];
};

// Adds kVec products of `query` and `loaded` to the running sums; `pack` numbers the load.
PAB_FN void add_products(float (&sum)[4], const float* query, const Pack<Number, kVec>& loaded, int pack) {
#pragma unroll
  for (int part = 0; part < kVec; part += kQueryVec) {
    const Pack<float, kQueryVec> with = load_pack<kQueryVec>(query + part);
#pragma unroll
    for (int i = 0; i < kQueryVec; ++i) {
      float& into = sum[(kVec >= 4 ? i : pack) % 4];
      into = fmadd(with.at[i], to_float(loaded.at[part + i]), into);
    }
  }
}

// scale * log2(e) * q . k for one key row; four running sums keep the chains short.  Loads go by in runs whose
// length is a constant, so that the sums stay in registers.
template <typename... Format>
PAB_FN float score(const float* query, const Cached* key, float scale_log2, const Format&... format) {
  constexpr int kRun = kVec >= 4 ? kVec : 4 * kVec, kRuns = kHeadDim / kRun * kRun;
  float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll kRunsAtOnce
  for (int d = 0; d < kRuns; d += kRun) {
#pragma unroll
    for (int r = 0; r < kRun; r += kVec) {
      add_products(sum, query + d + r, load_numbers<kVec>(key, d + r, format...), r / kVec);
    }
  }
#pragma unroll
  for (int d = kRuns; d < kHeadDim; d += kVec) {
    add_products(sum, query + d, load_numbers<kVec>(key, d, format...), (d - kRuns) / kVec);
  }
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) * scale_log2;
}

PAB_FN float warp_max(float value) {
#pragma unroll
  for (u32 step = 16; step > 0; step /= 2) value = fmaxf(value, shfl_xor(kFullMask, value, step));
  return value;
}
PAB_FN float warp_sum(float value) {
#pragma unroll
  for (u32 step = 16; step > 0; step /= 2) value += shfl_xor(kFullMask, value, step);
  return value;
}

}  // namespace pab

extern "C" __global__ void __launch_bounds__(32 * PAB_WARPS, 4) paged_decode_simple(
    const pab::Query* q, const pab::Cached* k, const pab::Cached* v, const pab::i32* block_table,
    const pab::i32* kv_lens, pab::Stored* out, float* lse, float* partial_out, float* partial_max,
    float* partial_sum, pab::i32 num_rows, pab::i32 num_qo_heads, pab::i32 group_size, pab::i32 page_size,
    pab::i32 max_pages, pab::i32 num_splits, pab::i64 page_stride, pab::i64 token_stride, pab::i64 head_stride,
    pab::i64 value_page_stride, pab::i64 value_token_stride, pab::i64 value_head_stride,
    float scale_log2 PAB_ROW_PARAMETERS PAB_FEATURE_PARAMETERS PAB_MASK_PARAMETERS PAB_ROW_FORMAT_PARAMETERS) {
  using namespace pab;
  PAB_SHARED(shared);
  const u32 warp = threadIdx.x / kWarpSize, lane = lane_id();
  const i64 item = static_cast<i64>(blockIdx.x) * kWarps + warp;
  if (item >= static_cast<i64>(num_rows) * num_splits) return;
  const i64 row = item / num_splits;
  const int split = static_cast<int>(item % num_splits);
  const Features features = PAB_GIVEN_FEATURES(num_qo_heads);
  const RowKeys keys = keys_of_row(features, PAB_GIVEN_ROWS, row / num_qo_heads, kv_lens);
  const int head = static_cast<int>(row % num_qo_heads);
  const int kv_head = head / group_size;
  const MaskRow mask_row = PAB_GIVEN_MASK(row / num_qo_heads);
  WarpMemory& memory = reinterpret_cast<WarpMemory*>(shared)[warp];

  // whole tiles to each split, so that the sums do not depend on where a split ends
  const int seen = keys.end - keys.first;
  const int tiles = seen / kTile + (seen % kTile != 0);
  const int split_tiles = (tiles + num_splits - 1) / num_splits;
  const i64 begin = keys.first + static_cast<i64>(split) * split_tiles * kTile;
  const i64 split_end = begin + static_cast<i64>(split_tiles) * kTile;
  const int end = static_cast<int>(split_end < keys.end ? split_end : keys.end);

  PAB_REGION("query");
  for (int d = static_cast<int>(lane); d < kHeadDim; d += 32) memory.query[d] = query_float(q[row * kHeadDim + d]);
  warp_sync(kFullMask);

  // a sink is one more key, without a value, and the first split's alone; the sum is this lane's share
  float running_max = split == 0 ? sink_log2(features, head) : minus_infinity();
  float running_sum = lane == 0 && running_max > minus_infinity() ? 1.0f : 0.0f;
  const float key_scale_log2 = scale_log2 * key_scale(features, head, keys.sequence), slope = slope_log2(features, head);
  float acc[kPacksPerLane][kValueVec] = {};
  const i32* pages = block_table + keys.sequence * max_pages;
  for (i64 tile = begin; tile < end; tile += kTile) {
    // a lane past the end looks at the last page's row but never at its contents
    PAB_REGION("score");
    const int token = static_cast<int>(tile) + static_cast<int>(lane);
    const bool live = token < end && sees(mask_row, token);
    const i64 page = pages[(live ? token : end - 1) / page_size];
    const int offset = token % page_size;
    const i64 slot = page * page_stride + offset * token_stride + kv_head * head_stride;
    const i64 value_row = page * value_page_stride + offset * value_token_stride + kv_head * value_head_stride;
    const float product = live ? score(memory.query, k + slot, key_scale_log2 PAB_KEY_ROWS) : 0.0f;
    const float logit = live ? shaped_logit(features, slope, product, token - keys.position) : minus_infinity();

    const float new_max = fmaxf(running_max, warp_max(logit));
    const float base = new_max == minus_infinity() ? 0.0f : new_max;  // -inf - -inf would be NaN
    const float rescale = ex2(running_max - base);
    const float weight = live ? ex2(logit - base) : 0.0f;
    running_max = new_max;
    running_sum = fmadd(running_sum, rescale, weight);  // by name, so that every build fuses it
    store_wide(&memory.tokens[lane], Token{value_row, weight, live ? 1u : 0u});
    warp_sync(kFullMask);

    PAB_REGION("output");
    const int count = end - static_cast<int>(tile);
#pragma unroll
    for (int p = 0; p < kPacksPerLane; ++p) {
      const int element = (static_cast<int>(lane) + 32 * p) * kValueVec;
      if (element >= kValueDim) break;
      float tile_sum[kValueVec] = {};
#pragma unroll kTokensAtOnce
      for (int t = 0; t < kTile; ++t) {
        // a weight of zero does not silence a NaN: dead rows are not read
        const Token token = load_wide(&memory.tokens[t]);
        Pack<Number, kValueVec> value = {};
        if (t < count && token.live) value = load_numbers<kValueVec>(v + token.row, element PAB_VALUE_ROWS);
#pragma unroll
        for (int i = 0; i < kValueVec; ++i) tile_sum[i] = fmadd(token.weight, to_float(value.at[i]), tile_sum[i]);
      }
#pragma unroll
      for (int i = 0; i < kValueVec; ++i) acc[p][i] = fmadd(acc[p][i], rescale, tile_sum[i]);
    }
    warp_sync(kFullMask);
  }
  PAB_REGION("result");
  running_sum = warp_sum(running_sum);

  if (num_splits > 1) {
    if (lane == 0) {
      partial_max[item] = running_max;
      partial_sum[item] = running_sum;
    }
    for (int p = 0; p < kPacksPerLane; ++p) {
      const int element = (static_cast<int>(lane) + 32 * p) * kValueVec;
      for (int i = 0; i < kValueVec && element < kValueDim; ++i) {
        partial_out[item * kValueDim + element + i] = acc[p][i];
      }
    }
    return;
  }
  // no key: output 0, LSE -inf; a NaN among the logits, or nothing but -inf, comes out as NaN
  const float inverse = sees_nothing(mask_row, keys) ? 0.0f : value_scale(features, head, keys.sequence) / running_sum;
  if (lane == 0) lse[row] = (running_max + lg2(running_sum)) * kLn2;
  for (int p = 0; p < kPacksPerLane; ++p) {
    const int element = (static_cast<int>(lane) + 32 * p) * kValueVec;
    if (element >= kValueDim) break;
    Pack<Stored, kValueVec> result;
    for (int i = 0; i < kValueVec; ++i) result.at[i] = from_float(acc[p][i] * inverse);
    store_pack(out + row * kValueDim + element, result);
  }
}

// Joins the splits of a row: out = sum_s e^(m_s - m) acc_s / sum_s e^(m_s - m) l_s.  An empty split has m = -inf
// and l = 0 and is left out.
extern "C" __global__ void __launch_bounds__(32 * PAB_WARPS) paged_decode_merge(
    const float* partial_out, const float* partial_max, const float* partial_sum, const pab::i32* kv_lens,
    pab::Stored* out, float* lse, pab::i32 num_rows, pab::i32 num_qo_heads,
    pab::i32 num_splits PAB_ROW_PARAMETERS PAB_FEATURE_PARAMETERS PAB_MASK_PARAMETERS) {
  using namespace pab;
  const u32 warp = threadIdx.x / kWarpSize, lane = lane_id();
  const i64 row = static_cast<i64>(blockIdx.x) * kWarps + warp;
  if (row >= num_rows) return;
  const i64 first = row * num_splits;
  float max = minus_infinity();
  for (int s = 0; s < num_splits; ++s) max = fmaxf(max, partial_max[first + s]);
  float sum = 0.0f;
  for (int s = 0; s < num_splits; ++s) {
    if (partial_sum[first + s] != 0.0f) sum += partial_sum[first + s] * ex2(partial_max[first + s] - max);
  }
  const Features features = PAB_GIVEN_FEATURES(num_qo_heads);
  const RowKeys keys = keys_of_row(features, PAB_GIVEN_ROWS, row / num_qo_heads, kv_lens);
  const float scale = value_scale(features, static_cast<int>(row % num_qo_heads), keys.sequence);
  const bool nothing = sees_nothing(PAB_GIVEN_MASK(row / num_qo_heads), keys);
  const float inverse = nothing ? 0.0f : scale / sum;
  if (lane == 0) lse[row] = (max + lg2(sum)) * kLn2;
  for (int d = static_cast<int>(lane); d < kValueDim; d += 32) {
    float total = 0.0f;
    for (int s = 0; s < num_splits; ++s) {
      if (partial_sum[first + s] != 0.0f) {
        total += partial_out[(first + s) * kValueDim + d] * ex2(partial_max[first + s] - max);
      }
    }
    out[row * kValueDim + d] = from_float(total * inverse);
  }
}
