// SPDX-License-Identifier: Apache-2.0
// What instrumented code calls: the thread sanitizer's interface, answered by our observers instead of its runtime.
#pragma once

#include "emulator/checked/hooks.h"
#include "emulator/checked/observers.h"

namespace pab_emu {

Dim3 thread_index() { return current->thread; }
Dim3 block_index() { return current->block->index; }
Dim3 block_dim() { return current->block->block; }
Dim3 grid_dim() { return current->block->grid; }
u32 lane_index() { return current->index; }
unsigned char* shared_memory() { return current->block->shared; }

#define PAB_EMU_HERE __builtin_return_address(0)

u64 load_bits(const void* from, u32 bytes) {
  observe::access_of<Access::kRead>(reinterpret_cast<u64>(from), bytes, PAB_EMU_HERE);
  u64 bits = 0;
  std::memcpy(&bits, from, bytes);
  return bits;
}
inline Vec16 vec16_at(const void* from) {
  Vec16 value;
  std::memcpy(&value, from, 16);
  return value;
}
[[gnu::noinline]] Vec16 load_vec16_anyhow(const void* from, const void* pc) {
  observe::access_anyhow<16, Access::kRead>(reinterpret_cast<u64>(from), pc);
  return vec16_at(from);
}
Vec16 load_vec16(const void* from) {
  // the rows of a lane are too short for the processor to see that it walks along them
  __builtin_prefetch(static_cast<const char*>(from) + 128);
  const void* pc = PAB_EMU_HERE;
  if (!observe::only_counted<16, Access::kRead>(reinterpret_cast<u64>(from), pc)) return load_vec16_anyhow(from, pc);
  return vec16_at(from);
}
// Shows the checkers what the running thread is about to write.
class Storing {
 public:
  explicit Storing(const void* bytes) {
    if (current) current->storing = static_cast<const unsigned char*>(bytes);
  }
  ~Storing() {
    if (current) current->storing = nullptr;
  }
  Storing(const Storing&) = delete;
  Storing& operator=(const Storing&) = delete;
};
void store_bits(void* to, u64 bits, u32 bytes) {
  const Storing shown(&bits);
  observe::access_of<Access::kWrite>(reinterpret_cast<u64>(to), bytes, PAB_EMU_HERE);
  std::memcpy(to, &bits, bytes);
}
void store_vec16(void* to, Vec16 value) {
  const Storing shown(&value);
  observe::access<16, Access::kWrite>(reinterpret_cast<u64>(to), PAB_EMU_HERE);
  std::memcpy(to, &value, 16);
}
void note_fence(bool device) {
  current->pc = PAB_EMU_HERE;
  observe::count_instruction(*current, device ? Instruction::fence_device : Instruction::fence_block);
  observe::fence(*current, device);
}

void note_proxy_fence() {
  current->pc = PAB_EMU_HERE;
  observe::proxy_fence(*current);
}
void note_bulk_read(const void* from) { observe::bulk_read(*current, from, PAB_EMU_HERE); }
void note_bulk_target(const void* to) { observe::bulk_target(*current, to, PAB_EMU_HERE); }
void store_bulk(void* to, Vec16 value) {
  observe::access(reinterpret_cast<u64>(to), 16, Access::kBulkWrite, PAB_EMU_HERE);
  std::memcpy(to, &value, 16);
}
void note_unfenced(bool none) {
  current->pc = PAB_EMU_HERE;
  if (current->watch == kCount) return;
  report_sync(*current, "wgmma", none ? "wgmma with no wgmma.fence before it"
                                      : "wgmma takes a register that was written after the last wgmma.fence");
}

template <typename T>
T keep_extreme(T* place, T value, bool largest, const void* pc) {
  const u64 address = reinterpret_cast<u64>(place);
  observe::count_atomic(largest ? Instruction::fetch_max : Instruction::fetch_min, address, sizeof(T), pc);
  observe::atomic_access(address, sizeof(T), true, true, pc);
  observe::AtomicTurn turn(address);
  T old = __atomic_load_n(place, __ATOMIC_RELAXED);
  while ((largest ? value > old : value < old) &&
         !__atomic_compare_exchange_n(place, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  turn.did(__ATOMIC_RELAXED, true, true);
  return old;
}
u32 atomic_extreme(u32* address, u32 value, bool largest) {
  return keep_extreme(address, value, largest, PAB_EMU_HERE);
}
unsigned long long atomic_extreme(unsigned long long* address, unsigned long long value, bool largest) {
  return keep_extreme(address, value, largest, PAB_EMU_HERE);
}

void enter_region(const char* name) {
  Lane& me = *current;
  if (!(me.watch & kCount)) return;
  try {
    me.region = u64{worker->counters->tally.region(name)} << kRegionAt;
  } catch (const std::exception& error) {
    fault("region %s: %s", name, error.what());
  }
}

}  // namespace pab_emu

// Of 16 bytes that lie on a multiple of 8 a struct of two words is copied: a misaligned vector was seen before, by its
// type.
#define PAB_EMU_PLAIN(name, bytes, kind)                                                                   \
  extern "C" void __tsan_##name(void* given) {                                                             \
    const ::pab_emu::u64 address = reinterpret_cast<::pab_emu::u64>(given);                                \
    if (bytes == 16 && address % 16) {                                                                     \
      ::pab_emu::observe::access<8, ::pab_emu::Access::kind>(address, PAB_EMU_HERE);                       \
      ::pab_emu::observe::access<8, ::pab_emu::Access::kind>(address + 8, PAB_EMU_HERE);                   \
    } else {                                                                                               \
      ::pab_emu::observe::access<bytes, ::pab_emu::Access::kind>(address, PAB_EMU_HERE);                   \
    }                                                                                                      \
  }
#define PAB_EMU_BOTH(bytes)                       \
  PAB_EMU_PLAIN(read##bytes, bytes, kRead)        \
  PAB_EMU_PLAIN(write##bytes, bytes, kWrite)      \
  PAB_EMU_PLAIN(volatile_read##bytes, bytes, kRead)   \
  PAB_EMU_PLAIN(volatile_write##bytes, bytes, kWrite) \
  PAB_EMU_PLAIN(unaligned_read##bytes, bytes, kRead)  \
  PAB_EMU_PLAIN(unaligned_write##bytes, bytes, kWrite)
PAB_EMU_BOTH(1)
PAB_EMU_BOTH(2)
PAB_EMU_BOTH(4)
PAB_EMU_BOTH(8)
PAB_EMU_BOTH(16)

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
// Ranges come from copies of aggregates: byte by byte as far as alignment goes.
void __tsan_read_range(void* address, unsigned long bytes) {
  for (unsigned long i = 0; i < bytes; ++i) {
    ::pab_emu::observe::access(reinterpret_cast<::pab_emu::u64>(address) + i, 1, ::pab_emu::Access::kRead, PAB_EMU_HERE);
  }
}
void __tsan_write_range(void* address, unsigned long bytes) {
  for (unsigned long i = 0; i < bytes; ++i) {
    ::pab_emu::observe::access(reinterpret_cast<::pab_emu::u64>(address) + i, 1, ::pab_emu::Access::kWrite, PAB_EMU_HERE);
  }
}
void __tsan_atomic_thread_fence(int) { ::pab_emu::observe::fence(*::pab_emu::current, true); }
void __tsan_atomic_signal_fence(int) {}
}

// The behaviour sanitizer's interface: what it says of a place, as its compilers lay it out.
struct PabEmuPointer {
  const char* file;
  ::pab_emu::u32 line, column;
  const void* type;
  unsigned char log_alignment, kind;  // kind 1: a store
};
extern "C" {
void __ubsan_handle_type_mismatch_v1(const PabEmuPointer* found, const void* address) {
  ::pab_emu::observe::misaligned(reinterpret_cast<::pab_emu::u64>(address), 1u << found->log_alignment, found->kind == 1,
                                 PAB_EMU_HERE);
}
void __ubsan_handle_out_of_bounds(const void*, const void*) { __builtin_trap(); }
}

// Atomics of N bits: looked at before they happen, since they may fault, and ordered after, when it is known what they
// did.  The order is the compiler's number (0 relaxed, 2 acquire, 3 release, 4 both, 5 sequential).
#define PAB_EMU_ADDRESS reinterpret_cast<::pab_emu::u64>(address)
namespace pab_emu {

// The three spellings of one operation: `expected` becomes what was found when that is something else.
template <typename T>
inline bool compare_exchange(volatile T* address, T& expected, T value, int order, int otherwise, const void* pc) {
  observe::count_atomic(Instruction::compare_exchange, PAB_EMU_ADDRESS, sizeof(T), pc);
  observe::atomic_access(PAB_EMU_ADDRESS, sizeof(T), true, true, pc);
  observe::AtomicTurn turn(PAB_EMU_ADDRESS);
  const bool done = __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  turn.did(done ? order : otherwise, true, done);
  return done;
}

}  // namespace pab_emu

#define PAB_EMU_ATOMIC_OP(bits, type, name, builtin)                                            \
  extern "C" type __tsan_atomic##bits##_##name(volatile type* address, type value, int order) { \
    ::pab_emu::observe::count_atomic(::pab_emu::Instruction::name, PAB_EMU_ADDRESS, bits / 8,   \
                                     PAB_EMU_HERE);                                             \
    ::pab_emu::observe::atomic_access(PAB_EMU_ADDRESS, bits / 8, true, true, PAB_EMU_HERE);     \
    ::pab_emu::observe::AtomicTurn turn(PAB_EMU_ADDRESS);                                       \
    const type old = builtin(address, value, __ATOMIC_SEQ_CST);                                 \
    turn.did(order, true, true);                                                                \
    return old;                                                                                 \
  }
#define PAB_EMU_ATOMICS(bits, type)                                                                              \
  PAB_EMU_ATOMIC_OP(bits, type, exchange, __atomic_exchange_n)                                                   \
  PAB_EMU_ATOMIC_OP(bits, type, fetch_add, __atomic_fetch_add)                                                   \
  PAB_EMU_ATOMIC_OP(bits, type, fetch_sub, __atomic_fetch_sub)                                                   \
  PAB_EMU_ATOMIC_OP(bits, type, fetch_and, __atomic_fetch_and)                                                   \
  PAB_EMU_ATOMIC_OP(bits, type, fetch_or, __atomic_fetch_or)                                                     \
  PAB_EMU_ATOMIC_OP(bits, type, fetch_xor, __atomic_fetch_xor)                                                   \
  extern "C" type __tsan_atomic##bits##_load(const volatile type* address, int order) {                          \
    ::pab_emu::observe::atomic_access(PAB_EMU_ADDRESS, bits / 8, true, false, PAB_EMU_HERE);                     \
    ::pab_emu::observe::AtomicTurn turn(PAB_EMU_ADDRESS);                                                        \
    const type value = __atomic_load_n(address, __ATOMIC_SEQ_CST);                                               \
    turn.did(order, true, false);                                                                                \
    return value;                                                                                                \
  }                                                                                                              \
  extern "C" void __tsan_atomic##bits##_store(volatile type* address, type value, int order) {                   \
    ::pab_emu::observe::atomic_access(PAB_EMU_ADDRESS, bits / 8, false, true, PAB_EMU_HERE);                     \
    ::pab_emu::observe::AtomicTurn turn(PAB_EMU_ADDRESS);                                                        \
    turn.did(order, false, true);                                                                                \
    __atomic_store_n(address, value, __ATOMIC_SEQ_CST);                                                          \
  }                                                                                                              \
  extern "C" int __tsan_atomic##bits##_compare_exchange_strong(volatile type* address, type* expected,          \
                                                               type value, int order, int otherwise) {          \
    return ::pab_emu::compare_exchange(address, *expected, value, order, otherwise, PAB_EMU_HERE);              \
  }                                                                                                             \
  extern "C" int __tsan_atomic##bits##_compare_exchange_weak(volatile type* address, type* expected, type value,\
                                                             int order, int otherwise) {                        \
    return ::pab_emu::compare_exchange(address, *expected, value, order, otherwise, PAB_EMU_HERE);              \
  }                                                                                                             \
  extern "C" type __tsan_atomic##bits##_compare_exchange_val(volatile type* address, type expected, type value, \
                                                             int order, int otherwise) {                        \
    ::pab_emu::compare_exchange(address, expected, value, order, otherwise, PAB_EMU_HERE);                      \
    return expected;                                                                                            \
  }
PAB_EMU_ATOMICS(8, unsigned char)
PAB_EMU_ATOMICS(16, unsigned short)
PAB_EMU_ATOMICS(32, unsigned int)
PAB_EMU_ATOMICS(64, unsigned long long)
