// SPDX-License-Identifier: Apache-2.0
// What wgmma computes, and when; included by the runtime.
//
// A sum is taken as for mma (emulator/matrix_compute.h): the products and what they are added to in double, cut off to
// float once; to f16 rounded once.
#pragma once

#include <array>
#include <string>

#include "emulator/matrix_compute.h"
#include "emulator/warpgroup.h"

namespace pab_emu {

namespace {

constexpr u32 kGroupWarps = 4, kRowBytes = 32, kPiece = 16, kMostColumns = 256;

// What a lane brings to the issue of a product.
struct GroupShare {
  const GroupProduct* what;
  u32* d;
  const u32* a;
  u64 left, right;
  bool adds;
  const void* pc;
};

u32 bytes_of(Number kind) { return kind == Number::tf32 ? 4 : kind <= Number::bf16 ? 2 : 1; }

double widened(Number kind, const unsigned char* at) {
  u32 bits = 0;
  std::memcpy(&bits, at, bytes_of(kind));
  const auto byte = static_cast<pab::u8>(bits);
  switch (kind) {
    case Number::f16: return pab::half_to_float(static_cast<pab::u16>(bits));
    case Number::bf16: return pab::bf16_to_float(static_cast<pab::u16>(bits));
    case Number::tf32: return std::bit_cast<float>(bits & 0xFFFFE000u);
    case Number::e4m3: {
      // the bits in a half's place are 2^8 too small
      const u32 half = (bits & 0x80u) << 8 | (bits & 0x7Fu) << 7;
      return (bits & 0x7Fu) == 0x7Fu ? __builtin_nan("") : 256.0 * pab::half_to_float(static_cast<pab::u16>(half));
    }
    case Number::e5m2: return pab::half_to_float(static_cast<pab::u16>(bits << 8));
    case Number::s8: return static_cast<signed char>(byte);
    default: return byte;
  }
}

// A matrix in shared memory as its descriptor tells: where the 16-byte pieces of its rows lie.
struct Descriptor {
  u32 start, leading, stride, width;

  static Descriptor of(u64 bits) {
    constexpr u32 kWidths[] = {16, 128, 64, 32};
    const auto field = [bits](u32 at) { return static_cast<u32>(bits >> at & 0x3FFFu) << 4; };
    if (bits >> 49 & 7u) fault("wgmma: matrix descriptor with base offset %u: only 0 is supported", static_cast<u32>(bits >> 49 & 7u));
    return {field(0), field(16), field(32), kWidths[bits >> 62]};
  }
  // Piece 0 or 1 of row `row`; transposed: the 8 elements of 16 bits from row 8 * `group` on, at depth `k`.
  u32 piece(u32 row, u32 number) const {
    const u32 step = width == kPiece ? leading : kPiece;
    return turned(start + row / 8 * stride + row % 8 * width + number * step);
  }
  u32 transposed_piece(u32 group, u32 k) const {
    if (width == kPiece) return start + group * stride + k / 8 * leading + k % 8 * kPiece;
    const u32 across = width / kPiece;
    return turned(start + group / across * leading + group % across * kPiece + k / 8 * stride + k % 8 * width);
  }
  u32 turned(u32 at) const { return at ^ (at >> 7 & (width / kPiece - 1)) << 4; }
};

// Calls `use(place, row, piece)`, transposed `use(place, 8 rows, depth)`, for all pieces of rows `first` .. `first + rows - 1`.
template <typename Use>
void each_piece(u64 bits, bool transposed, u32 first, u32 rows, Use use) {
  const Descriptor matrix = Descriptor::of(bits);
  const Block& block = *current->block;
  const auto checked = [&block](u32 at) {
    if (at + kPiece > block.shared_bytes) fault("wgmma: 16 bytes at byte %u of shared memory: a block has %u", at, block.shared_bytes);
    return block.shared + at;
  };
  if (transposed) {
    for (u32 k = 0; k < kRowBytes / 2; ++k) {
      for (u32 group = 0; group < rows / 8; ++group) use(checked(matrix.transposed_piece(first / 8 + group, k)), 8 * group, k);
    }
  } else {
    for (u32 row = 0; row < rows; ++row) {
      for (u32 number = 0; number < 2; ++number) use(checked(matrix.piece(first + row, number)), row, number);
    }
  }
}

using MatrixRow = std::array<unsigned char, kRowBytes>;

void bring(MatrixRow* rows, u64 bits, bool transposed, u32 first, u32 count) {
  each_piece(bits, transposed, first, count, [rows, transposed](const unsigned char* from, u32 row, u32 at) {
    if (!transposed) {
      std::memcpy(&rows[row][kPiece * at], from, kPiece);
      return;
    }
    for (u32 i = 0; i < 8; ++i) std::memcpy(&rows[row + i][2 * at], from + 2 * i, 2);
  });
}

// The half next to `exact`, rounded once: a float that is cut off and tells by its last bit that there is more.
pab::u16 half_next_to(double exact) {
  float cut = static_cast<float>(exact);
  if (static_cast<double>(cut) != exact && exact == exact) {
    u32 bits = std::bit_cast<u32>(cut);
    if (std::fabs(static_cast<double>(cut)) > std::fabs(exact)) --bits;
    cut = std::bit_cast<float>(bits | 1u);
  }
  return pab::float_to_half(cut);
}

u32 whole_sum(double exact, u32 start, bool saturated) {
  const long long sum = static_cast<long long>(exact) + static_cast<std::int32_t>(start);
  if (!saturated) return static_cast<u32>(sum);
  return static_cast<u32>(static_cast<std::int32_t>(std::min<long long>(std::max<long long>(sum, INT32_MIN), INT32_MAX)));
}

// One warp's part: 16 rows.  `values` are the registers of its lanes, what is added to and then the results.
void multiply_part(const WarpProduct& product, const GroupProduct& what, u32 warp_of_group, u32* values) {
  worker->product_rows.resize((kMatrixRows + kMostColumns) * kRowBytes);
  MatrixRow *const a_rows = reinterpret_cast<MatrixRow*>(worker->product_rows.data()), *const b_rows = a_rows + kMatrixRows;
  const u32 columns = what.columns, depth = kRowBytes / bytes_of(what.left), count = what.registers();
  if (what.from_registers) {
    for (u32 lane = 0; lane < kWarpSize; ++lane) {
      for (u32 i = 0; i < 4; ++i) std::memcpy(&a_rows[lane / 4 + 8 * (i % 2)][kPiece * (i / 2) + lane % 4 * 4], &product.a[lane][i], 4);
    }
  } else {
    bring(a_rows, product.left, what.left_transposed, kMatrixRows * warp_of_group, kMatrixRows);
  }
  bring(b_rows, product.right, what.right_transposed, 0, columns);
  double a[kMatrixRows][kRowBytes];
  const double sign = what.left_negative == what.right_negative ? 1.0 : -1.0;
  for (u32 row = 0; row < kMatrixRows; ++row) {
    for (u32 k = 0; k < depth; ++k) a[row][k] = sign * widened(what.left, &a_rows[row][k * bytes_of(what.left)]);
  }
  const bool packed = what.result == Number::f16;
  for (u32 j = 0; j < columns / 8; ++j) {
    Doubles b[kRowBytes];
    for (u32 k = 0; k < depth; ++k) {
      for (u32 i = 0; i < 8; ++i) b[k][i] = widened(what.right, &b_rows[8 * j + i][k * bytes_of(what.right)]);
    }
    for (u32 row = 0; row < kMatrixRows; ++row) {
      u32* const at = values + count * (row % 8 * 4) + (packed ? 2 * j + row / 8 : 4 * j + row / 8 * 2);
      // element `i` of the eight columns; two of f16 share a word
      const auto word = [=](u32 i) -> u32& { return at[count * (i / 2) + (packed ? 0 : i % 2)]; };
      const auto shift = [=](u32 i) { return packed ? i % 2 * 16 : 0; };
      Doubles sum = {};
      u32 start[8] = {};
      for (u32 i = 0; i < 8 && product.adds; ++i) {
        start[i] = word(i) >> shift(i);
        if (what.result == Number::f32) sum[i] = std::bit_cast<float>(start[i]);
        if (packed) sum[i] = pab::half_to_float(static_cast<pab::u16>(start[i]));
      }
      for (u32 k = 0; k < depth; ++k) sum += a[row][k] * b[k];
      const Floats cut = cut_off(sum);
      for (u32 i = 0; i < 8; ++i) {
        if (what.result == Number::f32) word(i) = std::bit_cast<u32>(cut[i]);
        if (what.result == Number::s32) word(i) = whole_sum(sum[i], start[i], what.saturated);
        if (packed) word(i) = (word(i) & ~(0xFFFFu << shift(i))) | u32{half_next_to(sum[i])} << shift(i);
      }
    }
  }
}

u32 warp_number(const Lane& lane) { return static_cast<u32>(lane.warp - worker->warps.data()); }
WarpProducts& products_of(u32 warp) {
  std::vector<WarpProducts>& all = worker->products;
  if (all.size() < worker->warps.size()) all.resize(worker->warps.size());
  return all[warp];
}

// What a register of a product's warp stands for: itself, or what an earlier product made.
u32 settled(const WarpProducts& own, u32 lane, u32 bits) {
  if (!is_mark(bits)) return bits;
  const u32 code = code_of(bits);
  if (code >> 7 >= own.ring.size()) return bits;
  const WarpProduct& made = own.ring[code >> 7];
  const u32 count = made.what.registers();
  return made.number < own.computed && (code & 127u) < count ? made.values[lane * count + (code & 127u)] : bits;
}

// Performs the products of a warp up to number `end`.
void perform(u32 warp, u32 end) {
  WarpProducts& own = products_of(warp);
  for (; own.computed < end; ++own.computed) {
    WarpProduct& product = own.ring[own.computed % kProducts];
    const u32 count = product.what.registers();
    for (u32 i = 0; i < kWarpSize * count; ++i) product.values[i] = settled(own, i / count, product.values[i]);
    multiply_part(product, product.what, warp % kGroupWarps, product.values.data());
  }
}

const char* shape_name(const GroupProduct& what) {
  constexpr const char* kNames[] = {"f16", "bf16", "tf32", "e4m3", "e5m2", "s8", "u8"};
  static const auto names = [&kNames] {
    std::array<std::array<std::string, kMostColumns / 8 + 1>, std::size(kNames)> made;
    for (u32 kind = 0; kind < made.size(); ++kind) {
      for (u32 n = 1; n < made[kind].size(); ++n) {
        made[kind][n] = "m64n" + std::to_string(8 * n) + "k" + std::to_string(kRowBytes / bytes_of(Number{kind})) + "." + kNames[kind];
      }
    }
    return made;
  }();
  return names[static_cast<u32>(what.left)][what.columns / 8].c_str();
}

// The lane that comes last to a product does this for its warp.
void issue_product(Lane* const* lanes, GroupShare* const* shares) {
  Worker& w = *worker;
  const u32 warp = warp_number(*lanes[0]), first = warp / kGroupWarps * kGroupWarps;
  if (w.threads < kWarpSize * (first + kGroupWarps)) fault("wgmma: warp %u is not one of 4 whole warps of a warpgroup", warp);
  WarpProducts& own = products_of(warp);
  const GroupShare& one = *shares[0];
  for (u32 i = 1; i < kWarpSize; ++i) {
    if (shares[i]->left != one.left || shares[i]->right != one.right || shares[i]->adds != one.adds) {
      fault("wgmma: lanes 0 and %u of warp %u bring another matrix descriptor or scale-d", i, warp);
    }
  }
  if (own.ring.empty()) own.ring.resize(kProducts);
  if (own.issued - own.waited == kProducts) fault("wgmma: more than %u products of one warp in flight", kProducts);
  WarpProduct& product = own.ring[own.issued % kProducts];
  product.what = *one.what;
  product.number = own.issued;
  product.group = own.group;
  product.left = one.left;
  product.right = one.right;
  product.adds = one.adds;
  for (u32 other = first; other < first + kGroupWarps; ++other) {
    const WarpProducts& theirs = products_of(other);
    if (other == warp || theirs.issued <= product.number || theirs.issued - product.number > kProducts) continue;
    const WarpProduct& same = theirs.ring[product.number % kProducts];
    if (same.what == product.what && same.right == product.right && (product.what.from_registers || same.left == product.left)) continue;
    fault("wgmma: warps %u and %u of a warpgroup came to different products", std::min(warp, other), std::max(warp, other));
  }
  const u32 count = product.what.registers();
  product.values.resize(kWarpSize * count);
  for (u32 lane = 0; lane < kWarpSize; ++lane) {
    std::memcpy(&product.values[lane * count], shares[lane]->d, count * sizeof(u32));
    for (u32 i = 0; i < count; ++i) shares[lane]->d[i] = mark_of(product.number, i);
    if (product.what.from_registers) std::memcpy(product.a[lane], shares[lane]->a, sizeof product.a[lane]);
  }
  const auto read = [&](const unsigned char* at, u32, u32) { observe::product_read(*current, at, one.pc, first, product.number); };
  observe::product_begin(*current, first, product.number);
  if (!product.what.from_registers) each_piece(one.left, product.what.left_transposed, kMatrixRows * (warp % kGroupWarps), kMatrixRows, read);
  each_piece(one.right, product.what.right_transposed, 0, product.what.columns, read);
  if (warp == first) observe::count_mma(*lanes[0]->warp, shape_name(product.what));
  ++own.issued;
  if (w.random() & 1) perform(warp, own.issued);
}

// One past the last product in the groups that a wait asks for.
u32 awaited(const WarpProducts& own, u32 newest_groups_left) {
  u32 end = own.waited;
  while (end < own.issued && own.ring[end % kProducts].group + newest_groups_left < own.group) ++end;
  return end;
}

void end_wait(Lane* const* lanes, u32 newest_groups_left) {
  const u32 warp = warp_number(*lanes[0]), first = warp / kGroupWarps * kGroupWarps;
  WarpProducts& own = products_of(warp);
  const u32 end = awaited(own, newest_groups_left);
  // the warps of a group multiply together: when one has waited, all have read their matrices
  for (u32 other = first; other < first + kGroupWarps && end > own.waited; ++other) perform(other, std::max(end, products_of(other).computed));
  for (; own.waited < end; ++own.waited) observe::product_done(*lanes[0], first, own.waited);
}

void run_group(Lane* const* lanes, MatrixKind kind, void* const* shares) {
  if (kind == MatrixKind::kGroupIssue) issue_product(lanes, reinterpret_cast<GroupShare* const*>(shares));
  if (kind == MatrixKind::kGroupCommit) ++products_of(warp_number(*lanes[0])).group;
  if (kind == MatrixKind::kGroupWait) end_wait(lanes, *static_cast<const u32*>(shares[0]));
}

}  // namespace

void product_issue(const GroupProduct& what, u32* d, const u32* a, u64 left, u64 right, bool adds) {
  GroupShare share{&what, d, a, left, right, adds, __builtin_return_address(0)};
  current->pc = share.pc;
  matrix_collective(&share, MatrixKind::kGroupIssue);
}

void product_commit() {
  current->pc = __builtin_return_address(0);
  u32 none = 0;
  matrix_collective(&none, MatrixKind::kGroupCommit);
}

void product_wait(u32 newest_groups_left) {
  Lane* me = current;
  const u32 warp = warp_number(*me), first = warp / kGroupWarps * kGroupWarps;
  const u32 end = awaited(products_of(warp), newest_groups_left);
  for (u32 other = first; other < first + kGroupWarps && end > products_of(warp).waited; ++other) {
    while (products_of(other).issued < end) {
      if (worker->warps[other].finished == ~0u) fault("wgmma.wait_group: warp %u of the warpgroup has returned without the product", other);
      me->at_product = true;
      poll(products_of(other).issued);
      me->at_product = false;
    }
  }
  me->pc = __builtin_return_address(0);
  matrix_collective(&newest_groups_left, MatrixKind::kGroupWait);
}

u32 product_result(u32 mark) {
  const WarpProducts& own = products_of(warp_number(*current));
  const u32 slot = code_of(mark) >> 7;
  return slot < own.ring.size() && own.ring[slot].number < own.waited ? settled(own, current->index, mark) : mark;
}

u32 product_needed(u32 mark) {
  const u32 bits = product_result(mark);
  if (is_mark(bits)) {
    current->pc = __builtin_return_address(0);
    fault("wgmma: a register of a product is read before a wgmma.wait_group covers it");
  }
  return bits;
}

}  // namespace pab_emu
