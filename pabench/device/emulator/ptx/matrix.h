// SPDX-License-Identifier: Apache-2.0
// Matrices of a warp: fragments as in the PTX ISA.  The common shapes are the runtime's, the others computed here.
#pragma once

namespace ptx {

template <bool kTransposed, int N>
PTX_FN void load_matrices(u32 (&out)[N], const unsigned char* row) {
  if constexpr (N == 4) {
    kTransposed ? pab::ldmatrix_x4_trans(out, row) : pab::ldmatrix_x4(out, row);
  } else {
    // the rows of matrix m are named by lanes 8 m .. 8 m + 7
    if (lane() < 8 * N && reinterpret_cast<u64>(row) % 16) pab_emu::fault("ldmatrix: address not aligned to 16 bytes");
    const Brought rows = exchange(~0u, reinterpret_cast<u64>(row));
    const u32 g = lane() / 4, t = 2 * (lane() % 4);
    const auto at = [&rows](u32 r, u32 column) { return u32{load<u16>(memory(rows.of[r] + 2 * column))}; };
    for (u32 m = 0; m < N; ++m) {
      out[m] = kTransposed ? at(8 * m + t, g) | at(8 * m + t + 1, g) << 16 : at(8 * m + g, t) | at(8 * m + g, t + 1) << 16;
    }
    warp_sync(~0u);
  }
}

template <bool kTransposed, int N>
PTX_FN void store_matrices(unsigned char* row, const u32 (&values)[N]) {
  if (lane() < 8 * N && reinterpret_cast<u64>(row) % 16) pab_emu::fault("stmatrix: address not aligned to 16 bytes");
  for (u32 m = 0; m < N; ++m) {
    const Brought brought = exchange(~0u, values[m]);
    if (lane() / 8 != m) continue;
    const u32 r = lane() % 8;
    for (u32 column = 0; column < 8; ++column) {
      const u32 holder = kTransposed ? 4 * column + r / 2 : 4 * r + column / 2, half = kTransposed ? r % 2 : column % 2;
      store<u16>(row + 2 * column, static_cast<u16>(brought.of[holder] >> 16 * half));
    }
  }
  warp_sync(~0u);
}

enum class Element { f16, bf16, tf32, e4m3, e5m2, s8, u8 };
constexpr bool is_whole(Element kind) { return kind == Element::s8 || kind == Element::u8; }
constexpr u32 per_register(Element kind) { return kind == Element::tf32 ? 1 : kind <= Element::bf16 ? 2 : 4; }

// Element `at` of a register.
template <Element kKind>
PTX_FN double element(u32 word, u32 at) {
  if constexpr (kKind == Element::tf32) return std::bit_cast<float>(word & 0xFFFFE000u);
  const u16 two = static_cast<u16>(word >> 16 * at);
  if constexpr (kKind == Element::f16) return half::wide(two);
  if constexpr (kKind == Element::bf16) return bf16::wide(two);
  const u8 one = static_cast<u8>(word >> 8 * at);
  if constexpr (kKind == Element::e4m3) return pab::e4m3_to_float(one);
  if constexpr (kKind == Element::e5m2) return half::wide(half_of_e5m2(one));
  if constexpr (kKind == Element::s8) return static_cast<s8>(one);
  return one;
}
struct Fragments {
  u32 a[4], b[2];
};

// Four elements of 16 x 8 results: products exact, one sum, cut off once, as the runtime's own shapes have it.
template <Element kKind, int kDepth>
PTX_OWN void sum_up(double (&sums)[4], const Brought& brought) {
  constexpr u32 kPer = per_register(kKind), kSpan = 4 * kPer;
  const u32 own = pab_emu::current->index;
  for (u32 i = 0; i < 4; ++i) {
    const u32 row = own / 4 + 8 * (i / 2), column = 2 * (own % 4) + i % 2;
    for (u32 k = 0; k < kDepth; ++k) {
      const u32 part = k / kSpan, quad = k % kSpan / kPer, at = k % kPer;
      const auto& left = *reinterpret_cast<const Fragments*>(brought.of[row % 8 * 4 + quad]);
      const auto& right = *reinterpret_cast<const Fragments*>(brought.of[column * 4 + quad]);
      sums[i] += element<kKind>(left.a[2 * part + row / 8], at) * element<kKind>(right.b[part], at);
    }
  }
}
template <Element kKind, int kDepth, int kLeft, int kRight>
PTX_FN void products(double (&sums)[4], const u32 (&a)[kLeft], const u32 (&b)[kRight]) {
  Fragments mine{};
  for (int i = 0; i < kLeft; ++i) mine.a[i] = a[i];
  for (int i = 0; i < kRight; ++i) mine.b[i] = b[i];
  meet(~0u, pab_emu::Op::kSync, reinterpret_cast<u64>(&mine));
  Brought brought;
  look_around(brought, ~0u);
  if (~brought.lanes) pab_emu::fault("matrix instruction: lanes 0x%08x have returned or do not exist", ~brought.lanes);
  sum_up<kKind, kDepth>(sums, brought);
  meet(~0u, pab_emu::Op::kSync, reinterpret_cast<u64>(&mine));
}
template <Element kKind, int kDepth, int kLeft, int kRight>
PTX_FN void multiply(float (&c)[4], const u32 (&a)[kLeft], const u32 (&b)[kRight]) {
  if constexpr (kDepth == 16 && kKind == Element::f16) {
    pab::mma_16816_f16(c, a, b[0], b[1]);
  } else if constexpr (kDepth == 16 && kKind == Element::bf16) {
    pab::mma_16816_bf16(c, a, b[0], b[1]);
  } else {
    double sums[4] = {c[0], c[1], c[2], c[3]};
    products<kKind, kDepth>(sums, a, b);
    for (int i = 0; i < 4; ++i) c[i] = pab::canonical(std::isfinite(sums[i]) ? narrow_rz(sums[i], 0.0) : static_cast<float>(sums[i]));
  }
}
template <Element kKind, int kDepth, int kLeft, int kRight>
PTX_FN void multiply(s32 (&c)[4], const u32 (&a)[kLeft], const u32 (&b)[kRight]) {
  static_assert(is_whole(kKind));
  double sums[4] = {};
  products<kKind, kDepth>(sums, a, b);
  for (int i = 0; i < 4; ++i) c[i] = static_cast<s32>(static_cast<u32>(c[i]) + static_cast<u32>(static_cast<s64>(sums[i])));
}
// f16 results, two a register.
template <Element kKind, int kDepth, int kLeft, int kRight>
PTX_FN void multiply(u32 (&c)[2], const u32 (&a)[kLeft], const u32 (&b)[kRight]) {
  const auto start = [&c](int i) { return double{half::wide(static_cast<u16>(c[i / 2] >> 16 * (i % 2)))}; };
  double sums[4] = {start(0), start(1), start(2), start(3)};
  products<kKind, kDepth>(sums, a, b);
  for (int i = 0; i < 2; ++i) {
    c[i] = pab::pack_f16x2(odd_float(sums[2 * i]), odd_float(sums[2 * i + 1]));
  }
}

}  // namespace ptx
