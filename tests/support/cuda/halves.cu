// SPDX-License-Identifier: Apache-2.0
// Rows of a query as float16; used by tests/kernels/test_decode_mma_e4m3.py.
#define PAB_DTYPE 2
#include "pab/query_halves.cuh"

// rows (16, 32) bfloat16; out (16, 32) float16, inverse (16), fits (1): operands A lie as in the ISA
extern "C" __global__ void query_halves(const pab::u32* rows, pab::u32* out, float* inverse, pab::i32* fits) {
  using namespace pab;
  const int row = static_cast<int>(lane_id()) / 4, t = static_cast<int>(lane_id()) % 4;
  u32 query[2][4];
  float factors[2] = {0.0f, 0.0f};
  const auto place = [&](int step, int i) { return (row + 8 * (i % 2)) * 16 + 8 * step + 4 * (i / 2) + t; };
  for (int step = 0; step < 2; ++step) {
    for (int i = 0; i < 4; ++i) query[step][i] = rows[place(step, i)];
  }
  const bool done = query_as_halves(query, factors);
  for (int step = 0; step < 2; ++step) {
    for (int i = 0; i < 4; ++i) out[place(step, i)] = query[step][i];
  }
  if (t == 0) {
    for (int half = 0; half < 2; ++half) inverse[row + 8 * half] = factors[half];
  }
  if (ballot(kFullMask, done) != (done ? kFullMask : 0u)) fits[0] = 2;
  else if (lane_id() == 0) fits[0] = done;
}
