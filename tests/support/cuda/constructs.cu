// SPDX-License-Identifier: Apache-2.0
// Constructs of ordinary CUDA, a kernel for each: what test_constructs.py runs and compares.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>

namespace cg = cooperative_groups;
#define KERNEL(name) extern "C" __global__ void name(float* out, int* whole)

__constant__ float kTable[4] = {1.5f, 2.5f, 3.5f, 4.5f};
__device__ int counter = 7;
struct Pair {
  float a;
  int b;
  __device__ float sum() const { return a + static_cast<float>(b); }
};
template <typename T>
__device__ T twice(T x) { return x + x; }
__device__ __noinline__ float apart(float x, int n) {
  float result = x;
  for (int i = 0; i < n; ++i) result = result * 0.5f + static_cast<float>(i);
  return result;
}
__device__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

KERNEL(static_shared) {
  __shared__ float room[64];
  room[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = room[63 - threadIdx.x];
}
KERNEL(dynamic_shared) {
  extern __shared__ float dynamic[];
  dynamic[threadIdx.x] = threadIdx.x * 2;
  __syncthreads();
  out[threadIdx.x] = dynamic[(threadIdx.x + 1) % 64];
}
KERNEL(shared_matrix) {
  __shared__ float room[8][9];
  room[threadIdx.x / 8][threadIdx.x % 8] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = room[threadIdx.x % 8][threadIdx.x / 8];
}
KERNEL(shuffle_xor) {
  float x = threadIdx.x;
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, step);
  out[threadIdx.x] = x;
}
KERNEL(shuffle_down_width) { whole[threadIdx.x] = __shfl_down_sync(0xFFFFFFFFu, (int)threadIdx.x, 3, 8); }
KERNEL(shuffle_up) { whole[threadIdx.x] = __shfl_up_sync(0xFFFFFFFFu, (int)threadIdx.x, 5); }
KERNEL(shuffle_double) { out[threadIdx.x] = (float)__shfl_sync(0xFFFFFFFFu, threadIdx.x * 1.25, 9); }
KERNEL(ballot) { whole[threadIdx.x] = __ballot_sync(0xFFFFFFFFu, threadIdx.x % 3 == 0); }
KERNEL(any_all) {
  whole[threadIdx.x] = __any_sync(0xFFFFFFFFu, threadIdx.x == 40) + 2 * __all_sync(0xFFFFFFFFu, threadIdx.x < 40);
}
KERNEL(match) { whole[threadIdx.x] = __match_any_sync(0xFFFFFFFFu, threadIdx.x % 4); }
KERNEL(reduce_max) { whole[threadIdx.x] = __reduce_max_sync(0xFFFFFFFFu, (threadIdx.x * 7) % 31); }
KERNEL(barrier_count) { whole[threadIdx.x] = __syncthreads_count(threadIdx.x % 5 == 0); }
KERNEL(half_arithmetic) {
  const __half x = __float2half(threadIdx.x * 0.25f), y = __hmul(x, __float2half(3.0f));
  out[threadIdx.x] = __half2float(__hadd(y, x));
}
KERNEL(half2_fma) {
  const __half2 x = __floats2half2_rn(threadIdx.x, threadIdx.x + 0.5f), y = __hfma2(x, x, __float2half2_rn(1.0f));
  out[threadIdx.x] = __low2float(y) + __high2float(y);
}
KERNEL(half_operators) { out[threadIdx.x] = static_cast<float>(half(1.5f) * half(threadIdx.x) - half(2.0f)); }
KERNEL(bfloat16) {
  const __nv_bfloat16 x = __float2bfloat16(threadIdx.x + 0.3f);
  out[threadIdx.x] = __bfloat162float(x);
}
KERNEL(fp8) { out[threadIdx.x] = static_cast<float>(__nv_fp8_e4m3(threadIdx.x * 0.7f)); }
KERNEL(float4_load) {
  const float4 four = reinterpret_cast<const float4*>(out)[threadIdx.x / 4];
  __syncthreads();
  out[threadIdx.x] = four.x + four.y + four.z + four.w;
}
KERNEL(int2_make) {
  const int2 two = make_int2(threadIdx.x, 5);
  whole[threadIdx.x] = two.x * two.y;
}
KERNEL(atomic_add_float) { atomicAdd(&out[threadIdx.x % 2], 0.5f); }
KERNEL(atomic_add_shared) {
  __shared__ int sum;
  if (threadIdx.x == 0) sum = 0;
  __syncthreads();
  atomicAdd(&sum, (int)threadIdx.x);
  __syncthreads();
  whole[threadIdx.x] = sum;
}
KERNEL(atomic_max_cas) {
  atomicMax(&whole[0], (int)threadIdx.x - 70);
  int seen = whole[1], old;
  do {
    old = seen;
    seen = atomicCAS(&whole[1], old, old + 2);
  } while (seen != old);
}
KERNEL(atomic_half2) { atomicAdd(reinterpret_cast<__half2*>(out), __floats2half2_rn(1.0f, 2.0f)); }
KERNEL(groups_sync) {
  __shared__ float room[64];
  const cg::thread_block block = cg::this_thread_block();
  room[block.thread_rank()] = block.thread_rank();
  block.sync();
  out[threadIdx.x] = room[block.size() - 1 - block.thread_rank()];
}
KERNEL(groups_reduce) {
  const auto tile = cg::tiled_partition<16>(cg::this_thread_block());
  whole[threadIdx.x] = cg::reduce(tile, (int)threadIdx.x, cg::plus<int>());
}
KERNEL(groups_shuffle) {
  const auto tile = cg::tiled_partition<32>(cg::this_thread_block());
  whole[threadIdx.x] = tile.shfl((int)threadIdx.x, tile.size() - 1) + tile.meta_group_rank();
}
KERNEL(constants) { out[threadIdx.x] = kTable[threadIdx.x % 4]; }
KERNEL(device_variable) { whole[threadIdx.x] = counter * (int)threadIdx.x; }
KERNEL(local_array) {
  float values[8];
  for (int i = 0; i < 8; ++i) values[i] = i * threadIdx.x;
  out[threadIdx.x] = values[whole[threadIdx.x] % 8];
}
KERNEL(struct_template) {
  const Pair pair{twice(0.5f), twice(static_cast<int>(threadIdx.x))};
  out[threadIdx.x] = pair.sum();
}
KERNEL(function_call) { out[threadIdx.x] = apart(threadIdx.x, 5); }
KERNEL(recursion) { whole[threadIdx.x] = fibonacci(threadIdx.x % 10); }
KERNEL(switch_table) {
  switch (threadIdx.x % 9) {
    case 0: whole[threadIdx.x] = 11; break;
    case 1: whole[threadIdx.x] = 5 * whole[threadIdx.x]; break;
    case 2: whole[threadIdx.x] = ~whole[threadIdx.x]; break;
    case 3: whole[threadIdx.x] -= 100; break;
    case 4: whole[threadIdx.x] = -7; break;
    case 5: whole[threadIdx.x] ^= 0x55; break;
    case 6: whole[threadIdx.x] = 1 << (whole[threadIdx.x] % 8); break;
    case 7: whole[threadIdx.x] *= whole[threadIdx.x]; break;
    default: whole[threadIdx.x] = 99;
  }
}
KERNEL(mathematics) {
  const float x = 0.25f + threadIdx.x * 0.125f;
  out[threadIdx.x] = expf(-x) + logf(x) + std::sqrt(x) + std::fabs(-x) + powf(x, 1.5f) + __expf(-x) + rsqrtf(x);
}
KERNEL(limits) {
  out[threadIdx.x] = threadIdx.x % 4 == 0 ? INFINITY : threadIdx.x % 4 == 1 ? NAN : threadIdx.x % 4 == 2 ? FLT_MAX : -INFINITY;
  whole[threadIdx.x] = std::max(INT_MAX - 64, INT_MAX - static_cast<int32_t>(threadIdx.x));
}
KERNEL(long_division) {
  const int64_t x = 1234567890123ll * (int64_t)(threadIdx.x + 1);
  whole[threadIdx.x] = (int)(x / 1000003 % 65536) + (int)__umulhi(4000000000u, threadIdx.x);
}
KERNEL(bits) {
  whole[threadIdx.x] = __popc(threadIdx.x * 77) + __clz(threadIdx.x + 1) + __ffs(threadIdx.x) + (int)(__brev(threadIdx.x) >> 26) +
                       __float_as_int(threadIdx.x * 1.0f) % 1000 + (int)__byte_perm(threadIdx.x, 0xAABBCCDD, 0x4140) % 1000;
}
KERNEL(inline_assembly) {
  int lane;
  asm volatile("{ .reg .pred p; mov.u32 %0, %%laneid; setp.gt.s32 p, %0, 15; @p add.s32 %0, %0, 100; }" : "=r"(lane));
  whole[threadIdx.x] = lane;
}
KERNEL(early_exit) {
  if (threadIdx.x % 2) return;
  whole[threadIdx.x] = -1;
}
KERNEL(grid_stride) {
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < 64; i += gridDim.x * blockDim.x) whole[i] = i * (int)gridDim.x;
}
KERNEL(grid_sync) {
  const int t = threadIdx.x;
  if (t % 2 == blockIdx.x) whole[t] = t;
  cg::this_grid().sync();
  const int across = whole[63 - t];  // the other block's
  cg::this_grid().sync();
  if (t % 2 == blockIdx.x) whole[t] = 2 * across;
}
