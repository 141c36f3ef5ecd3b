// SPDX-License-Identifier: Apache-2.0
// What the compiler says of the decode kernel's layout; used by tests/kernels/test_plan.py.
#include "paged_decode_simple.cu"

extern "C" __global__ void sizes(pab::u32* out) {
  out[0] = sizeof(pab::WarpMemory) * PAB_WARPS;
  out[1] = pab::kValueVec;
  out[2] = pab::kPacksPerLane;
}
