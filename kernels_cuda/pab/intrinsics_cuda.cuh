// SPDX-License-Identifier: Apache-2.0
// The hardware side of pab/intrinsics.cuh: CUDA built-ins and inline PTX for sm_80 and later.
#pragma once

#include "pab/types.cuh"

#define PAB_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

#define PAB_REGION(name) static_cast<void>(0)

#define PAB_FN static __device__ __forceinline__
#define PAB_METHOD __device__ __forceinline__

namespace pab {

// --- warp ---------------------------------------------------------------------------------------------------
PAB_FN u32 lane_id() {
  u32 lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}
PAB_FN u32 lanemask_lt() {
  u32 mask;
  asm("mov.u32 %0, %%lanemask_lt;" : "=r"(mask));
  return mask;
}
template <typename T>
PAB_FN T shfl_xor(u32 mask, T value, u32 lanes) { return __shfl_xor_sync(mask, value, lanes); }
template <typename T>
PAB_FN T shfl_up(u32 mask, T value, u32 delta) { return __shfl_up_sync(mask, value, delta); }
template <typename T>
PAB_FN T shfl_down(u32 mask, T value, u32 delta) { return __shfl_down_sync(mask, value, delta); }
template <typename T>
PAB_FN T shfl_idx(u32 mask, T value, u32 lane) { return __shfl_sync(mask, value, lane); }
PAB_FN u32 ballot(u32 mask, bool predicate) { return __ballot_sync(mask, predicate); }
PAB_FN bool any(u32 mask, bool predicate) { return __any_sync(mask, predicate); }
PAB_FN bool all(u32 mask, bool predicate) { return __all_sync(mask, predicate); }
PAB_FN u32 match_any(u32 mask, u32 value) { return __match_any_sync(mask, value); }
PAB_FN u32 reduce_add(u32 mask, u32 value) { return __reduce_add_sync(mask, value); }
PAB_FN void warp_sync(u32 mask) { __syncwarp(mask); }

// --- bits ---------------------------------------------------------------------------------------------------
PAB_FN u32 popc(u32 bits) { return __popc(bits); }
PAB_FN u32 ffs(u32 bits) { return __ffs(bits); }
PAB_FN u32 byte_permute(u32 x, u32 selector) { return __byte_perm(x, 0, selector); }
PAB_FN u32 byte_permute(u32 x, u32 y, u32 selector) { return __byte_perm(x, y, selector); }

// --- registers ----------------------------------------------------------------------------------------------
PAB_FN u32 opaque(u32 x) {
  asm volatile("" : "+r"(x));  // volatile: a loop holds it, else it would be moved out of it
  return x;
}
template <typename T>
PAB_FN T* kept(T* pointer) {
  asm("" : "+l"(pointer));
  return pointer;
}

// --- block --------------------------------------------------------------------------------------------------
PAB_FN void block_sync() { __syncthreads(); }
PAB_FN void bar_sync(u32 id, u32 threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
PAB_FN void bar_arrive(u32 id, u32 threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// --- grid ---------------------------------------------------------------------------------------------------
#if __CUDA_ARCH__ >= 900
PAB_FN void grid_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
PAB_FN void grid_release() { asm volatile("griddepcontrol.launch_dependents;"); }
#else
PAB_FN void grid_wait() {}
PAB_FN void grid_release() {}
#endif

// --- memory order -------------------------------------------------------------------------------------------
PAB_FN void fence_block() { __threadfence_block(); }
PAB_FN void fence_device() { __threadfence(); }
PAB_FN u32 ld_acquire(const u32* address) {
  u32 value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
PAB_FN u64 ld_acquire(const u64* address) {
  u64 value;
  asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
  return value;
}
PAB_FN u32 ld_relaxed(const u32* address) {
  u32 value;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
PAB_FN u32 ld_system(const u32* address) {
  u32 value;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
PAB_FN void st_relaxed(u32* address, u32 value) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}
PAB_FN void st_release(u32* address, u32 value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

// --- clocks -------------------------------------------------------------------------------------------------
PAB_FN u64 cycle_count() {
  u64 value;
  asm volatile("mov.u64 %0, %clock64;" : "=l"(value)::"memory");
  return value;
}
PAB_FN u64 global_ns() {
  u64 value;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(value)::"memory");
  return value;
}

// --- atomics ------------------------------------------------------------------------------------------------
PAB_FN u32 atomic_add(u32* address, u32 value) { return atomicAdd(address, value); }
PAB_FN u64 atomic_add(u64* address, u64 value) { return atomicAdd(address, value); }
PAB_FN u32 atomic_max(u32* address, u32 value) { return atomicMax(address, value); }
PAB_FN u32 atomic_min(u32* address, u32 value) { return atomicMin(address, value); }
PAB_FN u64 atomic_min(u64* address, u64 value) { return atomicMin(address, value); }
PAB_FN u32 atomic_exch(u32* address, u32 value) { return atomicExch(address, value); }
PAB_FN u32 atomic_or(u32* address, u32 value) { return atomicOr(address, value); }
PAB_FN u32 atomic_and(u32* address, u32 value) { return atomicAnd(address, value); }
PAB_FN u32 atomic_cas(u32* address, u32 expected, u32 value) { return atomicCAS(address, expected, value); }
PAB_FN u64 atomic_cas(u64* address, u64 expected, u64 value) { return atomicCAS(address, expected, value); }

// --- wide moves ---------------------------------------------------------------------------------------------
template <typename T>
PAB_FN T load_wide(const T* address) { return *address; }
template <typename T>
PAB_FN void store_wide(T* address, const T& value) { *address = value; }

// --- asynchronous copy --------------------------------------------------------------------------------------
PAB_FN void cp_async16_there(void* shared, const void* global, i32 there) {
  const u32 target = static_cast<u32>(__cvta_generic_to_shared(shared));
  // as a predicate: ptxas moves the source where it must reckon with any number of bytes, five instructions a copy
  asm volatile(
      "{\n.reg .pred ignored;\nsetp.lt.s32 ignored, %2, 0;\n"
      "cp.async.cg.shared.global [%0], [%1], 16, ignored;\n}" ::"r"(target),
      "l"(global), "r"(there)
      : "memory");
}
PAB_FN void cp_async16(void* shared, const void* global, bool valid) {
  cp_async16_there(shared, global, valid ? 0 : -1);
}
PAB_FN void cp_async4(void* shared, const void* global, i32 there) {
  const u32 target = static_cast<u32>(__cvta_generic_to_shared(shared));
  asm volatile(
      "{\n.reg .pred ignored;\nsetp.lt.s32 ignored, %2, 0;\n"
      "cp.async.ca.shared.global [%0], [%1], 4, ignored;\n}" ::"r"(target),
      "l"(global), "r"(there)
      : "memory");
}
PAB_FN void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
PAB_FN void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// --- math ---------------------------------------------------------------------------------------------------
PAB_FN float ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
PAB_FN float lg2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
PAB_FN float rcp(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
PAB_FN float fast_tanh(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
PAB_FN u32 float_bits(float value) { return __float_as_uint(value); }
PAB_FN float float_of_bits(u32 bits) { return __uint_as_float(bits); }
PAB_FN float stored_float(float value) { return value; }  // arithmetic has left no other NaN
PAB_FN float minus_infinity() { return __uint_as_float(0xFF800000u); }
PAB_FN float fmadd(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// --- conversion ---------------------------------------------------------------------------------------------
PAB_FN float half_to_float(u16 bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}
PAB_FN u16 float_to_half(float value) {
  u16 bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
PAB_FN float bf16_to_float(u16 bits) { return __uint_as_float(static_cast<u32>(bits) << 16); }
PAB_FN u16 float_to_bf16(float value) {
  u32 both;  // sm_80 converts in pairs: the low half is ours
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(0.0f), "f"(value));
  return static_cast<u16>(both);
}
PAB_FN float e4m3_to_float(u8 bits) {
#if __CUDA_ARCH__ >= 890
  u32 both;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(both) : "h"(static_cast<u16>(bits)));
  return half_to_float(static_cast<u16>(both));
#else
  // the bits in a half's place are 2^8 too small
  const u32 magnitude = bits & 0x7Fu;
  const u32 half = (bits & 0x80u) << 8 | magnitude << 7;
  return magnitude == 0x7Fu ? __uint_as_float(0x7FFFFFFFu) : 256.0f * half_to_float(static_cast<u16>(half));
#endif
}
PAB_FN u32 e4m3x2_to_f16x2(u16 both) {
  u32 halves;
#if __CUDA_ARCH__ >= 890
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(both));
#else
  // as above, two at a time; adding 1 carries into bit 7 for the one magnitude that is no number
  const u32 apart = __byte_perm(both, 0, 0x4140), magnitudes = apart & 0x007F007Fu;
  const u32 small = (apart & 0x00800080u) << 8 | magnitudes << 7;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(halves) : "r"(small), "r"(0x5C005C00u));  // 2^8
  halves |= ((magnitudes + 0x00010001u) >> 7 & 0x00010001u) * 0x7FFFu;
#endif
  return halves;
}
PAB_FN u8 float_to_e4m3(float value) {
#if __CUDA_ARCH__ >= 890
  u16 both;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(both) : "f"(0.0f), "f"(value));
  return static_cast<u8>(both);
#else
  const u32 bits = __float_as_uint(value), magnitude = bits & 0x7FFFFFFFu, sign = bits >> 24 & 0x80u;
  if (magnitude > 0x7F800000u) return 0x7F;
  // adding 2^14 rounds to multiples of 2^-9; above 2^-6 the exponent moves the last place
  const u32 small = __float_as_uint(__uint_as_float(magnitude) + 16384.0f) - 0x46800000u;
  const u32 large = ((magnitude + 0x7FFFFu + (magnitude >> 20 & 1u)) >> 20) - 960u;
  const u32 code = magnitude < 0x3C800000u ? small : large;
  return static_cast<u8>(sign | (code < 0x7Eu ? code : 0x7Eu));
#endif
}

PAB_FN u32 pack_f16x2(float low, float high) {
  u32 both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
PAB_FN u32 pack_bf16x2(float low, float high) {
  u32 both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
PAB_FN void unpack_f16x2(u32 both, float& low, float& high) {
  low = half_to_float(static_cast<u16>(both));
  high = half_to_float(static_cast<u16>(both >> 16));
}
PAB_FN void unpack_bf16x2(u32 both, float& low, float& high) {
  low = __uint_as_float(both << 16);
  high = __uint_as_float(both & 0xFFFF0000u);
}

// --- pairs of 16 bits ---------------------------------------------------------------------------------------
PAB_FN u32 fma_f16x2(u32 a, u32 b, u32 c) {
  u32 both;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(both) : "r"(a), "r"(b), "r"(c));
  return both;
}
PAB_FN u32 fma_bf16x2(u32 a, u32 b, u32 c) {
  u32 both;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(both) : "r"(a), "r"(b), "r"(c));
  return both;
}

// --- matrix -------------------------------------------------------------------------------------------------
PAB_FN void ldmatrix_x4(u32 (&out)[4], const void* row) {
  const u32 address = static_cast<u32>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}
PAB_FN void ldmatrix_x4_trans(u32 (&out)[4], const void* row) {
  const u32 address = static_cast<u32>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}
PAB_FN void mma_16816_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
PAB_FN void mma_16816_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace pab
