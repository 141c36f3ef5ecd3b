// What each lane of a warp did since the warp last met: the raw material of the counters.
//
// Lanes run one after another between meetings, so a request of the warp, one instruction with up to 32
// addresses, is only known once all of them have been there.  Each lane writes down what it does; counters.h
// puts the lanes' entries together when the whole warp meets.
#pragma once

#include "emulation/worker.h"

namespace pab_emu {

namespace {

// What is counted.  The atomic operations are called as the compiler's callbacks are; the collectives stand in the
// order of Op.
enum class Instruction : u32 {
  load, store, async_load, async_store, async_commit, barrier, fence_block, fence_device,
  exchange, fetch_add, fetch_sub, fetch_and, fetch_or, fetch_xor, compare_exchange, fetch_max, fetch_min,
  warp_sync, shuffle, ballot, any, all, match_any, reduce_add, matrix,
};
constexpr const char* kInstructionNames[] = {
    "load",   "store", "async load", "async store", "async commit", "barrier", "fence block", "fence device",
    "exch",   "add",   "sub",        "and",         "or",           "xor",     "cas",         "max", "min",
    "warp_sync", "shuffle", "ballot", "any",        "all",          "match_any", "reduce_add", "matrix",
};
constexpr bool touches_memory(Instruction what) {
  return what <= Instruction::async_store || (what >= Instruction::exchange && what <= Instruction::fetch_min);
}
constexpr bool is_atomic(Instruction what) { return what >= Instruction::exchange && what <= Instruction::fetch_min; }

// An entry is two words: address and label, and the place in the code.  User addresses have at most 48 bits.
//   label   bits 0-2 logarithm of the bytes, 3-7 instruction, 8-15 region
constexpr u32 kLabelShift = 48, kInstructionShift = 3, kRegionShift = 8, kRegionAt = kLabelShift + kRegionShift;
constexpr u64 kAddressMask = (u64{1} << kLabelShift) - 1;

constexpr u32 label_of(Instruction what, u32 bytes) {
  return static_cast<u32>(what) << kInstructionShift | static_cast<u32>(__builtin_ctz(bytes));
}
constexpr Instruction instruction_of(u32 label) { return static_cast<Instruction>(label >> kInstructionShift & 31u); }
constexpr u32 bytes_of(u32 label) { return 1u << (label & 7u); }
constexpr u32 region_of(u32 label) { return label >> kRegionShift; }

// Entries of one lane between two meetings.  The lanes' parts are apart by a little more than a power of two, or
// the same entry of all lanes would lie in one set of the cache.
constexpr u32 kLogEntries = 2048, kLogStride = 2 * kLogEntries + 8;  // words

// Makes room when a lane's part is full; see counters.h.
void log_full(Lane& me);

__attribute__((always_inline)) inline void note(Lane& me, Instruction what, u64 address, u32 bytes, const void* pc) {
  u64* at = me.log_next;
  at[0] = address | static_cast<u64>(label_of(what, bytes)) << kLabelShift | me.region;
  at[1] = reinterpret_cast<u64>(pc);
  me.log_next = at + 2;
  if (at + 2 == me.log_end) [[unlikely]] log_full(me);
}

// An acquiring load: a loop that waits counts once, however often the schedule lets it look.
inline void note_poll(Lane& me, u64 address, u32 bytes, const void* pc) {
  const u64 first = address | static_cast<u64>(label_of(Instruction::load, bytes)) << kLabelShift | me.region;
  const u64* before = me.log_next - 2;
  if (me.log_next != me.log_begin && before[0] == first && before[1] == reinterpret_cast<u64>(pc)) return;
  note(me, Instruction::load, address, bytes, pc);
}

}  // namespace

}  // namespace pab_emu
