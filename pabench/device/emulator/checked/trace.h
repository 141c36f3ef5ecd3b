// SPDX-License-Identifier: Apache-2.0
// What the checkers keep for each block that runs, its warps and its lanes.
//
// Time within a block is a count of synchronisations, its tick.  A lane's accesses carry the tick at which its stretch
// began.  Whatever the whole block, or the whole warp, has in common is kept once: most kernels know nothing else.
#pragma once

#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "emulator/checked/knowledge.h"
#include "emulator/checked/tables.h"
#include "emulator/worker.h"

namespace pab_emu {

namespace {

struct Checked;
struct Buffer;
struct WarpTrace;

enum Scope : u32 { kBlockScope, kDeviceScope, kScopes };

// What an instruction of a warp did last: most accesses repeat it, and are done with a few comparisons.
struct alignas(64) Site {
  const void* pc = nullptr;
  u64 base = 0, span = 0;      // an access at base..base + span lies within the memory
  u64 writes = 0, reads = 0;   // cells of the word at address a: writes + 2 * (a & ~3), reads + (a & ~3); 0: none
  u64 written = 0;             // map of written bytes, to be added to the address; 0: all are
  u32 stamp = 0;
  u32 cell_event[2] = {};      // the event of this stretch, by the half of the word, shifted to its place in a cell
  u32 from[2] = {}, to[2] = {};  // cell of readers that became another by this lane, by the half of the word
  u32 lane = 0;
  bool shared = false;
};
constexpr u32 kSites = 256;

struct Trace {
  BlockTrace* block = nullptr;
  WarpTrace* warp = nullptr;
  u32 thread = 0, lane = 0;  // within the block, within the warp
  u32 stamp = 0;
  bool dirty = false;        // has written global memory with no device fence since
  u32 mates[kWarpSize] = {};  // tick up to which each lane of the warp is ordered before this one
  Known known;               // of threads, beyond what block and warp have in common
  Known fenced[kScopes];     // what a relaxed atomic operation hands on: known at the last fence
  Known observed[kScopes];   // what atomic operations brought, for a fence to accept
  Known proxied;             // what was ordered before the last fence to the async proxy
};

inline Trace& trace_of(const Lane& lane) { return *static_cast<Trace*>(lane.trace); }

struct WarpTrace {
  u32 number = 0;
  u32 tick = 0;    // of the last collective of the whole warp
  u32 synced = 1;  // events before this one are ordered before all of the warp
  bool knows = false;         // some lane's `known` is not null
  std::vector<Event> events;  // on shared memory; [0] is none
  std::vector<Event> late;    // those of asynchronous copies, which no synchronisation orders
  u32 recent[4] = {};         // last events on global memory
  std::unique_ptr<Site[]> sites = std::make_unique<Site[]>(kSites);
};
constexpr u32 kEventIndexBits = kEventBits - 5;
constexpr u32 kLate = 1u << (kEventIndexBits - 1);

// What atomic operations on one address hand on.
struct SyncVariable {
  Known device;
  std::map<u64, Known> block;  // to threads of the block only
};
struct SyncVariables {
  std::mutex mutex;
  std::unordered_map<u64, SyncVariable> at;
};

struct Arrival {
  Trace* lane;
  u32 tick;
  bool wait;
};

// A warp that waited for a product of wgmma, and the tick at which it had.
struct ProductWait {
  u32 warp, tick;
};

struct BlockTrace {
  Worker* worker = nullptr;
  Checked* checked = nullptr;
  u64 serial = 0;   // of the launch
  u64 number = 0;
  u64 steps = 0;    // left of the budget
  u32 tick = 0;     // never falls, not even from one block to the next
  u32 barrier = 0;  // tick of the last barrier of the whole block
  u32 synced[kWarpSize] = {};  // events of each warp before these are ordered before the whole block
  u32 handed_on = 0;           // tick up to which the block's accesses are behind fences of the threads that made them
  bool knows = false, observes = false;  // some lane's `known`, `observed` is not null
  std::vector<Trace> lanes;
  std::vector<WarpTrace> warps;
  std::vector<Arrival> arrivals[kBarriers];
  const Lane* first_at[kBarriers] = {};      // who came to a barrier of all threads first
  const void* first_pc[kBarriers] = {};
  std::vector<unsigned char> shared_written;  // nonzero for each byte of shared memory once written
  std::vector<u32> shared_writes, shared_reads;
  Sets sets;                // of readers of shared memory
  SyncVariables variables;  // in shared memory
  std::vector<std::vector<ProductWait>> product_waits;  // by number of the product in the block
  const Buffer* last_buffer = nullptr;
};

}  // namespace

}  // namespace pab_emu
