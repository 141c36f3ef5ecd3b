// SPDX-License-Identifier: Apache-2.0
// What the matrix instructions compute; included by the runtime, where the last lane of a warp calls it.
//
// mma multiplies exactly and adds in an order and rounding that PTX leaves open beyond "at least single precision".
// Hardware has been measured to align the products and cut off what does not fit, so that results err towards zero
// (Fasi, Higham, Mikaitis and Pranesh, Numerical behavior of NVIDIA tensor cores, 2021).  Here the sum of the 16
// products and C is taken in double and cut off to float once: the same bias, and the same bits every time.
#pragma once

#include <cstdint>
#include <cstring>

#include "emulator/matrix.h"
#include "emulator/numbers.h"
#include "emulator/observe.h"

namespace pab_emu {

namespace {

// What a lane brings to ldmatrix, and gets.
struct MatrixRows {
  pab::u16 row[8];
  u32 out[4];
};

// What a lane brings to mma; c is replaced by the result.
struct MatrixProduct {
  u32 a[4], b[2];
  float c[4];
};

constexpr u32 kMatrixRows = 16, kMatrixColumns = 8, kMatrixDepth = 16;

void distribute_rows(MatrixRows* const* lanes, bool transposed) {
  for (u32 m = 0; m < 4; ++m) {
    MatrixRows* const* rows = lanes + 8 * m;
    for (u32 lane = 0; lane < kWarpSize; ++lane) {
      const u32 g = lane / 4, t = 2 * (lane % 4);
      const u32 low = transposed ? rows[t]->row[g] : rows[g]->row[t];
      const u32 high = transposed ? rows[t + 1]->row[g] : rows[g]->row[t + 1];
      lanes[lane]->out[m] = low | high << 16;
    }
  }
}

// Eight at once, so that the compiler uses vector units: this is where emulated kernels spend their time.
using Doubles = double __attribute__((vector_size(8 * sizeof(double))));
using Floats = float __attribute__((vector_size(8 * sizeof(float))));
using Masks = std::int64_t __attribute__((vector_size(8 * sizeof(std::int64_t))));
using Words = std::int32_t __attribute__((vector_size(8 * sizeof(std::int32_t))));

Doubles magnitude(Doubles x) {
  constexpr std::int64_t kAllButSign = INT64_MAX;
  return reinterpret_cast<Doubles>(reinterpret_cast<Masks>(x) & kAllButSign);
}

// The floats next to `exact` on the side of zero.
Floats cut_off(Doubles exact) {
  const Floats nearest = __builtin_convertvector(exact, Floats);
  const Doubles size = magnitude(__builtin_convertvector(nearest, Doubles));
  // overflow stays infinite: PTX does not say otherwise
  const Masks beyond = (size > magnitude(exact)) & (size < __builtin_inf());
  const Words cut = reinterpret_cast<Words>(nearest) + __builtin_convertvector(beyond, Words);
  const Words number = nearest == nearest;  // all ones where it is one
  return reinterpret_cast<Floats>((cut & number) | (0x7FFFFFFF & ~number));
}

template <typename Widen>
void multiply(MatrixProduct* const* lanes, Widen widen) {
  alignas(64) pab::u16 a_bits[kMatrixRows][kMatrixDepth], b_bits[kMatrixColumns][kMatrixDepth];
  alignas(64) float c[kMatrixRows][kMatrixColumns];
  for (u32 lane = 0; lane < kWarpSize; ++lane) {
    const MatrixProduct& share = *lanes[lane];
    const u32 g = lane / 4, t = 2 * (lane % 4);
    for (u32 i = 0; i < 4; ++i) std::memcpy(&a_bits[g + 8 * (i % 2)][t + 8 * (i / 2)], &share.a[i], sizeof(u32));
    for (u32 i = 0; i < 2; ++i) std::memcpy(&b_bits[g][t + 8 * i], &share.b[i], sizeof(u32));
    for (u32 i = 0; i < 2; ++i) std::memcpy(&c[g + 8 * i][t], &share.c[2 * i], 2 * sizeof(float));
  }
  double a[kMatrixRows][kMatrixDepth];
  for (u32 row = 0; row < kMatrixRows; ++row) {
    for (u32 k = 0; k < kMatrixDepth; ++k) a[row][k] = widen(a_bits[row][k]);
  }
  Doubles b[kMatrixDepth];
  for (u32 k = 0; k < kMatrixDepth; ++k) {
    for (u32 column = 0; column < kMatrixColumns; ++column) b[k][column] = widen(b_bits[column][k]);
  }
  for (u32 row = 0; row < kMatrixRows; ++row) {
    Floats start;
    std::memcpy(&start, c[row], sizeof start);
    Doubles sum = __builtin_convertvector(start, Doubles);
    for (u32 k = 0; k < kMatrixDepth; ++k) sum += a[row][k] * b[k];
    const Floats cut = cut_off(sum);
    std::memcpy(c[row], &cut, sizeof cut);
  }
  for (u32 lane = 0; lane < kWarpSize; ++lane) {
    const u32 g = lane / 4, t = 2 * (lane % 4);
    for (u32 i = 0; i < 2; ++i) std::memcpy(&lanes[lane]->c[2 * i], &c[g + 8 * i][t], 2 * sizeof(float));
  }
}

// wgmma: emulator/warpgroup_compute.h.
void run_group(Lane* const* lanes, MatrixKind kind, void* const* shares);

// Computes one instruction for the 32 lanes, from what each published.
void run_matrix(Lane* const* lanes, MatrixKind kind) {
  void* shares[kWarpSize];
  for (u32 i = 0; i < kWarpSize; ++i) shares[i] = reinterpret_cast<void*>(static_cast<std::uintptr_t>(lanes[i]->value));
  const auto rows = reinterpret_cast<MatrixRows* const*>(shares);
  const auto products = reinterpret_cast<MatrixProduct* const*>(shares);
  switch (kind) {
    case MatrixKind::kLoad: distribute_rows(rows, false); break;
    case MatrixKind::kLoadTransposed: distribute_rows(rows, true); break;
    case MatrixKind::kMultiplyF16: multiply(products, [](pab::u16 x) { return pab::half_to_float(x); }); break;
    case MatrixKind::kMultiplyBf16: multiply(products, [](pab::u16 x) { return pab::bf16_to_float(x); }); break;
    case MatrixKind::kGroupIssue:
    case MatrixKind::kGroupCommit:
    case MatrixKind::kGroupWait: run_group(lanes, kind, shares); break;
  }
}

// Meets all 32 lanes; `share` is a MatrixRows or a MatrixProduct.
void matrix_collective(void* share, MatrixKind kind) {
  collective(~0u, Op::kMatrix, reinterpret_cast<std::uintptr_t>(share), static_cast<u32>(kind));
}

}  // namespace

void load_matrices(u32 (&out)[4], const void* row, MatrixKind kind) {
  const auto address = reinterpret_cast<std::uintptr_t>(row);
  const Block& block = *current->block;
  MatrixRows share;
  if (address % sizeof share.row) fault("ldmatrix: address not aligned to 16 bytes");
  const std::uintptr_t offset = address - reinterpret_cast<std::uintptr_t>(block.shared);
  if (offset + sizeof share.row > block.shared_bytes) fault("ldmatrix: address outside the block's shared memory");
  observe::matrix_row(row, __builtin_return_address(0));
  std::memcpy(share.row, row, sizeof share.row);
  matrix_collective(&share, kind);
  std::memcpy(out, share.out, sizeof out);
}

void multiply_matrices(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1, MatrixKind kind) {
  MatrixProduct share = {{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}};
  matrix_collective(&share, kind);
  std::memcpy(c, share.c, sizeof c);
}

}  // namespace pab_emu
