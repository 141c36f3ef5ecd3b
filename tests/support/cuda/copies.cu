// SPDX-License-Identifier: Apache-2.0
// Pages of a cache come into shared memory by cp.async of a warp, whose end an mbarrier is told of, in the two buffers
// of a ring; another warp reads them.  Macros plant faults.
#include "mbarrier.cuh"

#ifndef COUNTED  // whether the arrival of the copies is one that the barrier counts; else threads arrive by themselves
#define COUNTED 1
#endif
#ifndef ARRIVES
#define ARRIVES 1
#endif
#ifndef WAITS
#define WAITS 1
#endif

constexpr int kPage = 256, kLane = kPage / 32;  // numbers; eight of them are one copy

extern "C" __global__ void gather(const unsigned short* pages, const int* table, int count, unsigned short* out) {
  __shared__ alignas(16) unsigned short ring[2][kPage];
  __shared__ unsigned long long full[2], empty[2];
  const int lane = threadIdx.x % 32;
  if (threadIdx.x < 4) {
    unsigned long long* at = threadIdx.x < 2 ? &full[threadIdx.x] : &empty[threadIdx.x - 2];
    init(at, 32);
  }
  __syncthreads();
  for (int round = 0; round < count; ++round) {
    const int at = round % 2;
    unsigned short* mine = ring[at] + kLane * lane;
    if (threadIdx.x >= 32) {
      if (round >= 2) wait(&empty[at], (round / 2 + 1) & 1);
      const unsigned short* from = pages + table[round] * kPage + kLane * lane;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(offset(mine)), "l"(from) : "memory");
      if (!COUNTED) {
        asm volatile("cp.async.mbarrier.arrive.shared::cta.b64 [%0];" ::"r"(offset(&full[at])) : "memory");
        if (ARRIVES) arrive(&full[at]);
      } else if (ARRIVES) {
        asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(offset(&full[at])) : "memory");
      }
    } else {
      if (WAITS) wait(&full[at], (round / 2) & 1);
      for (int i = lane; i < kPage; i += 32) out[round * kPage + i] = ring[at][i];  // what other lanes have copied
      arrive(&empty[at]);
    }
  }
}
