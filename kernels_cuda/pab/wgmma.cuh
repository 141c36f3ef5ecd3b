// SPDX-License-Identifier: Apache-2.0
// The only door to what sm_90a alone has: products of a warpgroup, mbarriers, boxes of a tensor that come by themselves,
// and registers that warps hand to others.
//
//   warpgroup   four neighbouring warps, the first a multiple of four; all of its threads come to each function here
//               whose name begins with product_ or registers_
//   products    product_keys<N>(d, a, b, adds): d (+)= a b^T, with 64 rows of a and N rows of b of 16 elements, both in
//               shared memory; product_values<N>(d, a, b): d += a b, with a, 64 x 16, in registers like operand A of
//               mma.m16n8k16 and 16 rows of b of N elements.  A thread's part of d is N / 2 floats, those of eight
//               columns the accumulator of mma.m16n8k16.  Products run on behind the call: product_begin before the
//               first one makes what registers hold visible to them; product_commit closes a group; product_wait<N>:
//               all but the newest N groups are done, of which memory and registers are free from there on.
//   settled     arrays of registers that products read or write: keeps the compiler from moving arithmetic with them
//               over this place.  Belongs before product_begin and behind product_wait.
//   rows        in shared memory lie in panels of 64 elements, 128 bytes, whose 16-byte pieces change places as the
//               hardware's 128-byte swizzle has it: panel_place.  A panel begins at a multiple of 1,024 bytes.
//   mbarrier    barrier_init(b, n): n arrivals end a phase; barriers_ready: other threads may use them behind the next
//               block_sync; barrier_arrive; barrier_wait(b, parity): until the phase of that parity, 0 first, has ended
//   proxy_fence what this thread wrote to shared memory is there for products
//   boxes       barrier_expect(b, n): arrives, and the phase ends when n bytes of boxes have come as well; copy_box: brings
//               a box of a TensorMap, of four dimensions, to a multiple of 128 bytes, and tells the mbarrier.  A
//               TensorMap is a __grid_constant__ parameter of the kernel.
//   registers_less<N>, registers_more<N>: of each thread from here on; N a multiple of 8
#pragma once

#include "pab/fragments.cuh"

#ifndef __CUDACC__
#error "instructions of sm_90a have no emulation of their own: compile to PTX"
#endif

// As PAB_SHARED, aligned for panels.
#define PAB_PANELS(name) extern __shared__ __align__(1024) unsigned char name[]

namespace pab {

constexpr int kPanelElements = 64, kPanelRowBytes = 128, kPanelChunks = 8;

// Byte offset of 16-byte chunk `chunk` of row `row`, in panels of kRowsOfPanel rows one behind the other.
template <int kRowsOfPanel>
PAB_FN int panel_place(int row, int chunk) {
  const int panel = chunk / kPanelChunks, within = (chunk % kPanelChunks) ^ (row % kPanelChunks);
  return (panel * kRowsOfPanel + row) * kPanelRowBytes + within * kChunkBytes;
}

PAB_FN u32 shared_address(const void* at) { return static_cast<u32>(__cvta_generic_to_shared(at)); }

// --- mbarriers ----------------------------------------------------------------------------------------------
PAB_FN void barrier_init(u64* barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
PAB_FN void barriers_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
PAB_FN void barrier_arrive(u64* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
PAB_FN void barrier_wait(u64* barrier, u32 parity) {
  u32 ended;
  do {
    asm volatile(
        "{\n.reg .pred ended;\nmbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
        "selp.u32 %0, 1, 0, ended;\n}"
        : "=r"(ended)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (!ended);
}
PAB_FN void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// --- boxes --------------------------------------------------------------------------------------------------
struct alignas(64) TensorMap {
  u64 words[16];
};
PAB_FN void barrier_expect(u64* barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
PAB_FN void copy_box(void* target, const TensorMap& map, i32 x, i32 y, i32 z, i32 w, u64* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
      "[%6];" ::"r"(shared_address(target)),
      "l"(&map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(shared_address(barrier))
      : "memory");
}

// --- registers ----------------------------------------------------------------------------------------------
template <int N>
PAB_FN void registers_less() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N>
PAB_FN void registers_more() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

// --- products -----------------------------------------------------------------------------------------------
PAB_FN void product_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
PAB_FN void product_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
PAB_FN void product_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

template <int N>
PAB_FN void settled(float (&registers)[N][4]) {
#pragma unroll
  for (int i = 0; i < 4 * N; ++i) asm volatile("" : "+f"(registers[i / 4][i % 4])::"memory");
}
template <int N>
PAB_FN void settled(u32 (&registers)[N][4]) {
#pragma unroll
  for (int i = 0; i < 4 * N; ++i) asm volatile("" : "+r"(registers[i / 4][i % 4])::"memory");
}

// A descriptor: where a matrix begins, a multiple of 16 bytes; groups of 8 of its rows are 1,024 bytes apart, and
// `panel` bytes lie between panels that follow each other along N.
PAB_FN u64 descriptor(const void* at, int panel) {
  constexpr u64 kGroupBytes = 1024, kSwizzle128 = 1;
  return static_cast<u64>(shared_address(at) >> 4) | static_cast<u64>(panel >> 4) << 16 | kGroupBytes >> 4 << 32 |
         kSwizzle128 << 62;
}
// The descriptor of what lies `bytes` further.
PAB_FN u64 further(u64 descriptor, int bytes) { return descriptor + static_cast<u64>(bytes >> 4); }

#if PAB_DTYPE == 1
#define PAB_PRODUCT_TYPES ".f32.f16.f16 "
#else
#define PAB_PRODUCT_TYPES ".f32.bf16.bf16 "
#endif
// the N / 2 registers of d: as text of operands 0 on, and as operands
#define PAB_SUMS_16 "%0, %1, %2, %3, %4, %5, %6, %7"
#define PAB_SUMS_32 PAB_SUMS_16 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define PAB_SUMS_48 PAB_SUMS_32 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define PAB_SUMS_64 PAB_SUMS_48 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define PAB_SUMS_128                                                                                          \
  PAB_SUMS_64                                                                                                 \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52" \
  ", %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PAB_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define PAB_D_16 PAB_D4(0), PAB_D4(4)
#define PAB_D_32 PAB_D_16, PAB_D4(8), PAB_D4(12)
#define PAB_D_48 PAB_D_32, PAB_D4(16), PAB_D4(20)
#define PAB_D_64 PAB_D_48, PAB_D4(24), PAB_D4(28)
#define PAB_D_128                                                                                   \
  PAB_D_64, PAB_D4(32), PAB_D4(36), PAB_D4(40), PAB_D4(44), PAB_D4(48), PAB_D4(52), PAB_D4(56), PAB_D4(60)

// both from shared memory, rows along K: operands l and r are descriptors, p whether d counts
#define PAB_PRODUCT_KEYS(n, l, r, p)                                                                        \
  if constexpr (N == n) {                                                                                   \
    asm volatile("{\n.reg .pred adds;\nsetp.ne.u32 adds, %" #p ", 0;\nwgmma.mma_async.sync.aligned.m64n" #n \
                 "k16" PAB_PRODUCT_TYPES "{" PAB_SUMS_##n "}, %" #l ", %" #r ", adds, 1, 1, 0, 0;\n}"        \
                 : PAB_D_##n                                                                                \
                 : "l"(a), "l"(b), "r"(static_cast<u32>(adds)));                                            \
  }
// a from registers, operands w to z; rows of b, operand r, along N
#define PAB_PRODUCT_VALUES(n, w, x, y, z, r)                                                                   \
  if constexpr (N == n) {                                                                                      \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" #n "k16" PAB_PRODUCT_TYPES "{" PAB_SUMS_##n "}, {%" #w ", %" #x \
                 ", %" #y ", %" #z "}, %" #r ", 1, 1, 1, 1;"                                                    \
                 : PAB_D_##n                                                                                   \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                        \
  }

template <int N>
PAB_FN void product_keys(float* d, u64 a, u64 b, bool adds) {
  static_assert(N == 64 || N == 128, "columns of a product with keys");
  PAB_PRODUCT_KEYS(64, 32, 33, 34)
  PAB_PRODUCT_KEYS(128, 64, 65, 66)
}
template <int N>
PAB_FN void product_values(float* d, const u32 (&a)[4], u64 b) {
  static_assert(N == 16 || N == 32 || N == 48 || N == 64 || N == 128, "columns of a product with values");
  PAB_PRODUCT_VALUES(16, 8, 9, 10, 11, 12)
  PAB_PRODUCT_VALUES(32, 16, 17, 18, 19, 20)
  PAB_PRODUCT_VALUES(48, 24, 25, 26, 27, 28)
  PAB_PRODUCT_VALUES(64, 32, 33, 34, 35, 36)
  PAB_PRODUCT_VALUES(128, 64, 65, 66, 67, 68)
}

}  // namespace pab
