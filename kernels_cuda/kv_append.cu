// SPDX-License-Identifier: Apache-2.0
// Writes new keys and values into the paged cache.
//
//   kv_append         grid ceil(num_tokens / PAB_WARPS), 1, 1; block 32 * PAB_WARPS; no shared memory
//   kv_append_paged   the same; finds each token's slot itself
//
// Layout   keys, values (num_tokens, num_kv_heads, head_dim) contiguous; the cache by three element strides
//          (page, token, head) with contiguous head_dim.
// Slots    kv_append: slot_mapping (num_tokens) i64, slot = page * page_size + offset, negative: the token is not
//          written.  kv_append_paged: block_table (num_seqs, max_pages), kv_lens (num_seqs) new tokens included,
//          qo_indptr (num_seqs + 1); the new tokens of a sequence are its last, so what attention takes next says
//          all.  A token before the sequence, or in a page below 0, is not written.
// Compile  PAB_HEAD_DIM, PAB_DTYPE, PAB_VEC, PAB_WARPS as in paged_decode_simple.cu; PAB_E4M3 1: tokens are stored as
//          e4m3, divided by scales (2, num_kv_heads) of keys and values, rounded once, +-448 at most.  PAB_ALONE 1:
//          keys are written and nothing else, to any one cache; values and v are not looked at.  PAB_ROWS 1 (with
//          PAB_ALONE): tokens become rows of pab/cache_rows.cuh, divided by scales (num_kv_heads); strides are bytes.
// Floor    each element read once and written once: 2 * num_tokens * num_kv_heads * head_dim * (bytes of a number +
//          bytes of a stored one).
//
// One warp a token; a lane moves PAB_VEC elements at a time, of the key and of the value, read before either is
// written.
#define PAB_FEATURES 1  // sequences of several rows
#include "pab/features.cuh"
#include "pab/storage.cuh"
#include "pab/to_odd.cuh"
#include "pab/write_rows.cuh"

#if !defined(PAB_ALONE)
#define PAB_ALONE 0
#endif

#if PAB_E4M3
#define PAB_SCALE_PARAMETERS , const float *scales
#define PAB_GIVEN_SCALES scales
#elif PAB_ROWS
#define PAB_SCALE_PARAMETERS \
  , const float *scales, pab::i32 number_type, pab::i32 scale_type, pab::i32 block, pab::i32 scales_at
#define PAB_GIVEN_SCALES scales, pab::RowFormat{number_type, scale_type, block, scales_at}
#else
#define PAB_SCALE_PARAMETERS
#define PAB_GIVEN_SCALES nullptr
#endif

namespace pab {

constexpr int kHeadDim = PAB_HEAD_DIM, kVec = PAB_VEC;
[[maybe_unused]] constexpr int kPacks = kHeadDim / kVec;

#if PAB_ROWS
// All heads of one token, by a warp: a lane writes whole blocks.
PAB_FN void write_token(const Stored* keys, const Stored*, Cached* k, Cached*, i64 token, i64 target, i32 num_kv_heads,
                        i64 head_stride, const float* scales, const RowFormat& format) {
  const int size = format.block < kHeadDim ? format.block : kHeadDim, blocks = (kHeadDim + size - 1) / size;
  for (int i = static_cast<int>(lane_id()); i < num_kv_heads * blocks; i += 32) {
    const int head = i / blocks, first = i % blocks * size, end = first + size < kHeadDim ? first + size : kHeadDim;
    const Stored* numbers = keys + (token * num_kv_heads + head) * kHeadDim;
    write_block(format, numbers, k + target + head * head_stride, first, end, scales[head]);
  }
}
#else

PAB_FN Pack<Cached, kVec> as_cached(const Pack<Stored, kVec>& row, float scale) {
#if PAB_E4M3
  Pack<Cached, kVec> stored;
#pragma unroll
  for (int i = 0; i < kVec; ++i) stored.at[i] = float_to_e4m3(quotient_to_odd(to_float(row.at[i]), scale));
  return stored;
#else
  return row;
#endif
}

// All heads of one token, by a warp.
PAB_FN void write_token(const Stored* keys, const Stored* values, Cached* k, Cached* v, i64 token, i64 target,
                        i32 num_kv_heads, i64 head_stride, const float* scales) {
  const i64 source = token * num_kv_heads * kHeadDim;
  for (int i = static_cast<int>(lane_id()); i < num_kv_heads * kPacks; i += 32) {
    const int head = i / kPacks, element = i % kPacks * kVec;
    const i64 from = source + head * kHeadDim + element;
    const i64 to = target + head * head_stride + element;
    const Pack<Stored, kVec> key = load_pack<kVec>(keys + from);
    const Pack<Stored, kVec> value = PAB_ALONE ? key : load_pack<kVec>(values + from);
    const float key_scale = PAB_E4M3 ? scales[head] : 1.0f;
    const float value_scale = PAB_E4M3 ? scales[num_kv_heads + head] : 1.0f;
    store_pack(k + to, as_cached(key, key_scale));
    if (!PAB_ALONE) store_pack(v + to, as_cached(value, value_scale));
  }
}
#endif

}  // namespace pab

extern "C" __global__ void __launch_bounds__(32 * PAB_WARPS) kv_append(
    const pab::Stored* keys, const pab::Stored* values, const pab::i64* slot_mapping, pab::Cached* k, pab::Cached* v,
    pab::i32 num_tokens, pab::i32 num_kv_heads, pab::i32 page_size, pab::i64 page_stride, pab::i64 token_stride,
    pab::i64 head_stride PAB_SCALE_PARAMETERS) {
  using namespace pab;
  const i64 token = static_cast<i64>(blockIdx.x) * PAB_WARPS + threadIdx.x / kWarpSize;
  if (token >= num_tokens) return;
  const i64 slot = slot_mapping[token];
  if (slot < 0) return;
  const i64 target = slot / page_size * page_stride + slot % page_size * token_stride;
  write_token(keys, values, k, v, token, target, num_kv_heads, head_stride, PAB_GIVEN_SCALES);
}

extern "C" __global__ void __launch_bounds__(32 * PAB_WARPS) kv_append_paged(
    const pab::Stored* keys, const pab::Stored* values, const pab::i32* block_table, const pab::i32* kv_lens,
    const pab::i32* qo_indptr, pab::Cached* k, pab::Cached* v, pab::i32 num_tokens, pab::i32 num_seqs,
    pab::i32 num_kv_heads, pab::i32 page_size, pab::i32 max_pages, pab::i64 page_stride, pab::i64 token_stride,
    pab::i64 head_stride PAB_SCALE_PARAMETERS) {
  using namespace pab;
  const i64 token = static_cast<i64>(blockIdx.x) * PAB_WARPS + threadIdx.x / kWarpSize;
  if (token >= num_tokens) return;
  const RowKeys keys_seen = keys_of_row(Features{}, Rows{qo_indptr, num_seqs, 1}, token, kv_lens);
  const i32 position = keys_seen.position;
  if (position < 0) return;
  const i64 page = block_table[keys_seen.sequence * max_pages + position / page_size];
  if (page < 0) return;
  const i64 target = page * page_stride + position % page_size * token_stride;
  write_token(keys, values, k, v, token, target, num_kv_heads, head_stride, PAB_GIVEN_SCALES);
}
