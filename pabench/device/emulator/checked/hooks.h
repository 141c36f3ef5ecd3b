// SPDX-License-Identifier: Apache-2.0
// The checked build as a kernel file sees it: what it needs of its thread comes from functions of the runtime.
//
// A kernel is compiled with the compiler's thread-sanitizer instrumentation, so every load and store in it calls
// checked/callbacks.h.  The emulator's own data must not look like the kernel's: these functions are compiled
// without instrumentation.  Moves of a whole aggregate report themselves, because compilers split them at will.
#pragma once

#include "emulator/lane.h"

namespace pab_emu {

typedef u32 Vec16 __attribute__((vector_size(16)));

// The same for the whole life of a fiber, which is what a kernel's frame sees.
__attribute__((const)) Dim3 thread_index();
__attribute__((const)) Dim3 block_index();
__attribute__((const)) Dim3 block_dim();
__attribute__((const)) Dim3 grid_dim();
__attribute__((const)) u32 lane_index();
__attribute__((const)) unsigned char* shared_memory();

// One request of 1 to 8 bytes, or of 16.
u64 load_bits(const void* from, u32 bytes);
Vec16 load_vec16(const void* from);
void store_bits(void* to, u64 bits, u32 bytes);
void store_vec16(void* to, Vec16 value);

// A fence of the calling thread; `device`: at device scope, else for its block.
void note_fence(bool device);
// A fence that shows to wgmma and to bulk copies what threads wrote; 16 bytes that a bulk copy is to read, or to write,
// from its issue on.
void note_proxy_fence();
void note_bulk_read(const void* from);
void note_bulk_target(const void* to);
// wgmma takes a register that was written since the last wgmma.fence, or there was none.
void note_unfenced(bool none);
// 16 bytes that a bulk copy writes.
void store_bulk(void* to, Vec16 value);

// Keeps the larger or smaller of two values: one operation, as on a GPU.
u32 atomic_extreme(u32* address, u32 value, bool largest);
unsigned long long atomic_extreme(unsigned long long* address, unsigned long long value, bool largest);

// What the thread does from here on is counted under `name`, a literal.
void enter_region(const char* name);

template <typename T>
inline T load_aggregate(const T* from) {
  static_assert(sizeof(T) <= 8 || sizeof(T) == 16, "a request moves 1, 2, 4, 8 or 16 bytes");
  if constexpr (sizeof(T) == 16) {
    return __builtin_bit_cast(T, load_vec16(from));
  } else {
    const u64 bits = load_bits(from, sizeof(T));
    if constexpr (sizeof(T) == 8) return __builtin_bit_cast(T, bits);
    if constexpr (sizeof(T) == 4) return __builtin_bit_cast(T, static_cast<u32>(bits));
    if constexpr (sizeof(T) == 2) return __builtin_bit_cast(T, static_cast<std::uint16_t>(bits));
    if constexpr (sizeof(T) == 1) return __builtin_bit_cast(T, static_cast<unsigned char>(bits));
  }
}
template <typename T>
inline void store_aggregate(T* to, const T& value) {
  static_assert(sizeof(T) <= 8 || sizeof(T) == 16, "a request moves 1, 2, 4, 8 or 16 bytes");
  if constexpr (sizeof(T) == 16) store_vec16(to, __builtin_bit_cast(Vec16, value));
  if constexpr (sizeof(T) == 8) store_bits(to, __builtin_bit_cast(u64, value), 8);
  if constexpr (sizeof(T) == 4) store_bits(to, __builtin_bit_cast(u32, value), 4);
  if constexpr (sizeof(T) == 2) store_bits(to, __builtin_bit_cast(std::uint16_t, value), 2);
  if constexpr (sizeof(T) == 1) store_bits(to, __builtin_bit_cast(unsigned char, value), 1);
}

}  // namespace pab_emu
