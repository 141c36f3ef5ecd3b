// SPDX-License-Identifier: Apache-2.0
// Paged decode by one warp for each (sequence, query head): small enough to read at one go.
// pabench: threads=32 shared_bytes=0 dtypes=float32,float16,bfloat16 max_head_dim=256
#include "pab/storage.cuh"

extern "C" __global__ void paged_decode(
    const pab::Stored* q, const pab::Stored* k, const pab::Stored* v, const int* block_table, const int* kv_lens,
    pab::Stored* out, float* lse, int num_seqs, int num_qo_heads, int num_kv_heads, int head_dim, int page_size,
    int max_pages, long long page_stride, long long token_stride, long long head_stride, float sm_scale) {
  using namespace pab;
  constexpr int kPerLane = (PAB_HEAD_DIM + 31) / 32;  // elements of the head that a lane owns
  const i64 sequence = blockIdx.x, head = blockIdx.y, row = sequence * num_qo_heads + head;
  const i64 kv_head = head / (num_qo_heads / num_kv_heads);
  const int lane = static_cast<int>(lane_id()), kv_len = kv_lens[sequence];
  float max = minus_infinity(), sum = 0.0f, acc[kPerLane] = {};
  for (int token = 0; token < kv_len; ++token) {
    const i64 page = block_table[sequence * max_pages + token / page_size];
    const i64 slot = page * page_stride + token % page_size * token_stride + kv_head * head_stride;
    float logit = 0.0f;
    for (int d = lane; d < PAB_HEAD_DIM; d += 32) {
      logit += to_float(q[row * PAB_HEAD_DIM + d]) * to_float(k[slot + d]);
    }
    for (u32 step = 16; step > 0; step /= 2) logit += shfl_xor(kFullMask, logit, step);
    logit *= sm_scale * 1.44269504f;  // the exponential is a power of two
    const float new_max = logit > max ? logit : max;
    const float rescale = ex2(max - new_max), weight = ex2(logit - new_max);
    sum = sum * rescale + weight;
    for (int i = 0; i < kPerLane; ++i) {
      const int d = lane + 32 * i;
      if (d < PAB_HEAD_DIM) acc[i] = acc[i] * rescale + weight * to_float(v[slot + d]);
    }
    max = new_max;
  }
  for (int i = 0; i < kPerLane; ++i) {
    const int d = lane + 32 * i;
    if (d < PAB_HEAD_DIM) out[row * PAB_HEAD_DIM + d] = from_float(kv_len == 0 ? 0.0f : acc[i] / sum);
  }
  if (lane == 0) lse[row] = kv_len == 0 ? minus_infinity() : (max + lg2(sum)) * 0.69314718f;
}
