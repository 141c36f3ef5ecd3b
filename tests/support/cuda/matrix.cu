// SPDX-License-Identifier: Apache-2.0
// Matrix instructions, one a kernel; used by tests/emulator/test_matrix.py.
#include "pab/intrinsics.cuh"

namespace pab {

// Copies 64 rows of 16 bytes to shared memory, `pitch` bytes apart, by the first warp of the block.
PAB_FN void to_shared(unsigned char* memory, const u16* rows, u32 pitch) {
  for (u32 row = lane_id(); row < 64; row += 32) {
    for (u32 i = 0; i < 8; ++i) reinterpret_cast<u16*>(memory + row * pitch)[i] = rows[8 * row + i];
  }
  warp_sync(kFullMask);
}

}  // namespace pab

// out (32, 4): lane i names row order[i] of the 64.
extern "C" __global__ void load(const pab::u16* rows, const pab::u32* order, pab::u32* out, pab::u32 pitch,
                                pab::u32 transposed) {
  using namespace pab;
  PAB_SHARED(memory);
  to_shared(memory, rows, pitch);
  const unsigned char* row = memory + order[lane_id()] * pitch;
  u32 got[4];
  if (transposed) {
    ldmatrix_x4_trans(got, row);
  } else {
    ldmatrix_x4(got, row);
  }
  for (u32 i = 0; i < 4; ++i) out[4 * lane_id() + i] = got[i];
}

// One product a warp; a (warps, 32, 4), b (warps, 32, 2), c (warps, 32, 4) lane by lane, c in place.
extern "C" __global__ void multiply(const pab::u32* a, const pab::u32* b, float* c, pab::u32 bf16) {
  using namespace pab;
  const u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
  u32 mine[4];
  float sum[4];
  for (u32 i = 0; i < 4; ++i) mine[i] = a[4 * thread + i];
  for (u32 i = 0; i < 4; ++i) sum[i] = c[4 * thread + i];
  if (bf16) {
    mma_16816_bf16(sum, mine, b[2 * thread], b[2 * thread + 1]);
  } else {
    mma_16816_f16(sum, mine, b[2 * thread], b[2 * thread + 1]);
  }
  for (u32 i = 0; i < 4; ++i) c[4 * thread + i] = sum[i];
}

// Shared memory of 1024 bytes; lane `lane` names the row at `offset`, the others row 0.
extern "C" __global__ void load_at(pab::u32* out, pab::u32 lane, pab::u32 offset) {
  using namespace pab;
  PAB_SHARED(memory);
  u32 got[4];
  ldmatrix_x4(got, memory + (lane_id() == lane ? offset : 0));
  out[lane_id()] = got[0];
}

// Lane 7 returns first, or all come.
extern "C" __global__ void leave(pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  if (lane_id() == 7) return;
  u32 got[4];
  ldmatrix_x4(got, memory);
  out[lane_id()] = got[0];
}

// The lower half of the warp comes to one instruction, the upper to another.
extern "C" __global__ void differ(pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32 got[4] = {0, 0, 0, 0};
  if (lane_id() < 16) {
    ldmatrix_x4(got, memory);
  } else {
    ldmatrix_x4_trans(got, memory);
  }
  out[lane_id()] = got[0];
}

// Two to a word and back; fast_tanh.
extern "C" __global__ void pairs(const float* in, pab::u32* half, pab::u32* bf16, float* back, float* tanh_of,
                                 pab::u32 n) {
  using namespace pab;
  const u32 i = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
  if (i + 1 >= n) return;
  half[i / 2] = pack_f16x2(in[i], in[i + 1]);
  bf16[i / 2] = pack_bf16x2(in[i], in[i + 1]);
  unpack_f16x2(half[i / 2], back[2 * i], back[2 * i + 1]);
  unpack_bf16x2(bf16[i / 2], back[2 * i + 2], back[2 * i + 3]);
  tanh_of[i] = fast_tanh(in[i]);
  tanh_of[i + 1] = fast_tanh(in[i + 1]);
}
