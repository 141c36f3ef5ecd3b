// SPDX-License-Identifier: Apache-2.0
// out = left right^T, both of rows of halves: a producer brings tiles of `right` through a tensor map, a warpgroup
// stores those of `left` itself, and multiplies.  One thread tells the producer that a tile has been read, as kernels
// of this kind do.  `fault` plants one.
#include "mbarrier.cuh"

struct alignas(64) CUtensorMap {
  unsigned long long words[16];
};

enum Fault { kNone, kSwizzle, kNoWait, kWaitsLate, kNoFence, kComputedBehindFence, kNoProxyFence };

constexpr int kRows = 64, kDepth = 64, kGroup = 128, kTile = kRows * kDepth;

__device__ unsigned long long descriptor(const void* at, int fault) {
  return offset(at) >> 4 | 1ull << 16 | (1024ull >> 4) << 32 | (fault == kSwizzle ? 2ull : 1ull) << 62;
}

#define EIGHT(x, i) x(i), x(i + 1), x(i + 2), x(i + 3), x(i + 4), x(i + 5), x(i + 6), x(i + 7)
#define SUM(i) "+f"(d[i])
__device__ void multiply(float (&d)[32], unsigned long long a, unsigned long long b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, 1, 1, 1, 0, 0;"
      : EIGHT(SUM, 0), EIGHT(SUM, 8), EIGHT(SUM, 16), EIGHT(SUM, 24) : "l"(a), "l"(b));
}
// Keeps the compiler from moving arithmetic with the accumulators over what stands here.
__device__ void hold(float (&d)[32]) {
  asm volatile("" : EIGHT(SUM, 0), EIGHT(SUM, 8), EIGHT(SUM, 16), EIGHT(SUM, 24)::"memory");
}

extern "C" __global__ void multiply_tiles(const __grid_constant__ CUtensorMap map, const unsigned short* left, int tiles,
                                          float scale, int fault, float* out) {
  __shared__ alignas(1024) unsigned short a[kTile];
  __shared__ alignas(1024) unsigned short ring[2][kTile];
  __shared__ unsigned long long full[2], empty[2];
  const int thread = threadIdx.x;
  if (thread == 0) {
    for (int i = 0; i < 2; ++i) {
      init(&full[i], 1);
      init(&empty[i], 1);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  if (thread >= kGroup) {
    for (int tile = 0; thread == kGroup && tile < tiles; ++tile) {
      const int at = tile % 2;
      if (tile >= 2) wait(&empty[at], (tile / 2 + 1) & 1);
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(offset(&full[at])), "r"(kTile * 2) : "memory");
      asm volatile(
          "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
              offset(ring[at])), "l"(&map), "r"(tile * kDepth), "r"(0), "r"(offset(&full[at])) : "memory");
    }
    return;
  }
  float d[32];
  for (int i = 0; i < 32; ++i) d[i] = 0.0f;
  for (int tile = 0; tile < tiles; ++tile) {
    const int at = tile % 2;
    for (int i = thread; i < kTile; i += kGroup) {
      const int row = i / kDepth, piece = i % kDepth / 8;
      a[row * kDepth + ((piece ^ (row & 7)) * 8 | i % 8)] = left[row * kDepth * tiles + tile * kDepth + i % kDepth];
    }
    if (fault != kNoProxyFence) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    asm volatile("bar.sync 1, 128;" ::: "memory");
    wait(&full[at], tile / 2 & 1);
    if (fault != kComputedBehindFence) {
      for (int i = 0; i < 32; ++i) d[i] *= scale;
      hold(d);
    }
    if (fault != kNoFence) asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    if (fault == kComputedBehindFence) {
      for (int i = 0; i < 32; ++i) d[i] *= scale;
      hold(d);
    }
    for (int k = 0; k < kDepth / 16; ++k) multiply(d, descriptor(a, fault) + 2 * k, descriptor(ring[at], fault) + 2 * k);
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    if (fault == kWaitsLate && thread == 0) arrive(&empty[at]);
    if (fault != kNoWait) asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    hold(d);
    if (fault != kWaitsLate && thread == 0) arrive(&empty[at]);
    asm volatile("bar.sync 1, 128;" ::: "memory");
  }
  for (int i = 0; i < 32; ++i) {
    const int row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + thread % 4 * 2 + i % 2;
    out[row * kRows + column] = d[i];
  }
}
