// SPDX-License-Identifier: Apache-2.0
// Pages of a cache come into shared memory through tensor maps and mbarriers, in the two buffers of a ring, and leave
// by bulk copies.  Macros plant faults.
#include "mbarrier.cuh"

struct alignas(64) CUtensorMap {
  unsigned long long words[16];
};

#ifndef EXPECTED  // bytes of a page
#define EXPECTED (kTokens * kDim * 2)
#endif
#ifndef PARITY_OFF
#define PARITY_OFF 0
#endif
#ifndef ARRIVES
#define ARRIVES 1
#endif
#ifndef LEAVES
#define LEAVES 1
#endif

constexpr int kTokens = 8, kDim = 64, kConsumers = 32;

__device__ void expect(unsigned long long* at, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(offset(at)), "r"(bytes) : "memory");
}

// Thread 0 fetches, a warp reads.  `pages` by TMA, a page a box of kTokens x kDim halves with a swizzle of 128 bytes.
extern "C" __global__ void gather(const __grid_constant__ CUtensorMap map, const int* table, int pages, unsigned short* out) {
  __shared__ alignas(1024) unsigned short ring[2][kTokens * kDim];
  __shared__ alignas(128) unsigned short leaving[kTokens * kDim];
  __shared__ unsigned long long full[2], empty[2];
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      init(&full[i], 1);
      init(&empty[i], kConsumers);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  if (threadIdx.x >= 32) {
    if (threadIdx.x > 32) return;
    for (int round = 0; round < pages; ++round) {
      const int at = round % 2;
      if (round >= 2) wait(&empty[at], (round / 2 + 1) & 1);
      expect(&full[at], EXPECTED);
      asm volatile(
          "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(
              offset(ring[at])), "l"(&map), "r"(0), "r"(0), "r"(table[round]), "r"(offset(&full[at])) : "memory");
    }
    return;
  }
  for (int round = 0; round < pages; ++round) {
    const int at = round % 2;
    wait(&full[at], (round / 2 & 1) ^ PARITY_OFF);
    for (int i = threadIdx.x; i < kTokens * kDim; i += kConsumers) {
      const int token = i / kDim, piece = i % kDim / 8;
      leaving[i] = ring[at][token * kDim + ((piece ^ (token & 7)) * 8 | i % 8)];
    }
    if (ARRIVES) arrive(&empty[at]);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncwarp();
    if (threadIdx.x == 0) {
      asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(out + round * kTokens * kDim),
                   "r"(offset(leaving)), "r"(kTokens * kDim * 2) : "memory");
      asm volatile("cp.async.bulk.commit_group;" ::: "memory");
      if (LEAVES) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }
    __syncwarp();
  }
}

// A tile of a matrix that overlaps its edges, in and out again elsewhere.
extern "C" __global__ void edges(const __grid_constant__ CUtensorMap from, const __grid_constant__ CUtensorMap to, int x, int y) {
  __shared__ alignas(1024) float tile[8 * 8];
  __shared__ unsigned long long full;
  unsigned long long state;
  unsigned chosen = 0;
  asm volatile("{ .reg .pred p; elect.sync _|p, -1; selp.u32 %0, 1, 0, p; }" : "=r"(chosen));
  asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
  asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
  if (!chosen) return;
  init(&full, 1);
  unsigned mapped;
  asm volatile("mapa.shared::cluster.u32 %0, %1, 0;" : "=r"(mapped) : "r"(offset(&full)));
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], 256;" ::"r"(mapped) : "memory");
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                   offset(tile)), "l"(&from), "r"(x), "r"(y), "r"(mapped) : "memory");
  asm volatile("mbarrier.arrive.shared::cta.b64 %0, [%1];" : "=l"(state) : "r"(mapped) : "memory");
  asm volatile("{ .reg .pred p; again: mbarrier.test_wait.shared::cta.b64 p, [%0], %1; @!p bra again; }" ::"r"(mapped), "l"(state)
               : "memory");
  asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(mapped) : "memory");
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&to), "r"(x), "r"(y),
               "r"(offset(tile)) : "memory");
  asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;" ::: "memory");
}
