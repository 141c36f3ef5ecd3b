// SPDX-License-Identifier: Apache-2.0
// What the caller of a checked launch gives: its memory, what to check, and where findings go.
#pragma once

#include <algorithm>

#include "emulator/lane.h"

namespace pab_emu {

namespace {

// One allocation of the device.  Sorted by address in a request, without overlaps.
struct Buffer {
  u64 base;
  u64 bytes;
  unsigned char* written;  // a byte of the map for each byte of memory, nonzero once written; null: all written
  u32 number;              // the caller's name for it
  u32 freed;               // nonzero: given back, kept to name whoever still uses it
  u32 constant;            // nonzero: the kernel takes it by pointers to const only
  u32 unused;
};

// What to check; bits of Request::checks.
enum Checks : u32 { kCheckMemory = 1, kCheckInit = 2, kCheckRace = 4, kCheckSync = 8, kCount = 16 };

struct Request {
  const Buffer* buffers;
  u32 buffer_count;
  u32 checks;
  u64 step_budget;  // accesses, barriers and polls of one block; 0 for no bound
};

// The last buffer that starts at or before `address`, or null.
inline const Buffer* buffer_before(const Request& request, u64 address) {
  const Buffer* end = request.buffers + request.buffer_count;
  const Buffer* after =
      std::upper_bound(request.buffers, end, address, [](u64 a, const Buffer& b) { return a < b.base; });
  return after == request.buffers ? nullptr : after - 1;
}

}  // namespace

}  // namespace pab_emu
