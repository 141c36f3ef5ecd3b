// SPDX-License-Identifier: Apache-2.0
// The emulated side of pab/intrinsics.cuh: portable C++ over the fibers of emulator/lane.h.
#pragma once

#include <ctime>

#include "emulator/cuda.h"
#include "emulator/matrix.h"
#include "emulator/numbers.h"
#include "pab/types.cuh"

#ifdef PAB_EMU_CHECKED
// as on a GPU: what is inlined is told apart by where it stands in the kernel
#define PAB_FN static inline __attribute__((always_inline))
#define PAB_METHOD inline __attribute__((always_inline))
#define PAB_SHARED(name) unsigned char* name = ::pab_emu::shared_memory()
#define PAB_REGION(name) ::pab_emu::enter_region(name)
#else
#define PAB_FN static inline
#define PAB_METHOD inline
#define PAB_REGION(name) static_cast<void>(0)
#define PAB_SHARED(name) unsigned char* name = ::pab_emu::current->block->shared
#endif

namespace pab {

// --- warp ---------------------------------------------------------------------------------------------------
template <typename T>
inline u64 to_bits(T value) {
  u64 bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <typename T>
inline T from_bits(u64 bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

#ifdef PAB_EMU_CHECKED
inline u32 lane_id() { return pab_emu::lane_index(); }
#else
inline u32 lane_id() { return pab_emu::current->index; }
#endif
inline u32 lanemask_lt() { return (1u << lane_id()) - 1; }

template <typename T>
inline T shfl_idx(u32 mask, T value, u32 lane) {
  return from_bits<T>(pab_emu::collective(mask, pab_emu::Op::kShuffle, to_bits(value), lane % kWarpSize));
}
template <typename T>
inline T shfl_xor(u32 mask, T value, u32 lanes) { return shfl_idx(mask, value, lane_id() ^ lanes); }
template <typename T>
inline T shfl_up(u32 mask, T value, u32 delta) {
  return shfl_idx(mask, value, lane_id() < delta ? lane_id() : lane_id() - delta);
}
template <typename T>
inline T shfl_down(u32 mask, T value, u32 delta) {
  return shfl_idx(mask, value, lane_id() + delta < kWarpSize ? lane_id() + delta : lane_id());
}
inline u32 ballot(u32 mask, bool predicate) {
  return static_cast<u32>(pab_emu::collective(mask, pab_emu::Op::kBallot, predicate, 0));
}
inline bool any(u32 mask, bool predicate) { return pab_emu::collective(mask, pab_emu::Op::kAny, predicate, 0); }
inline bool all(u32 mask, bool predicate) { return pab_emu::collective(mask, pab_emu::Op::kAll, predicate, 0); }
inline u32 match_any(u32 mask, u32 value) {
  return static_cast<u32>(pab_emu::collective(mask, pab_emu::Op::kMatchAny, value, 0));
}
inline u32 reduce_add(u32 mask, u32 value) {
  return static_cast<u32>(pab_emu::collective(mask, pab_emu::Op::kReduceAdd, value, 0));
}
inline void warp_sync(u32 mask) { pab_emu::collective(mask, pab_emu::Op::kSync, 0, 0); }

// --- bits ---------------------------------------------------------------------------------------------------
inline u32 popc(u32 bits) { return static_cast<u32>(__builtin_popcount(bits)); }
inline u32 ffs(u32 bits) { return static_cast<u32>(__builtin_ffs(static_cast<int>(bits))); }
inline u32 byte_permute(u32 x, u32 selector) {
  u32 result = 0;
  for (u32 i = 0; i < 4; ++i) result |= (x >> 8 * (selector >> 4 * i & 3) & 0xFF) << 8 * i;
  return result;
}
inline u32 byte_permute(u32 x, u32 y, u32 selector) {
  const u64 both = static_cast<u64>(y) << 32 | x;
  u32 result = 0;
  for (u32 i = 0; i < 4; ++i) result |= static_cast<u32>(both >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
  return result;
}

// --- registers ----------------------------------------------------------------------------------------------
inline u32 opaque(u32 x) { return x; }
template <typename T>
T* kept(T* pointer) {
  return pointer;
}

// --- block --------------------------------------------------------------------------------------------------
inline void block_sync() { pab_emu::barrier(0, pab_emu::kAllThreads, true); }
inline void meet(u32 id, u32 threads, bool wait) {
  if (threads == 0) pab_emu::fault("barrier %u: 0 threads, must be a multiple of the warp size", id);
  pab_emu::barrier(id, threads, wait);
}
inline void bar_sync(u32 id, u32 threads) { meet(id, threads, true); }
inline void bar_arrive(u32 id, u32 threads) { meet(id, threads, false); }

// --- grid ---------------------------------------------------------------------------------------------------
inline void grid_wait() {}  // kernels run one after the other
inline void grid_release() {}

// --- memory order -------------------------------------------------------------------------------------------
#ifdef PAB_EMU_CHECKED
inline void fence_block() { pab_emu::note_fence(false); }
inline void fence_device() { pab_emu::note_fence(true); }
#else
inline void fence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void fence_device() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
#endif
inline u32 ld_acquire(const u32* address) {
  const u32 value = __atomic_load_n(address, __ATOMIC_ACQUIRE);
  pab_emu::poll(value);  // whoever polls must let the others run
  return value;
}
inline u64 ld_acquire(const u64* address) {
  const u64 value = __atomic_load_n(address, __ATOMIC_ACQUIRE);
  pab_emu::poll(value);
  return value;
}
inline u32 ld_relaxed(const u32* address) {
  const u32 value = __atomic_load_n(address, __ATOMIC_RELAXED);
  pab_emu::poll(value);
  return value;
}
inline u32 ld_system(const u32* address) { return ld_relaxed(address); }
inline void st_relaxed(u32* address, u32 value) { __atomic_store_n(address, value, __ATOMIC_RELAXED); }
inline void st_release(u32* address, u32 value) { __atomic_store_n(address, value, __ATOMIC_RELEASE); }

// --- clocks -------------------------------------------------------------------------------------------------
// The host's, for both: an emulated multiprocessor has no cycles, and nothing here says how fast one is.
inline u64 global_ns() {
  // not <chrono>, which alone would double what a kernel's compilation reads
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<u64>(now.tv_sec) * 1'000'000'000 + static_cast<u64>(now.tv_nsec);
}
inline u64 cycle_count() { return global_ns(); }

// --- atomics ------------------------------------------------------------------------------------------------
// One that changes nothing may be the look of a loop that waits, and lets the others run; after any other they do so
// now and then, so that what comes between two atomic operations is seen.
template <typename T>
inline T looked(T old, bool unchanged) {
  if (unchanged) {
    pab_emu::poll(old);
  } else {
    pab_emu::chance();
  }
  return old;
}
inline u32 atomic_add(u32* address, u32 value) {
  return looked(__atomic_fetch_add(address, value, __ATOMIC_RELAXED), value == 0);
}
inline u64 atomic_add(u64* address, u64 value) {
  return looked<u64>(__atomic_fetch_add(address, value, __ATOMIC_RELAXED), value == 0);
}
inline u32 atomic_or(u32* address, u32 value) {
  const u32 old = __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
  return looked(old, (old | value) == old);
}
inline u32 atomic_and(u32* address, u32 value) {
  const u32 old = __atomic_fetch_and(address, value, __ATOMIC_RELAXED);
  return looked(old, (old & value) == old);
}
inline u32 atomic_exch(u32* address, u32 value) {
  const u32 old = __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
  return looked(old, old == value);
}
template <typename T>
inline T atomic_cas(T* address, T expected, T value) {
  T old = expected;
  __atomic_compare_exchange_n(address, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return looked(old, old != expected || old == value);
}
#ifdef PAB_EMU_CHECKED
template <typename T>
inline T atomic_max(T* address, T value) { return pab_emu::atomic_extreme(address, value, true); }
template <typename T>
inline T atomic_min(T* address, T value) { return pab_emu::atomic_extreme(address, value, false); }
#else
template <typename T, typename Better>
inline T atomic_keep(T* address, T value, Better better) {
  T old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (better(value, old) &&
         !__atomic_compare_exchange_n(address, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
template <typename T>
inline T atomic_max(T* address, T value) {
  return atomic_keep(address, value, [](T a, T b) { return a > b; });
}
template <typename T>
inline T atomic_min(T* address, T value) {
  return atomic_keep(address, value, [](T a, T b) { return a < b; });
}
#endif

// --- wide moves ---------------------------------------------------------------------------------------------
#ifdef PAB_EMU_CHECKED
template <typename T>
inline T load_wide(const T* address) { return pab_emu::load_aggregate(address); }
template <typename T>
inline void store_wide(T* address, const T& value) { pab_emu::store_aggregate(address, value); }
#else
template <typename T>
inline T load_wide(const T* address) { return *address; }
template <typename T>
inline void store_wide(T* address, const T& value) { *address = value; }
#endif

// --- asynchronous copy --------------------------------------------------------------------------------------
inline void cp_async16(void* shared, const void* global, bool valid) { pab_emu::copy_async(shared, global, valid); }
inline void cp_async16_there(void* shared, const void* global, i32 there) { cp_async16(shared, global, there >= 0); }
inline void cp_async4(void* shared, const void* global, i32 there) {
  pab_emu::copy_async_part(shared, global, 4, there < 0 ? 0 : 4);
}
inline void cp_async_commit() { pab_emu::copy_commit(); }
template <int N>
inline void cp_async_wait() { pab_emu::copy_wait(N); }

// --- math ---------------------------------------------------------------------------------------------------
// Denormal results are flushed as the .ftz forms do.
inline float flush(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x; }
// PTX allows ex2 a relative error of 2^-22, lg2 the same but absolute between 1/2 and 2, rcp 2^-23 relative; the
// rounding to float takes 2^-24 of it.  Of its table of special values ex2 of a zero, and of what is flushed to one,
// is 1 exactly: sums that are merged rely on it.
inline float ex2(float x) {
  const double exact = exp2(static_cast<double>(x)), off_by = flush(x) == 0.0f ? 0.0 : 0.75 * 0x1p-22;
  return flush(pab_emu::approximate(exact, exact * off_by, x));
}
inline float lg2(float x) {
  const double exact = log2(static_cast<double>(flush(x)));
  const double size = x > 0.5f && x < 2.0f ? 1.0 : fabs(exact);
  return pab_emu::approximate(exact, size * 0.75 * 0x1p-22, x);
}
inline float rcp(float x) {
  const double exact = 1.0 / flush(x);
  return flush(pab_emu::approximate(exact, exact * 0.5 * 0x1p-23, x));
}
// PTX allows tanh a relative error of 2^-11; it does not leave [-1, 1].
inline float fast_tanh(float x) {
  const double exact = tanh(static_cast<double>(x));
  const float y = pab_emu::approximate(exact, exact * 0.99 * 0x1p-11, x);
  return fabsf(y) > 1.0f ? copysignf(1.0f, y) : y;
}
inline float stored_float(float value) { return canonical(value); }
inline u32 float_bits(float value) { return std::bit_cast<u32>(value); }
inline float float_of_bits(u32 bits) { return std::bit_cast<float>(bits); }
inline float minus_infinity() { return std::bit_cast<float>(0xFF800000u); }
inline float fmadd(float a, float b, float c) { return fmaf(a, b, c); }

// --- conversion ---------------------------------------------------------------------------------------------
// float_to_half, half_to_float, float_to_bf16, bf16_to_float: emulator/numbers.h
inline u32 pack_f16x2(float low, float high) {
  return static_cast<u32>(float_to_half(low)) | static_cast<u32>(float_to_half(high)) << 16;
}
inline u32 pack_bf16x2(float low, float high) {
  return static_cast<u32>(float_to_bf16(low)) | static_cast<u32>(float_to_bf16(high)) << 16;
}
inline void unpack_f16x2(u32 both, float& low, float& high) {
  low = half_to_float(static_cast<u16>(both));
  high = half_to_float(static_cast<u16>(both >> 16));
}
inline void unpack_bf16x2(u32 both, float& low, float& high) {
  low = bf16_to_float(static_cast<u16>(both));
  high = bf16_to_float(static_cast<u16>(both >> 16));
}

// --- pairs of 16 bits ---------------------------------------------------------------------------------------
template <void (*unpack)(u32, float&, float&), u32 (*pack)(float, float)>
inline u32 fma_pair(u32 a, u32 b, u32 c) {
  float x[2], y[2], z[2];
  unpack(a, x[0], x[1]);
  unpack(b, y[0], y[1]);
  unpack(c, z[0], z[1]);
  return pack(odd_fma(x[0], y[0], z[0]), odd_fma(x[1], y[1], z[1]));
}
inline u32 fma_f16x2(u32 a, u32 b, u32 c) { return fma_pair<unpack_f16x2, pack_f16x2>(a, b, c); }
inline u32 fma_bf16x2(u32 a, u32 b, u32 c) { return fma_pair<unpack_bf16x2, pack_bf16x2>(a, b, c); }

// --- matrix -------------------------------------------------------------------------------------------------
inline void ldmatrix_x4(u32 (&out)[4], const void* row) {
  pab_emu::load_matrices(out, row, pab_emu::MatrixKind::kLoad);
}
inline void ldmatrix_x4_trans(u32 (&out)[4], const void* row) {
  pab_emu::load_matrices(out, row, pab_emu::MatrixKind::kLoadTransposed);
}
inline void mma_16816_f16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  pab_emu::multiply_matrices(c, a, b0, b1, pab_emu::MatrixKind::kMultiplyF16);
}
inline void mma_16816_bf16(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  pab_emu::multiply_matrices(c, a, b0, b1, pab_emu::MatrixKind::kMultiplyBf16);
}
inline float e4m3_to_float(u8 bits) {
  // the bits in a half's place are 2^8 too small
  const u32 magnitude = bits & 0x7Fu;
  const u32 half = (bits & 0x80u) << 8 | magnitude << 7;
  return magnitude == 0x7Fu ? std::bit_cast<float>(0x7FFFFFFFu) : 256.0f * half_to_float(static_cast<u16>(half));
}
inline u32 e4m3x2_to_f16x2(u16 both) {
  return pack_f16x2(e4m3_to_float(static_cast<u8>(both)), e4m3_to_float(static_cast<u8>(both >> 8)));
}
inline u8 float_to_e4m3(float value) {
  const u32 bits = std::bit_cast<u32>(value), magnitude = bits & 0x7FFFFFFFu, sign = bits >> 24 & 0x80u;
  if (magnitude > 0x7F800000u) return 0x7F;
  // adding 2^14 rounds to multiples of 2^-9; above 2^-6 the exponent moves the last place
  const u32 small = std::bit_cast<u32>(std::bit_cast<float>(magnitude) + 16384.0f) - 0x46800000u;
  const u32 large = ((magnitude + 0x7FFFFu + (magnitude >> 20 & 1u)) >> 20) - 960u;
  const u32 code = magnitude < 0x3C800000u ? small : large;
  return static_cast<u8>(sign | (code < 0x7Eu ? code : 0x7Eu));
}

}  // namespace pab
