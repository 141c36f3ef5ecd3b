// SPDX-License-Identifier: Apache-2.0
// What each lane of a warp did since the warp last met: the raw material of the counters.
//
// Lanes run one after another between meetings, so a request of the warp, one instruction with up to 32
// addresses, is only known once all of them have been there.  Each lane writes down what it does; counters.h
// puts the lanes' entries together when the whole warp meets.
#pragma once

#include "emulator/worker.h"

namespace pab_emu {

// The number of each instruction that a worker has seen in this launch, found by the low bits of its place: those of
// one kernel rarely meet.  An entry of the log is one word, so that the logs of a warp stay in the nearest cache: the
// address asked for, and above it that number.
struct Numbered {
  u64 what;    // 0: nothing yet
  u64 number;  // shifted to its place in an entry
};

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

// What an instruction is, in one word: its address in the code, of at most 48 bits as all of a user's, and a label:
//   bits 0-2 logarithm of the bytes, 3-7 instruction, 8-15 region
constexpr u32 kLabelShift = 48, kInstructionShift = 3, kRegionShift = 8, kRegionAt = kLabelShift + kRegionShift;
constexpr u64 kAddressMask = (u64{1} << kLabelShift) - 1;
constexpr u64 place_of(u64 what) { return what & kAddressMask; }
constexpr u32 label_of(u64 what) { return static_cast<u32>(what >> kLabelShift); }

constexpr u32 label_of(Instruction what, u32 bytes) {
  return static_cast<u32>(what) << kInstructionShift | static_cast<u32>(__builtin_ctz(bytes));
}
constexpr Instruction instruction_of(u32 label) { return static_cast<Instruction>(label >> kInstructionShift & 31u); }
constexpr u32 bytes_of(u32 label) { return 1u << (label & 7u); }
constexpr u32 region_of(u32 label) { return label >> kRegionShift; }

constexpr u32 kNumbered = 4096;  // slots

// Entries of one lane between two meetings.  The lanes' parts are apart by a little more than a power of two, or
// the same entry of all lanes would lie in one set of the cache.
constexpr u32 kLogEntries = 2048, kLogStride = kLogEntries + 8;  // words

// Makes room when a lane's part is full; puts an instruction into its slot; see counters.h.
void log_full(Lane& me);
void number_instruction(Numbered& slot, u64 what);

inline u64 instruction_word(const Lane& me, Instruction what, u32 bytes, const void* pc) {
  return reinterpret_cast<u64>(pc) | static_cast<u64>(label_of(what, bytes)) << kLabelShift | me.region;
}
inline Numbered& numbered_slot(const Lane& me, u64 what) { return me.numbered[what & (kNumbered - 1)]; }

// A kernel at fault may name any address.
inline u64 entry_of(u64 address, const Numbered& slot) { return (address & kAddressMask) | slot.number; }
constexpr u32 number_of(u64 entry) { return static_cast<u32>(entry >> kLabelShift); }
inline void add_entry(Lane& me, u64 entry) {
  u64* at = me.log_next;
  *at = entry;
  me.log_next = at + 1;
  if (at + 1 == me.log_end) log_full(me);
}
inline void note(Lane& me, Instruction what, u64 address, u32 bytes, const void* pc) {
  const u64 word = instruction_word(me, what, bytes, pc);
  Numbered& slot = numbered_slot(me, word);
  if (slot.what != word) number_instruction(slot, word);
  add_entry(me, entry_of(address, slot));
}
// The same where nothing is new and room is left, without a call; false: not so, and nothing is noted.
[[gnu::always_inline]] inline bool note_quickly(Lane& me, Instruction what, u64 address, u32 bytes, const void* pc) {
  const u64 word = instruction_word(me, what, bytes, pc);
  const Numbered& slot = numbered_slot(me, word);
  u64* at = me.log_next;
  if (slot.what != word || at + 1 == me.log_end) [[unlikely]] return false;
  *at = entry_of(address, slot);
  me.log_next = at + 1;
  return true;
}

// An acquiring load: a loop that waits counts once, however often the schedule lets it look.
inline void note_poll(Lane& me, u64 address, u32 bytes, const void* pc) {
  const u64 word = instruction_word(me, Instruction::load, bytes, pc);
  Numbered& slot = numbered_slot(me, word);
  if (slot.what != word) number_instruction(slot, word);
  if (me.log_next != me.log_begin && me.log_next[-1] == entry_of(address, slot)) return;
  add_entry(me, entry_of(address, slot));
}

}  // namespace

}  // namespace pab_emu
