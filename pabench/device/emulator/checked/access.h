// SPDX-License-Identifier: Apache-2.0
// One access of the running thread: past the checkers, by the short way where its instruction did the like before.
#pragma once

#include <cstring>

#include "emulator/checked/sync.h"

namespace pab_emu::observe {

namespace {

typedef u32 Words4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef u32 Words2 __attribute__((vector_size(8), aligned(4), may_alias));
typedef u64 Bits2 __attribute__((vector_size(16), may_alias));

// Whether `words` neighbouring cells (1, 2, 4 or 8) all hold `value`.
template <u32 kWords>
inline bool all_hold(const u32* cells, u32 value) {
  if constexpr (kWords >= 4) {
    u64 differ = 0;
    for (u32 i = 0; i < kWords; i += 4) {
      const auto bits = reinterpret_cast<Bits2>(*reinterpret_cast<const Words4*>(cells + i) ^ value);
      differ |= bits[0] | bits[1];
    }
    return differ == 0;
  } else if constexpr (kWords == 2) {
    u64 both;
    std::memcpy(&both, cells, 8);
    return both == (u64{value} << 32 | value);
  } else {
    return cells[0] == value;
  }
}
template <u32 kWords>
inline void fill(u32* cells, u32 value) {
  for (u32 i = 0; i < kWords; ++i) cells[i] = value;
}

// Whether all cells name one and the same event (of whatever lanes).
template <u32 kWords>
inline bool one_event(const u32* cells, u32 event) {
  if constexpr (kWords >= 4) {
    u64 differ = 0;
    for (u32 i = 0; i < kWords; i += 4) {
      const auto bits = reinterpret_cast<Bits2>((*reinterpret_cast<const Words4*>(cells + i) ^ event) & ~31u);
      differ |= bits[0] | bits[1];
    }
    return differ == 0;
  } else {
    for (u32 i = 0; i < kWords; ++i) {
      if ((cells[i] ^ event) & ~31u) return false;
    }
    return true;
  }
}

inline Site& site_of(const Trace& t, const void* pc) {
  return t.warp->sites[reinterpret_cast<u64>(pc) >> 3 & (kSites - 1)];
}

inline void note_cells(Site& site, const Trace& t, u64 address, u32 event, u32 bytes, const Cells& cells) {
  if (site.stamp != t.stamp) site.cell_event[0] = site.cell_event[1] = 0;
  if (site.stamp != t.stamp || site.lane != t.lane) site.to[0] = site.to[1] = site.from[0] = site.from[1] = 0;
  site.stamp = t.stamp;
  site.lane = t.lane;
  if (bytes > 1) site.cell_event[address >> 1 & 1] = event << 5;
  site.to[address >> 1 & 1] = *readers_at(cells, address & ~u64{3});
}

// The long way: every check.
[[gnu::noinline]] void access_in_full(Lane* me, u64 address, u32 bytes, Access kind, const void* pc, u32 product = 0) {
  Trace& t = trace_of(*me);
  BlockTrace& block = *t.block;
  Checked& checked = *block.checked;
  Touch touch{me, address, bytes, kind, pc};
  touch.product = product;
  if (!locate(checked, block, touch)) return;
  check_alignment(checked, touch);
  check_written(checked, touch);
  Cells cells;
  u32 event = 0, from = 0;
  if (checked.wants(kCheckRace)) {
    cells = cells_of(block, touch);
    if (cells.reads) {
      from = *readers_at(cells, address & ~u64{3});
      event = check_races(t, touch, cells);
      if (kind == Access::kProductRead) check_proxies(t, touch, cells);
    }
  }
  if (kind != Access::kRead && kind != Access::kWrite) return;
  if (touch.memory && touch.memory->constant && kind == Access::kWrite) return;
  Site& site = site_of(t, pc);
  site.pc = pc;
  site.base = address - touch.offset;
  site.span = (touch.shared() ? block.worker->block.shared_bytes : touch.memory->bytes) - bytes;
  site.writes = cells.writes;
  site.reads = cells.reads;
  site.written = touch.written ? reinterpret_cast<u64>(touch.written) - address : 0;
  site.shared = touch.shared();
  if (event) {
    note_cells(site, t, address, event, bytes, cells);
    site.from[address >> 1 & 1] = from;
  }
}

// A pointer to a type that its address is not aligned for, before what it points to is read or written in parts.
[[gnu::noinline]] void misaligned(u64 address, u32 alignment, bool writes, const void* pc) {
  if (!current || current->watch == kCount) return;
  BlockTrace& block = *trace_of(*current).block;
  Touch touch{current, address, alignment, writes ? Access::kWrite : Access::kRead, pc};
  if (locate(*block.checked, block, touch)) check_alignment(*block.checked, touch);
}

// Whether all bytes of an access have been written.
template <u32 kBytes>
inline bool all_written(const Site& site, u64 address) {
  if (!site.written) return true;
  const auto* map = reinterpret_cast<const unsigned char*>(site.written + address);
  if constexpr (kBytes == 16) {
    u64 low, high;
    std::memcpy(&low, map, 8);
    std::memcpy(&high, map + 8, 8);
    return (low & high) == 0x0101010101010101ull;
  } else {
    u64 bits = 0;
    std::memcpy(&bits, map, kBytes);
    return bits == (0x0101010101010101ull >> (64 - 8 * kBytes));
  }
}

// Whether the write in `cell` is ordered before the whole warp by a sync of it, or by a barrier of the block.
inline bool long_past(const Trace& t, u32 cell) {
  const u32 event = cell >> 5, warp = event >> kEventIndexBits;
  const u32 synced = warp == t.warp->number ? t.warp->synced : t.block->synced[warp];
  return (event & ((1u << kEventIndexBits) - 1)) < synced;
}

// Finds what this lane makes of a cell in which lanes of its own event, or nobody, read before it; false: another case.
[[gnu::noinline]] bool note_step(const Trace& t, Site& site, u32 half, u32 cell) {
  const u32 event = site.cell_event[half] >> 5, mine = cell_of(event, t.lane);
  if (!event) return false;
  Sets& sets = t.block->sets;
  u32 now = mine;
  if (cell & kSet) {
    Set& set = sets[cell];
    const u64 step = set.step.load(std::memory_order_relaxed);
    if (step >> 32 == mine) {
      now = static_cast<u32>(step);
    } else {
      if (set.event != event || set.others) return false;
      now = set.lanes >> t.lane & 1 ? cell : sets.intern(0, event, set.lanes | 1u << t.lane);
      set.step.store(u64{mine} << 32 | now, std::memory_order_relaxed);
    }
  } else if (cell && cell != mine) {
    if (cell >> 5 != event) return false;
    now = sets.intern(0, event, 1u << (cell & 31) | 1u << t.lane);
  }
  if (!now) return false;
  if (site.lane != t.lane) site.to[0] = site.to[1] = site.from[0] = site.from[1] = 0;
  site.lane = t.lane;
  site.from[half] = cell;
  site.to[half] = now;
  return true;
}

// A read that needs no look at tables: of memory that was written, last by a write that is past, by a reader whose
// mark is there, or is the only one, or changes the marks as it just did next to it.
template <u32 kBytes>
[[gnu::always_inline]] inline bool short_read(const Trace& t, Site& site, u64 address) {
  if (!site.reads) return all_written<kBytes>(site, address);
  if (site.stamp != t.stamp) return false;
  constexpr u32 kWords = kBytes < 4 ? 1 : kBytes / 4, kHalves = kBytes < 4 ? 1 : 2 * kWords;
  const u64 half = kBytes < 4 ? address >> 1 & 1 : 0;
  u32* const writes = reinterpret_cast<u32*>(site.writes + 2 * (address & ~u64{3})) + half;
  u32* const readers = reinterpret_cast<u32*>(site.reads + (address & ~u64{3}));
  const u32 last = *writes;
  if (last ? !(site.shared && long_past(t, last) && one_event<kHalves>(writes, last))
           : !(all_hold<kHalves>(writes, 0) && all_written<kBytes>(site, address))) {
    return false;
  }
  if (kBytes == 1) return false;
  const u32 side = address >> 1 & 1, now = *readers;
  const bool same = site.lane == t.lane;
  if (!(same && (now == site.to[side] || now == site.from[side]))) {
    if (!site.shared || !note_step(t, site, side, now)) return false;
  }
  if (site.to[side] && all_hold<kWords>(readers, site.to[side])) return true;
  if (!site.shared || !all_hold<kWords>(readers, site.from[side])) return false;
  fill<kWords>(readers, site.to[side]);
  return true;
}

// A write to what this lane wrote before, with nobody in between.
template <u32 kBytes>
inline bool short_write(const Trace& t, const Site& site, u64 address) {
  if (!site.reads || site.stamp != t.stamp || kBytes == 1) return false;
  constexpr u32 kWords = kBytes < 4 ? 1 : kBytes / 4, kHalves = kBytes < 4 ? 1 : 2 * kWords;
  const u64 half = kBytes < 4 ? address >> 1 & 1 : 0;
  const u32* const writes = reinterpret_cast<u32*>(site.writes + 2 * (address & ~u64{3})) + half;
  const u32* const readers = reinterpret_cast<u32*>(site.reads + (address & ~u64{3}));
  const u32 event = site.cell_event[address >> 1 & 1];
  return event && all_hold<kHalves>(writes, event | t.lane) && all_hold<kWords>(readers, 0);
}

// Hands an access to the counters; atomic operations go there by name, see count_atomic.  True: nobody else asks.
inline bool count_access(Lane& me, u64 address, u32 bytes, Access kind, const void* pc) {
  if (!(me.watch & kCount)) return false;
  if (kind == Access::kRead) note(me, Instruction::load, address, bytes, pc);
  if (kind == Access::kWrite || kind == Access::kAtomicWrite || kind == Access::kBulkWrite) note(me, Instruction::store, address, bytes, pc);
  if (kind == Access::kAtomicRead) note_poll(me, address, bytes, pc);
  if (kind == Access::kAsyncRead) note(me, Instruction::async_load, address, bytes, pc);
  if (kind == Access::kAsyncWrite) note(me, Instruction::async_store, address, bytes, pc);
  return me.watch == kCount;
}

// The same as a call, which keeps the checkers' way short.
template <u32 kBytes, Access kKind>
[[gnu::noinline]] bool count_apart(Lane& me, u64 address, const void* pc) {
  return count_access(me, address, kBytes, kKind, pc);
}

// One access of the running thread; called before it happens.
template <u32 kBytes, Access kKind>
[[gnu::noinline]] void access_anyhow(u64 address, const void* pc) {
  Lane* me = current;
  if (!me) return;  // the launcher's own work
  if (me->watch & kCount && count_apart<kBytes, kKind>(*me, address, pc)) return;
  Trace& t = trace_of(*me);
  count_step(*me, pc);
  Site& site = site_of(t, pc);
  if (site.pc == pc && address - site.base <= site.span && (address & (kBytes - 1)) == 0) [[likely]] {
    if constexpr (kKind == Access::kRead) {
      if (short_read<kBytes>(t, site, address)) [[likely]] return;
    } else {
      if (short_write<kBytes>(t, site, address)) return;
    }
  }
  access_in_full(me, address, kBytes, kKind, pc);
}
// Whether nothing but the counters asks for a plain access, and they have it.
template <u32 kBytes, Access kKind>
[[gnu::always_inline]] inline bool only_counted(u64 address, const void* pc) {
  constexpr Instruction what = kKind == Access::kRead ? Instruction::load : Instruction::store;
  return current && current->watch == kCount && note_quickly(*current, what, address, kBytes, pc);
}
template <u32 kBytes, Access kKind>
[[gnu::always_inline]] inline void access(u64 address, const void* pc) {
  if (!only_counted<kBytes, kKind>(address, pc)) access_anyhow<kBytes, kKind>(address, pc);
}
// The same for a size known at run time only.
template <Access kKind>
inline void access_of(u64 address, u32 bytes, const void* pc) {
  switch (bytes) {
    case 1: return access<1, kKind>(address, pc);
    case 2: return access<2, kKind>(address, pc);
    case 4: return access<4, kKind>(address, pc);
    default: return access<8, kKind>(address, pc);
  }
}
// The same for what is rare.
inline void access(u64 address, u32 bytes, Access kind, const void* pc) {
  Lane* me = current;
  if (!me || count_access(*me, address, bytes, kind, pc)) return;
  count_step(*me, pc);
  access_in_full(me, address, bytes, kind, pc);
}

}  // namespace

}  // namespace pab_emu::observe
