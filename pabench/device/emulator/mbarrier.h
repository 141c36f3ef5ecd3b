// SPDX-License-Identifier: Apache-2.0
// The 64 bits of an mbarrier.  Only its operations may look at them, so the layout is ours.
//
//   bits 0-19 arrivals still missing, 20-39 arrivals of a phase, 40-61 bytes still to come + kNoBytes, 62 parity of
//   the phase, 63 set: memory that nobody wrote, zeros, or a barrier that was invalidated is none
#pragma once

#include "emulator/lane.h"

namespace pab_emu {

struct Mbarrier {
  static constexpr u64 kMark = u64{1} << 63, kMost = (u64{1} << 20) - 1;
  static constexpr long long kNoBytes = 1ll << 21;

  u64 pending, expected;
  long long bytes;
  u32 parity;

  static bool is_one(u64 word) { return word & kMark; }
  static u32 parity_of(u64 word) { return static_cast<u32>(word >> 62 & 1u); }
  static Mbarrier of(u64 word) {
    return {word & kMost, word >> 20 & kMost, static_cast<long long>(word >> 40 & 0x3FFFFFu) - kNoBytes, parity_of(word)};
  }
  u64 word() const {
    return kMark | static_cast<u64>(parity) << 62 | static_cast<u64>(bytes + kNoBytes) << 40 | expected << 20 | pending;
  }
  // Ends the phase when all have arrived and all bytes have come.
  void settle() {
    if (pending || bytes) return;
    parity ^= 1u;
    pending = expected;
  }
};

}  // namespace pab_emu
