// Writes new keys and values into the paged cache.
//
//   kv_append   grid ceil(num_tokens / PAB_WARPS), 1, 1; block 32 * PAB_WARPS; no shared memory
//
// Layout   keys, values (num_tokens, num_kv_heads, head_dim) contiguous; the cache by three element strides
//          (page, token, head) with contiguous head_dim; slot_mapping (num_tokens) i64, slot = page * page_size +
//          offset, negative: the token is not written.
// Compile  PAB_HEAD_DIM, PAB_DTYPE, PAB_VEC, PAB_WARPS as in paged_decode_simple.cu.
// Floor    each element read once and written once: 4 * num_tokens * num_kv_heads * head_dim * itemsize bytes.
//
// One warp a token; a lane moves PAB_VEC elements at a time, first of the key, then of the value.
#include "pab/storage.cuh"

extern "C" __global__ void __launch_bounds__(32 * PAB_WARPS) kv_append(
    const pab::Stored* keys, const pab::Stored* values, const pab::i64* slot_mapping, pab::Stored* k, pab::Stored* v,
    pab::i32 num_tokens, pab::i32 num_kv_heads, pab::i32 page_size, pab::i64 page_stride, pab::i64 token_stride,
    pab::i64 head_stride) {
  using namespace pab;
  constexpr int kHeadDim = PAB_HEAD_DIM, kVec = PAB_VEC, kPacks = kHeadDim / kVec;
  const i64 token = static_cast<i64>(blockIdx.x) * PAB_WARPS + threadIdx.x / kWarpSize;
  if (token >= num_tokens) return;
  const i64 slot = slot_mapping[token];
  if (slot < 0) return;
  const i64 target = slot / page_size * page_stride + slot % page_size * token_stride;
  const i64 source = token * num_kv_heads * kHeadDim;
  for (int i = static_cast<int>(lane_id()); i < num_kv_heads * kPacks; i += 32) {
    const int head = i / kPacks, element = i % kPacks * kVec;
    const i64 from = source + head * kHeadDim + element;
    const i64 to = target + head * head_stride + element;
    store_pack(k + to, load_pack<kVec>(keys + from));
    store_pack(v + to, load_pack<kVec>(values + from));
  }
}
