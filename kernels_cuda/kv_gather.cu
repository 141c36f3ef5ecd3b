// SPDX-License-Identifier: Apache-2.0
// Gathers tokens of the paged cache into dense rows, sequence behind sequence: the way back from kv_append_paged.
//
//   kv_gather   grid ceil(num_tokens / PAB_WARPS), 1 (keys) or 2 (keys and values), 1; block 32 * PAB_WARPS; no shared
//               memory
//
// Layout   the cache by three element strides (page, token, head) with contiguous head_dim; block_table
//          (num_seqs, max_pages), kv_lens (num_seqs); indptr (num_seqs + 1): rows indptr[i] .. indptr[i + 1] - 1 become
//          the last tokens of sequence i; keys, values (num_tokens, num_kv_heads, head_dim) contiguous.
// Compile  PAB_DTYPE and PAB_E4M3 see pab/storage.cuh; PAB_VEC elements of one move (divides head_dim); PAB_WARPS warps
//          of a block; PAB_RAW 1: elements are moved as they are stored; 0: those of e4m3 become PAB_DTYPE, times
//          scales (2, num_kv_heads) of keys and values, rounded once.  PAB_ROWS 1 (without PAB_RAW): what the rows of
//          pab/cache_rows.cuh stand for, likewise; strides are bytes.
// Floor    each element read once and written once: 2 * num_tokens * num_kv_heads * head_dim * (bytes of a stored
//          number + bytes of a dense one).
//
// One warp a token; slots of no row are never read.
#define PAB_FEATURES 1  // sequences of several rows
#include "pab/cache_rows.cuh"
#include "pab/features.cuh"
#include "pab/storage.cuh"
#include "pab/to_odd.cuh"

namespace pab {

#if PAB_E4M3 && !PAB_RAW
using Dense = Stored;
PAB_FN Dense as_dense(Cached stored, float scale) {
  const float number = to_float(stored);
  return from_float(sizeof(Dense) == 4 ? number * scale : product_to_odd(number, scale));
}
#define PAB_SCALE_PARAMETERS , const float *scales
#define PAB_SCALE(index) scales[index]
#elif PAB_ROWS
using Dense = Stored;
// One of the two scales is 1, or the product with the scale of the block is exact.
PAB_FN Dense row_as_dense(const RowFormat& format, const Cached* row, int element, float tensor_scale) {
  const float number = small_number(format.number, number_bits(format, row, element));
  const float block = block_scale(format, row, element);
  const float exact = format.scale == kF32 ? number : number * block, scale = format.scale == kF32 ? block : tensor_scale;
  return from_float(sizeof(Dense) == 4 ? exact * scale : product_to_odd(exact, scale));
}
#define PAB_SCALE_PARAMETERS PAB_ROW_FORMAT_PARAMETERS, const float *scales
#define PAB_SCALE(index) scales[index]
#else
using Dense = Cached;
PAB_FN Dense as_dense(Cached stored, float) { return stored; }
#define PAB_SCALE_PARAMETERS
#define PAB_SCALE(index) 1.0f
#endif

}  // namespace pab

extern "C" __global__ void __launch_bounds__(32 * PAB_WARPS) kv_gather(
    const pab::Cached* k, const pab::Cached* v, const pab::i32* block_table, const pab::i32* kv_lens,
    const pab::i32* indptr, pab::Dense* keys, pab::Dense* values, pab::i32 num_tokens, pab::i32 num_seqs,
    pab::i32 num_kv_heads, pab::i32 head_dim, pab::i32 page_size, pab::i32 max_pages, pab::i64 page_stride,
    pab::i64 token_stride, pab::i64 head_stride PAB_SCALE_PARAMETERS) {
  using namespace pab;
  constexpr int kVec = PAB_VEC;
  const i64 row = static_cast<i64>(blockIdx.x) * PAB_WARPS + threadIdx.x / kWarpSize;
  if (row >= num_tokens) return;
  const RowKeys token = keys_of_row(Features{}, Rows{indptr, num_seqs, 1}, row, kv_lens);
  if (token.position < 0) return;
  const i64 page = block_table[token.sequence * max_pages + token.position / page_size];
  const Cached* from = (blockIdx.y == 0 ? k : v) + page * page_stride + token.position % page_size * token_stride;
  Dense* to = (blockIdx.y == 0 ? keys : values) + row * num_kv_heads * head_dim;
  const i32 packs = head_dim / kVec;
  for (i32 i = static_cast<i32>(lane_id()); i < num_kv_heads * packs; i += 32) {
    const i32 head = i / packs, element = i % packs * kVec;
#if !PAB_ROWS
    const Pack<Cached, kVec> stored = load_pack<kVec>(from + head * head_stride + element);
#endif
    const float scale = PAB_SCALE(static_cast<i32>(blockIdx.y) * num_kv_heads + head);
    Pack<Dense, kVec> dense;
#pragma unroll
    for (int e = 0; e < kVec; ++e) {
#if PAB_ROWS
      const RowFormat format{number_type, scale_type, block, blockIdx.y == 0 ? key_scales_at : value_scales_at};
      dense.at[e] = row_as_dense(format, from + head * head_stride, element + e, scale);
#else
      dense.at[e] = as_dense(stored.at[e], scale);
#endif
    }
    store_pack(to + head * head_dim + element, dense);
  }
}
