// SPDX-License-Identifier: Apache-2.0
// Products of a warpgroup: registers that hold marks until their product is there, and what a checked device notes.
#pragma once

#include "emulator/warpgroup.h"

namespace ptx {

// A register that a product may have made, in front of whatever computes with it.
PTX_FN u32 needed(u32 bits) { return pab_emu::is_mark(bits) ? pab_emu::product_needed(bits) : bits; }
PTX_FN s32 needed(s32 bits) { return static_cast<s32>(needed(static_cast<u32>(bits))); }
PTX_FN float needed(float value) { return std::bit_cast<float>(needed(std::bit_cast<u32>(value))); }

// The same for one that nobody looks at yet, after a wait.
template <typename T>
PTX_FN void settle(T& place) {
  const u32 bits = std::bit_cast<u32>(place);
  if (pab_emu::is_mark(bits)) place = std::bit_cast<T>(pab_emu::product_result(bits));
}

// To what threads wrote before, for wgmma and bulk copies.
PTX_FN void proxy_fence() {
  pab::fence_block();
#ifdef PAB_EMU_CHECKED
  pab_emu::note_proxy_fence();
#endif
}

}  // namespace ptx

// Beside each register that wgmma takes stands the number of the last wgmma.fence when it was written; 0 where only
// moves wrote it: compilers put those anywhere, and make no instruction of them.
#ifdef PAB_EMU_CHECKED
#define PTX_FENCES u32 fences = 1;
#define PTX_FENCE() ++fences
#define PTX_BESIDE(name) u32 name##_at = 0;
#define PTX_WROTE(name) name##_at = fences
#define PTX_MOVED(to, from) to##_at = from##_at
#define PTX_SET(to) to##_at = 0
#define PTX_FENCED(...)                                                                    \
  {                                                                                        \
    bool after = false;                                                                    \
    for (const u32 at : {__VA_ARGS__}) after |= at == fences;                              \
    if (after || fences == 1) pab_emu::note_unfenced(fences == 1);                         \
  }
#define PTX_AT(name) name##_at
#else
#define PTX_FENCES
#define PTX_FENCE() static_cast<void>(0)
#define PTX_BESIDE(name)
#define PTX_WROTE(name) static_cast<void>(0)
#define PTX_MOVED(to, from) static_cast<void>(0)
#define PTX_SET(to) static_cast<void>(0)
#define PTX_FENCED(...) static_cast<void>(0)
#define PTX_AT(name)
#endif
