// SPDX-License-Identifier: Apache-2.0
// What an emulated CUDA thread knows of itself, and how it meets others.
//
// Every CUDA thread is a fiber; all fibers of a block run on one OS thread, so that code between two meeting
// points needs no locks.  Lanes of a warp meet at collectives, threads of a block at barriers.  A lane that
// waits hands the processor straight to the next lane of its warp, in an order that the seed chose.
#pragma once

#include <cstdint>
#include <cstring>

#include "emulator/context.h"

namespace pab_emu {

using u32 = std::uint32_t;
using u64 = std::uint64_t;

constexpr u32 kWarpSize = 32, kLaneBits = 5;
constexpr u32 kNamedBarriers = 16;   // of a block, as on hardware
constexpr u32 kClusterBarrier = 16, kBarriers = 17;  // that of a cluster, which is one block
constexpr u32 kCopyQueue = 256;      // asynchronous 16-byte copies in flight per lane
// What a block reads that nobody wrote: NaN in each floating type, from 8 bits to 64.  Not the 0xFF of fresh device
// memory: what is computed from it is an output that is wrong, and none that was never written.
constexpr u64 kPoison = 0x7FFF7FFF7FFF7FFFull;

inline void poison(unsigned char* at, u64 size) {
  for (; size >= sizeof kPoison; at += sizeof kPoison, size -= sizeof kPoison) std::memcpy(at, &kPoison, sizeof kPoison);
  std::memcpy(at, &kPoison, size);
}

struct Dim3 {
  u32 x = 1, y = 1, z = 1;
};

// What a collective does with the values of its lanes.
enum class Op : u32 { kSync, kShuffle, kBallot, kAny, kAll, kMatchAny, kReduceAdd, kMatrix };

struct Warp;
struct Block;
struct Lane;
struct Numbered;

// One asynchronous copy: performed at the wait that covers it, never earlier.
struct PendingCopy {
  void* target;
  const void* source;  // null: fill with zeros
  u32 group;
  unsigned short bytes, given;  // what is written; of it what comes from `source`, the rest are zeros
#ifdef PAB_EMU_CHECKED
  const void* pc;  // where it was issued
#endif
};

// One copy between global and shared memory by the engine for bulk copies: performed some time after its issue.
struct BulkCopy {
  Lane* lane;             // that issued it
  u64 barrier;            // mbarrier in shared memory that its bytes are told to; 0 for one out of shared memory
  u32 group;              // of its lane, for one out of shared memory
  u32 bytes;              // in shared memory
  unsigned char* shared;
  u64 global;             // address; of a tile the lowest of the tensor
  bool tile;
  int at[5];              // coordinates of a tile
  unsigned char map[128];  // its tensor map
};

struct Lane {
  Context context = nullptr;
  Warp* warp = nullptr;
  Block* block = nullptr;
  Dim3 thread;
  u32 index = 0;  // lane within the warp

  // Published at a collective, read by the lane that completes it.
  Op op = Op::kSync;
  u32 mask = 0;
  u64 value = 0;
  u32 source = 0;
  u64 result = 0;
  const void* pc = nullptr;  // return address of the last meeting, poll or copy
  const void* polled_at = nullptr;  // return address of the last poll, and what it found
  u64 polled = 0;
#ifdef PAB_EMU_CHECKED
  void* trace = nullptr;  // the checkers' own
#endif

  const void* at_barrier = nullptr;  // mbarrier that the last poll looked at
  bool at_product = false;  // whether the last poll was for another warp to issue a wgmma
  u32 bulk_group = 0;  // open group of bulk copies out of shared memory
  u32 copy_group = 0;  // open group of asynchronous copies
  u32 copy_count = 0;
  PendingCopy* copies = nullptr;  // kCopyQueue of them
#ifdef PAB_EMU_CHECKED
  const unsigned char* storing = nullptr;  // the bytes of the store that it makes, where they are known before it
  u32 watch = 0;   // Request::checks, while a launch is counted
  u64 region = 0;  // of the code that runs, where an entry of the log holds it
  u64 *log_begin = nullptr, *log_next = nullptr, *log_end = nullptr;  // see checked/log.h
  Numbered* numbered = nullptr;
#endif
};

struct Warp {
  u32 runnable = 0;            // lanes that can run now
  u32 arrived = 0;             // lanes that wait at a collective
  u32 finished = 0;            // lanes that have returned
  u32 waiting[kBarriers] = {};  // lanes that wait at each block barrier
  u32 count = 0;               // lanes that exist
  u32 steps[kWarpSize] = {};  // numbers of the accesses that lanes are about to make, where they go in step
  unsigned char next[kWarpSize] = {};  // visiting order: next[i] follows lane i
  Lane* lanes[kWarpSize] = {};
};

struct Block {
  Dim3 index, grid, block;
  unsigned char* shared = nullptr;
  u32 shared_bytes = 0;
};

// The lane that runs on this OS thread.
extern thread_local Lane* current __attribute__((tls_model("initial-exec")));

// Meets the lanes of `mask` that have not returned; returns what `op` gives this lane.
u64 collective(u32 mask, Op op, u64 value, u32 source);

// Arrives at block barrier `id`; `expected` threads complete it, 0 (kAllThreads) all that have not returned.
constexpr u32 kAllThreads = 0;
void barrier(u32 id, u32 expected, bool wait);
// The same for the barrier of a cluster, of which this block is all.
void cluster_barrier();

// For a barrier that counts: what this thread brings to it, before it arrives; how many brought true, after it.
void barrier_note(u32 id, bool truth);
u32 barrier_noted(u32 id);

// Lets other lanes of the block run.
void yield();

// The same now and then, as the seed has it.
void chance();

// Comes to access `number` of the kernel's text, and lets the lanes of the warp go first that are further behind: so a
// warp runs whose lanes have not diverged.
void in_step(u32 number);

// The same from a loop that polls memory and has `found` this: when all lanes of the block find again and again what
// they found before, another block has a turn.  Ends the launch when what is polled for does not come.
void poll(u64 found);

// Asynchronous copies of 16 bytes; of 4, 8 or 16 bytes of which the first `given` are there and the rest zeros.
void copy_async(void* target, const void* source, bool valid);
void copy_async_part(void* target, const void* source, u32 bytes, u32 given);
void copy_commit();
void copy_wait(u32 newest_groups_left);
void copy_land_all();  // of this thread, committed or not

// Bulk copies.  One into shared memory lands when somebody waits at its mbarrier, one of many by chance; one out of it
// when its lane waits for its group.  Each is handed out once, to be performed by who asked.
void bulk_issue(const BulkCopy& copy);
void bulk_commit();
bool bulk_landing(u64 barrier, BulkCopy& copy);
bool bulk_leaving(u32 newest_groups_left, BulkCopy& copy);

// Ends the launch with a message; does not return.
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

// `exact` off by at most `off_by`, by an amount fixed by the operand: the same every time, as on hardware.
float approximate(double exact, double off_by, float operand);

}  // namespace pab_emu
