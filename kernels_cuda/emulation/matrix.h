// Matrix instructions of a warp: each lane brings its share, the lane that comes last computes for all 32.
//
// Where the elements of a fragment lie is the PTX ISA's (sections on ldmatrix and mma.m16n8k16); lane = 4 * g + t:
//   A (16 x 16, row)  a[0] (g, 2t), a[1] (g + 8, 2t), a[2] (g, 2t + 8), a[3] (g + 8, 2t + 8), two columns each
//   B (16 x 8, col)   b[0] rows 2t, 2t + 1 of column g; b[1] rows 2t + 8, 2t + 9
//   C, D (16 x 8)     c[0], c[1] (g, 2t), (g, 2t + 1); c[2], c[3] the same in row g + 8
#pragma once

#include <cstring>

#include "emulation/lane.h"

namespace pab_emu {

enum class MatrixKind : u32 { kLoad, kLoadTransposed, kMultiplyF16, kMultiplyBf16 };

// What a lane brings to ldmatrix.x4, and gets: lane i reads row i % 8 of matrix i / 8.
struct MatrixRows {
  unsigned short row[8];
  u32 out[4];
};

// What a lane brings to mma.m16n8k16; c is replaced by the result.
struct MatrixProduct {
  u32 a[4], b[2];
  float c[4];
};

// Reads a lane's row of 16 bytes; ends the launch when it is not aligned or not in the block's shared memory.
inline void read_matrix_row(unsigned short (&row)[8], const void* address) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  const Block& block = *current->block;
  if (at % sizeof row) fault("ldmatrix: address not aligned to 16 bytes");
  const std::uintptr_t offset = at - reinterpret_cast<std::uintptr_t>(block.shared);
  if (offset + sizeof row > block.shared_bytes) fault("ldmatrix: address outside the block's shared memory");
  std::memcpy(row, address, sizeof row);
}

// Meets all 32 lanes; `share` is a MatrixRows or a MatrixProduct.
inline void matrix_collective(void* share, MatrixKind kind) {
  collective(~0u, Op::kMatrix, reinterpret_cast<std::uintptr_t>(share), static_cast<u32>(kind));
}

inline void load_matrices(u32 (&out)[4], const void* address, bool transposed) {
  MatrixRows share;
  read_matrix_row(share.row, address);
  matrix_collective(&share, transposed ? MatrixKind::kLoadTransposed : MatrixKind::kLoad);
  std::memcpy(out, share.out, sizeof out);
}

inline void multiply_matrices(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, MatrixKind kind) {
  MatrixProduct share = {{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}};
  matrix_collective(&share, kind);
  std::memcpy(c, share.c, sizeof c);
}

}  // namespace pab_emu
