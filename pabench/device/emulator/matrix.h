// SPDX-License-Identifier: Apache-2.0
// Matrix instructions of a warp: each lane brings its share, the lane that comes last computes for all 32.
//
// Where the elements of a fragment lie is the PTX ISA's (sections on ldmatrix and mma.m16n8k16); lane = 4 * g + t:
//   A (16 x 16, row)  a[0] (g, 2t), a[1] (g + 8, 2t), a[2] (g, 2t + 8), a[3] (g + 8, 2t + 8), two columns each
//   B (16 x 8, col)   b[0] rows 2t, 2t + 1 of column g; b[1] rows 2t + 8, 2t + 9
//   C, D (16 x 8)     c[0], c[1] (g, 2t), (g, 2t + 1); c[2], c[3] the same in row g + 8
#pragma once

#include "emulator/lane.h"

namespace pab_emu {

enum class MatrixKind : u32 { kLoad, kLoadTransposed, kMultiplyF16, kMultiplyBf16, kGroupIssue, kGroupCommit, kGroupWait };

// ldmatrix.x4: lane i reads row i % 8 of matrix i / 8, 16 bytes at `row`.  Ends the launch when a row is not aligned or
// not in the block's shared memory.
void load_matrices(u32 (&out)[4], const void* row, MatrixKind kind);

// mma.m16n8k16: c += a b.
void multiply_matrices(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, MatrixKind kind);

}  // namespace pab_emu
