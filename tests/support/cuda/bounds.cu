// SPDX-License-Identifier: Apache-2.0
// An array of a thread's own, and an index that may lie beyond it; used by tests/emulator/test_checked_bounds.py.
#include "pab/intrinsics.cuh"

// Turns four words by `shift`: right for 0 alone, unless the index wraps.
extern "C" __global__ void turned(const pab::u32* in, pab::u32* out, pab::u32 shift, pab::u32 wraps) {
  pab::u32 own[4];
  for (pab::u32 i = 0; i < 4; ++i) own[i] = in[4 * threadIdx.x + i];
  for (pab::u32 i = 0; i < 4; ++i) out[4 * threadIdx.x + i] = own[wraps ? (i + shift) % 4 : i + shift];
}
