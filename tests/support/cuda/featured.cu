// SPDX-License-Identifier: Apache-2.0
// Attention by one warp for each (query token, query head), with every parameter that a bare file may have, and append.
// pabench: threads=32 dtypes=float32,float16 max_head_dim=128 prefill=true append=true masks=all formats=e4m3 tanh_error=2e-6
// pabench: features=head-dim-v,latent-cache,page-gaps,kv-strides,non-causal,window,soft-cap,alibi,sinks,fp8-q
#define PAB_FEATURES 1
#include "pab/features.cuh"
#include "pab/storage.cuh"

using namespace pab;

#if PAB_Q_E4M3
using Query = u8;
PAB_FN float query_float(Query x) { return e4m3_to_float(x); }
#else
using Query = Stored;
PAB_FN float query_float(Query x) { return to_float(x); }
#endif

extern "C" __global__ void paged_decode(
    const Query* q, const Cached* k, const Cached* v, const int* block_table, const int* kv_lens, Stored* out, float* lse,
    int num_seqs, int num_qo_heads, int num_kv_heads, int head_dim, int page_size, int max_pages, long long page_stride,
    long long token_stride, long long head_stride, float sm_scale, int head_dim_v, long long v_page_stride,
    long long v_token_stride, long long v_head_stride, const int* qo_indptr, int causal, int window, float soft_cap,
    const float* alibi_slopes, const float* sinks, const float* k_scale, const float* v_scale, const float* q_scale,
    const unsigned char* mask, long long mask_stride) {
  constexpr int kPerLane = (PAB_HEAD_DIM_V + 31) / 32;
  const i64 token_row = blockIdx.x, head = blockIdx.y, row = token_row * num_qo_heads + head;
  const i64 kv_head = head / (num_qo_heads / num_kv_heads);
  int sequence = 0;
  while (qo_indptr[sequence + 1] <= token_row) ++sequence;
  const int lane = static_cast<int>(lane_id()), kv_len = kv_lens[sequence];
  const int position = kv_len - qo_indptr[sequence + 1] + static_cast<int>(token_row);
  float max = minus_infinity(), sum = 0.0f, acc[kPerLane] = {};
  const auto add = [&](float logit, const Cached* value) {
    const float new_max = logit > max ? logit : max;
    const float rescale = ex2(max - new_max), weight = ex2(logit - new_max);
    sum = sum * rescale + weight;
    for (int i = 0; i < kPerLane; ++i) {
      const int d = lane + 32 * i;
      const float number = value != nullptr && d < PAB_HEAD_DIM_V ? to_float(value[d]) * v_scale[kv_head] : 0.0f;
      acc[i] = acc[i] * rescale + weight * number;
    }
    max = new_max;
  };
  for (int token = 0; token < kv_len; ++token) {
    if (!mask[token_row * mask_stride + token]) continue;  // causal flag and window are in it
    const i64 page = block_table[static_cast<i64>(sequence) * max_pages + token / page_size];
    const int offset = token % page_size;
    const Cached* key = k + page * page_stride + offset * token_stride + kv_head * head_stride;
    float logit = 0.0f;
    for (int d = lane; d < PAB_HEAD_DIM; d += 32) logit += query_float(q[row * PAB_HEAD_DIM + d]) * to_float(key[d]);
    for (u32 step = 16; step > 0; step /= 2) logit += shfl_xor(kFullMask, logit, step);
    logit *= sm_scale * k_scale[kv_head] * q_scale[kv_head];
    if (soft_cap > 0.0f) logit = soft_cap * tanh_from_exp(logit / soft_cap);
    logit += alibi_slopes[head] * static_cast<float>(token - position);
    add(logit * 1.44269504f, v + page * v_page_stride + offset * v_token_stride + kv_head * v_head_stride);
  }
  if (sinks[head] > minus_infinity()) add(sinks[head] * 1.44269504f, nullptr);
  for (int i = 0; i < kPerLane; ++i) {
    const int d = lane + 32 * i;
    if (d < PAB_HEAD_DIM_V) out[row * PAB_HEAD_DIM_V + d] = from_float(sum == 0.0f ? 0.0f : acc[i] / sum);
  }
  if (lane == 0) lse[row] = sum == 0.0f ? minus_infinity() : (max + lg2(sum)) * 0.69314718f;
}

extern "C" __global__ void paged_append(
    const Stored* keys, const Stored* values, Cached* k, Cached* v, const long long* slot_mapping, int num_tokens,
    int num_kv_heads, int head_dim, int page_size, long long page_stride, long long token_stride, long long head_stride) {
  const i64 token = blockIdx.x, head = blockIdx.y, slot = slot_mapping[token];
  if (slot < 0) return;
  const i64 to = slot / page_size * page_stride + slot % page_size * token_stride + head * head_stride;
  for (int d = static_cast<int>(lane_id()); d < PAB_HEAD_DIM; d += 32) {
    const i64 from = (token * num_kv_heads + head) * PAB_HEAD_DIM + d;
#if !PAB_E4M3
    k[to + d] = keys[from];
    v[to + d] = values[from];
#endif
  }
}
