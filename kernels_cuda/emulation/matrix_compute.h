// What the matrix instructions compute; included by the runtime, where the last lane of a warp calls it.
//
// mma multiplies exactly and adds in an order and rounding that PTX leaves open beyond "at least single precision".
// Hardware has been measured to align the products and cut off what does not fit, so that results err towards zero
// (Fasi, Higham, Mikaitis and Pranesh, Numerical behavior of NVIDIA tensor cores, 2021).  Here the sum of the 16
// products and C is taken in double and cut off to float once: the same bias, and the same bits every time.
#pragma once

#include <cmath>
#include <cstring>

#include "emulation/matrix.h"
#include "emulation/numbers.h"

namespace pab_emu {

namespace {

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

float cut_off(double exact) {
  const float nearest = static_cast<float>(exact);
  u32 bits;
  std::memcpy(&bits, &nearest, sizeof bits);
  // overflow stays infinite: PTX does not say otherwise
  bits -= std::fabs(static_cast<double>(nearest)) > std::fabs(exact) && std::isfinite(nearest);
  float cut;
  std::memcpy(&cut, &bits, sizeof cut);
  return cut;
}

template <typename Widen>
void multiply(MatrixProduct* const* lanes, Widen widen) {
  double a[kMatrixRows][kMatrixDepth], b[kMatrixDepth][kMatrixColumns], d[kMatrixRows][kMatrixColumns];
  for (u32 lane = 0; lane < kWarpSize; ++lane) {
    const MatrixProduct& share = *lanes[lane];
    const u32 g = lane / 4, t = 2 * (lane % 4);
    for (u32 i = 0; i < 4; ++i) {
      const u32 row = g + 8 * (i % 2), column = t + 8 * (i / 2);
      a[row][column] = widen(static_cast<pab::u16>(share.a[i]));
      a[row][column + 1] = widen(static_cast<pab::u16>(share.a[i] >> 16));
      d[g + 8 * (i / 2)][t + i % 2] = share.c[i];
    }
    for (u32 i = 0; i < 2; ++i) {
      b[t + 8 * i][g] = widen(static_cast<pab::u16>(share.b[i]));
      b[t + 8 * i + 1][g] = widen(static_cast<pab::u16>(share.b[i] >> 16));
    }
  }
  for (u32 row = 0; row < kMatrixRows; ++row) {
    for (u32 k = 0; k < kMatrixDepth; ++k) {
      for (u32 column = 0; column < kMatrixColumns; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  float rounded[kMatrixRows][kMatrixColumns];
  for (u32 row = 0; row < kMatrixRows; ++row) {
    for (u32 column = 0; column < kMatrixColumns; ++column) rounded[row][column] = cut_off(d[row][column]);
  }
  for (u32 lane = 0; lane < kWarpSize; ++lane) {
    const u32 g = lane / 4, t = 2 * (lane % 4);
    for (u32 i = 0; i < 4; ++i) lanes[lane]->c[i] = rounded[g + 8 * (i / 2)][t + i % 2];
  }
}

// Computes one instruction for the 32 lanes, from what each published.
void run_matrix(Lane* const* lanes, MatrixKind kind) {
  void* shares[kWarpSize];
  for (u32 i = 0; i < kWarpSize; ++i) shares[i] = reinterpret_cast<void*>(static_cast<std::uintptr_t>(lanes[i]->value));
  const auto rows = reinterpret_cast<MatrixRows* const*>(shares);
  const auto products = reinterpret_cast<MatrixProduct* const*>(shares);
  switch (kind) {
    case MatrixKind::kLoad: distribute_rows(rows, false); break;
    case MatrixKind::kLoadTransposed: distribute_rows(rows, true); break;
    case MatrixKind::kMultiplyF16: multiply(products, pab::half_to_float); break;
    case MatrixKind::kMultiplyBf16: multiply(products, pab::bf16_to_float); break;
  }
}

}  // namespace

}  // namespace pab_emu
