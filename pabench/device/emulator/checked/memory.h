// SPDX-License-Identifier: Apache-2.0
// Memory of a checked launch: which buffer an address lies in, what may be touched (memcheck), and which bytes
// have been written (initcheck).
#pragma once

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "emulator/checked/counters.h"
#include "emulator/checked/findings.h"
#include "emulator/checked/request.h"
#include "emulator/checked/trace.h"
#include "emulator/worker.h"

namespace pab_emu {

namespace {

// Asynchronous accesses happen at an unknown time between issue and wait; once waited for they have landed.
enum class Access : u32 {
  kRead,
  kWrite,
  kAtomic,
  kAtomicRead,
  kAtomicWrite,
  kAsyncRead,
  kAsyncWrite,
  kLandedRead,
  kLandedWrite,
  kProductRead,  // by wgmma, until a warp has waited for it
  kBulkWrite,    // by the engine for bulk copies, of the thread that waits for it
};
constexpr const char* kAccessNames[] = {"read",
                                        "write",
                                        "atomic operation",
                                        "atomic read",
                                        "atomic write",
                                        "asynchronous read",
                                        "asynchronous write",
                                        "asynchronous read",
                                        "asynchronous write",
                                        "read by wgmma",
                                        "bulk write"};

// One access by one thread, with the place that it hits.
struct Touch {
  Lane* lane;
  u64 address;
  u32 bytes;
  Access kind;
  const void* pc;
  u32 buffer = kNoMemory;            // number of the buffer, or kSharedMemory
  u64 offset = 0;                    // within it
  unsigned char* written = nullptr;  // map of the bytes touched; null: all written
  const Buffer* memory = nullptr;    // null: shared
  u32 product = 0;                   // of a read by wgmma, its number in the block
  bool shared() const { return buffer == kSharedMemory; }
  bool writes() const {
    return kind == Access::kWrite || kind == Access::kAtomic || kind == Access::kAtomicWrite ||
           kind == Access::kAsyncWrite || kind == Access::kBulkWrite;
  }
  bool reads() const { return !writes() || kind == Access::kAtomic; }
};

// Cells of racecheck for one buffer, made when it is first touched: 12 bytes for 4.
struct Shadow {
  std::atomic<unsigned char*> cells{nullptr};
  u64 bytes = 0;
  ~Shadow() {
    if (cells) munmap(cells, bytes);
  }
};

std::atomic<u64> launches{0};

// All that is kept for one checked launch.
struct Checked {
  Checked(const Request& asked, u64 blocks)
      : request(asked), levels(levels_for(blocks)), shadows(asked.buffer_count) {}
  Request request;
  u64 serial = ++launches;  // of the launch
  u32 levels;  // of `Known`
  Findings findings;
  LaunchCounters counters{request};
  std::vector<Shadow> shadows;  // one a buffer
  Chunks<Event> events;         // on global memory
  Sets sets;                    // of readers of global memory
  SyncVariables variables;      // in global memory
  std::mutex mutex;
  bool wants(Checks check) const { return (request.checks & check) != 0; }
};

// Leaves the block for good.  Other blocks run on, so that what is found does not depend on who came first.
[[noreturn]] void leave_block();
// Returns when the block may do what other blocks see.
void take_turn();

inline Party party_of(const Touch& touch) {
  return {touch.pc, touch.lane->block->index, touch.lane->thread, kAccessNames[static_cast<u32>(touch.kind)]};
}

inline void report(Checked& checked, const char* check, const std::string& text, const Touch& touch) {
  Finding finding;
  finding.check = check;
  finding.text = text;
  finding.at = party_of(touch);
  finding.buffer = touch.buffer;
  finding.offset = touch.buffer == kNoMemory ? touch.address : touch.offset;
  finding.bytes = touch.bytes;
  checked.findings.add(std::move(finding));
}

// Memory that belongs to a loaded library: constants of the kernel file.
inline bool in_a_module(u64 address) {
  Dl_info info;
  return dladdr(reinterpret_cast<const void*>(address), &info) != 0;
}

// Says what is wrong with an access that hits no buffer, and ends the launch: going on would touch what is ours.
[[noreturn]] inline void report_outside(Checked& checked, Touch& touch) {
  const Request& request = checked.request;
  const char* verb = kAccessNames[static_cast<u32>(touch.kind)];
  const Buffer* before = buffer_before(request, touch.address);
  char text[200];
  if (touch.address < 4096) {
    std::snprintf(text, sizeof text, "%s of %u bytes at a null pointer (address %llu)", verb, touch.bytes,
                  static_cast<unsigned long long>(touch.address));
  } else {
    const Buffer* next = before ? before + 1 : request.buffers;
    if (next == request.buffers + request.buffer_count) next = nullptr;
    const u64 past = before ? touch.address - before->base : ~u64{0};
    const u64 ahead = next ? next->base - touch.address : ~u64{0};
    const Buffer* near = before;
    if (before && past < before->bytes) {
      std::snprintf(text, sizeof text, "%s of %u bytes crosses the end of the buffer by %llu", verb, touch.bytes,
                    static_cast<unsigned long long>(past + touch.bytes - before->bytes));
    } else if (before && (!next || past - before->bytes <= ahead)) {
      std::snprintf(text, sizeof text, "%s of %u bytes, %llu past the end of the buffer", verb, touch.bytes,
                    static_cast<unsigned long long>(past - before->bytes));
    } else if (next) {
      near = next;
      std::snprintf(text, sizeof text, "%s of %u bytes, %llu before the start of the buffer", verb, touch.bytes,
                    static_cast<unsigned long long>(ahead));
    } else {
      std::snprintf(text, sizeof text, "%s of %u bytes at an address of no buffer", verb, touch.bytes);
    }
    if (near) {
      touch.buffer = near->number;
      touch.offset = touch.address - near->base;  // wraps around for what lies before
    }
  }
  report(checked, "memory", text, touch);
  leave_block();
}

// Finds the place of an access.  False: it is none of the kernel's memory (its own stack, constants).
inline bool locate(Checked& checked, BlockTrace& block, Touch& touch) {
  Worker& w = *block.worker;
  const u64 stacks = reinterpret_cast<u64>(w.stacks), shared = reinterpret_cast<u64>(w.shared.get());
  if (touch.address - stacks < w.capacity * (kStackBytes + kGuardBytes)) return false;
  if (touch.address - shared <= w.shared_capacity) {
    touch.buffer = kSharedMemory;
    touch.offset = touch.address - shared;
    touch.written = block.shared_written.data() + touch.offset;
    if (touch.offset + touch.bytes > w.block.shared_bytes) {
      char text[160];
      std::snprintf(text, sizeof text, "%s of %u bytes at %llu of %u bytes of shared memory",
                    kAccessNames[static_cast<u32>(touch.kind)], touch.bytes,
                    static_cast<unsigned long long>(touch.offset), w.block.shared_bytes);
      report(checked, "memory", text, touch);
      leave_block();
    }
    return true;
  }
  const Buffer* buffer = block.last_buffer;
  if (!buffer || touch.address - buffer->base >= buffer->bytes) buffer = buffer_before(checked.request, touch.address);
  if (!buffer || touch.address - buffer->base + touch.bytes > buffer->bytes) {
    if (in_a_module(touch.address)) return false;
    report_outside(checked, touch);
  }
  block.last_buffer = buffer;
  touch.buffer = buffer->number;
  touch.memory = buffer;
  touch.offset = touch.address - buffer->base;
  touch.written = buffer->written ? buffer->written + touch.offset : nullptr;
  if (buffer->freed) {
    const std::string text = std::string(kAccessNames[static_cast<u32>(touch.kind)]) + " of freed memory";
    report(checked, "memory", text, touch);
    leave_block();
  }
  if (buffer->constant && touch.writes()) {
    const std::string text = std::string(kAccessNames[static_cast<u32>(touch.kind)]) +
                             " to memory that the kernel takes as const";
    report(checked, "memory", text, touch);
  }
  return true;
}

// A GPU faults on an access of 2, 4, 8 or 16 bytes at an address that is no multiple of them.
inline void check_alignment(Checked& checked, const Touch& touch) {
  if (touch.address % touch.bytes == 0 || (touch.bytes & (touch.bytes - 1))) return;
  char text[120];
  std::snprintf(text, sizeof text, "misaligned %s: %u bytes at an address that is %llu modulo %u",
                kAccessNames[static_cast<u32>(touch.kind)], touch.bytes,
                static_cast<unsigned long long>(touch.address % touch.bytes), touch.bytes);
  report(checked, "memory", text, touch);
  leave_block();
}

// Reads of bytes that nobody wrote; what is written counts as written from now on.
inline void check_written(Checked& checked, const Touch& touch) {
  if (!touch.written) return;
  if (touch.reads()) {
    u32 missing = 0;
    for (u32 i = 0; i < touch.bytes; ++i) missing += touch.written[i] == 0;
    if (missing && checked.wants(kCheckInit)) {
      char text[120];
      std::snprintf(text, sizeof text, "%s of %u bytes of which %u were never written",
                    kAccessNames[static_cast<u32>(touch.kind)], touch.bytes, missing);
      report(checked, "init", text, touch);
    }
  }
  if (touch.writes()) std::memset(touch.written, 1, touch.bytes);
}

}  // namespace

}  // namespace pab_emu
