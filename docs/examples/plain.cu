// SPDX-License-Identifier: Apache-2.0
// Paged decode as it is written without pabench in mind: shared memory, shuffles, half2, cooperative groups, atomics.
// pabench: threads=128 shared_bytes=1536 dtypes=float16 max_head_dim=256
#include <cooperative_groups.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>

namespace cg = cooperative_groups;

constexpr int kThreads = 128, kTile = 128;  // keys of a tile

__device__ float warp_sum(float value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, step);
  return value;
}

// Product of a query in float and a key, over the lanes of a warp; by pairs where the key lies at an even place.
__device__ float dot(const float* query, const __half* key, int head_dim, int lane) {
  float sum = 0.0f;
  if (head_dim % 2 == 0 && reinterpret_cast<uintptr_t>(key) % sizeof(__half2) == 0) {
    const __half2* pairs = reinterpret_cast<const __half2*>(key);
    for (int d = lane; d < head_dim / 2; d += 32) {
      const float2 both = __half22float2(pairs[d]);
      sum += query[2 * d] * both.x + query[2 * d + 1] * both.y;
    }
  } else {
    for (int d = lane; d < head_dim; d += 32) sum += query[d] * __half2float(key[d]);
  }
  return warp_sum(sum);
}

// One block for each (sequence, query head).
extern "C" __global__ void paged_decode(
    const __half* q, const __half* k, const __half* v, const int* block_table, const int* kv_lens, __half* out, float* lse,
    int num_seqs, int num_qo_heads, int num_kv_heads, int head_dim, int page_size, int max_pages, long long page_stride,
    long long token_stride, long long head_stride, float sm_scale) {
  extern __shared__ float dynamic[];  // the query, then the weights of a tile
  __shared__ int next;                // key of the tile that no warp has taken yet
  __shared__ float tile_max, tile_sum;
  const cg::thread_block block = cg::this_thread_block();
  const cg::thread_block_tile<32> warp = cg::tiled_partition<32>(block);
  const int thread = threadIdx.x, lane = warp.thread_rank();
  const long long row = static_cast<long long>(blockIdx.x) * num_qo_heads + blockIdx.y;
  const int kv_len = kv_lens[blockIdx.x], kv_head = blockIdx.y / (num_qo_heads / num_kv_heads);
  const int* pages = block_table + static_cast<long long>(blockIdx.x) * max_pages;
  float *query = dynamic, *weights = dynamic + head_dim;
  for (int d = thread; d < head_dim; d += kThreads) query[d] = __half2float(q[row * head_dim + d]) * sm_scale;
  const auto slot = [&](int key) {
    return pages[key / page_size] * page_stride + key % page_size * token_stride + kv_head * head_stride;
  };

  float max = -INFINITY, sum = 0.0f, acc[2] = {0.0f, 0.0f};  // dimensions thread and thread + kThreads
  for (int first = 0; first < kv_len; first += kTile) {
    const int count = min(kTile, kv_len - first);
    if (thread == 0) next = 0;
    block.sync();
    for (;;) {  // warps take keys as they get on
      int key = 0;
      if (lane == 0) key = atomicAdd(&next, 1);
      key = warp.shfl(key, 0);
      if (key >= count) break;
      const float logit = dot(query, k + slot(first + key), head_dim, lane);
      if (lane == 0) weights[key] = logit;
    }
    block.sync();
    if (thread < 32) {
      float most = -INFINITY, total = 0.0f;
      for (int key = lane; key < count; key += 32) most = fmaxf(most, weights[key]);
      for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, step));
      most = fmaxf(most, max);
      for (int key = lane; key < count; key += 32) {
        weights[key] = expf(weights[key] - most);
        total += weights[key];
      }
      total = warp_sum(total);
      if (lane == 0) tile_max = most, tile_sum = total;
    }
    block.sync();
    const float rescale = expf(max - tile_max);
    sum = sum * rescale + tile_sum;
    max = tile_max;
    for (int part = 0; part < 2; ++part) {
      const int d = thread + part * kThreads;
      if (d >= head_dim) break;
      acc[part] *= rescale;
      for (int key = 0; key < count; ++key) acc[part] += weights[key] * __half2float(v[slot(first + key) + d]);
    }
  }
  for (int part = 0; part < 2; ++part) {
    const int d = thread + part * kThreads;
    if (d < head_dim) out[row * head_dim + d] = __float2half(kv_len == 0 ? 0.0f : acc[part] / sum);
  }
  if (thread == 0) lse[row] = kv_len == 0 ? -INFINITY : max + logf(sum);
}
