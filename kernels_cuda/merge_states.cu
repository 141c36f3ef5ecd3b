// SPDX-License-Identifier: Apache-2.0
// Merges attention states: outputs and LSEs of the same query rows over parts of the keys.
//
//   merge_states   grid ceil(num_rows * num_heads / PAB_WARPS), 1, 1; block 32 * PAB_WARPS; no shared memory
//
// Layout   outs, lses (num_states) u64: addresses of the states' outputs (any, num_heads, head_dim) and float LSEs
//          (any, num_heads), natural log; rows (num_states, num_rows) i32: which row of a state goes into a row of the
//          result, negative for none; out (num_rows, num_heads, head_dim), lse (num_rows, num_heads).
// Compile  PAB_DTYPE see pab/storage.cuh; PAB_VEC elements of one move (divides head_dim); PAB_WARPS warps of a block.
//          PAB_LSE_BASE_2 1: LSEs, given and written, are in base 2.
// Floor    each state read once, each result written once:
//          num_rows * num_heads * (num_states + 1) * (head_dim * itemsize + 4) bytes.
//
// out = sum_s w_s out_s / sum_s w_s with w_s = e^(lse_s - max lse); lse = max lse + ln sum_s w_s.  A state whose LSE is
// -inf saw no key: nothing of its output is read, so that whatever stands there cannot leak.  One state alone comes out
// bit for bit; none gives 0 and -inf.  Sums run in the order of the states.  One warp a (row, head).  In place, out and
// lse are those of the first state, and its rows stay where they are.
#include "pab/storage.cuh"

namespace pab {

#if defined(PAB_LSE_BASE_2) && PAB_LSE_BASE_2
constexpr float kLog2e = 1.0f, kLn2 = 1.0f;
#else
constexpr float kLog2e = 1.44269504088896341f, kLn2 = 0.693147180559945309f;
#endif

struct States {
  const u64* outs;
  const u64* lses;
  const i32* rows;
  i32 num_states, num_rows, num_heads;
  i32 row, head;
};

// Where state `s` has this row and head, counted in vectors of a head; negative when it has no such row.
PAB_FN i64 place(const States& all, i32 s) {
  const i64 row = all.rows[static_cast<i64>(s) * all.num_rows + all.row];
  return row < 0 ? -1 : row * all.num_heads + all.head;
}

// -inf for a state that has no such row or saw no key.
PAB_FN float state_lse(const States& all, i32 s) {
  const i64 at = place(all, s);
  return at < 0 ? minus_infinity() : reinterpret_cast<const float*>(all.lses[s])[at];
}

PAB_FN float weight_of(float lse, float max) { return ex2((lse - max) * kLog2e); }

}  // namespace pab

// Eight blocks a multiprocessor: with no such number ptxas aims at sixteen and spills.
extern "C" __global__ void __launch_bounds__(32 * PAB_WARPS, 8) merge_states(
    const pab::u64* outs, const pab::u64* lses, const pab::i32* rows, pab::Stored* out, float* lse,
    pab::i32 num_states, pab::i32 num_rows, pab::i32 num_heads, pab::i32 head_dim) {
  using namespace pab;
  constexpr int kVec = PAB_VEC;
  const i64 item = static_cast<i64>(blockIdx.x) * PAB_WARPS + threadIdx.x / kWarpSize;
  if (item >= static_cast<i64>(num_rows) * num_heads) return;
  const States all = {outs,     lses,      rows,
                      num_states, num_rows, num_heads,
                      static_cast<i32>(item / num_heads), static_cast<i32>(item % num_heads)};

  float max = minus_infinity();
  i32 live = 0, last = 0;
  for (i32 s = 0; s < num_states; ++s) {
    const float of_state = state_lse(all, s);
    if (of_state == minus_infinity()) continue;
    max = fmaxf(max, of_state);
    last = s;
    ++live;
  }
  float sum = 0.0f;
  for (i32 s = 0; s < num_states; ++s) {
    const float of_state = state_lse(all, s);
    if (of_state != minus_infinity()) sum += weight_of(of_state, max);
  }
  const bool alone = live == 1;
  const float inverse = live == 0 ? 0.0f : 1.0f / sum;
  for (i32 element = static_cast<i32>(lane_id()) * kVec; element < head_dim; element += 32 * kVec) {
    Pack<Stored, kVec> result;
    if (alone) {
      result = load_pack<kVec>(reinterpret_cast<const Stored*>(outs[last]) + place(all, last) * head_dim + element);
    } else {
      float merged[kVec] = {};
      for (i32 s = 0; s < num_states; ++s) {
        const float of_state = state_lse(all, s);
        if (of_state == minus_infinity()) continue;
        const float weight = weight_of(of_state, max);
        const Stored* from = reinterpret_cast<const Stored*>(outs[s]) + place(all, s) * head_dim;
        const Pack<Stored, kVec> part = load_pack<kVec>(from + element);
#pragma unroll
        for (int i = 0; i < kVec; ++i) merged[i] = fmadd(weight, to_float(part.at[i]), merged[i]);
      }
#pragma unroll
      for (int i = 0; i < kVec; ++i) result.at[i] = from_float(merged[i] * inverse);
    }
    store_pack(out + item * head_dim + element, result);
  }
  // last of all: in place this is the LSE that the other lanes weigh the first state by
  const float merged_lse = live == 0 ? minus_infinity() : alone ? state_lse(all, last) : fmadd(lg2(sum), kLn2, max);
  warp_sync(kFullMask);
  if (lane_id() == 0) lse[item] = merged_lse;
}
