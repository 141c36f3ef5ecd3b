// SPDX-License-Identifier: Apache-2.0
// What each block of a decode grid reads at each step of its walk; used by tests/kernels/test_decode_line.py.
#include "pab/decode_plan.cuh"

namespace pab {

constexpr i32 kTileTokens = 64;

PAB_FN Batch batch_of(const i32* kv_lens, const i32* qo_indptr, i32 num_kv_heads) {
  return {kv_lens, qo_indptr, num_kv_heads, 1, kTileTokens, 0, kAnyQueryLen, Features{}};
}

}  // namespace pab

extern "C" __global__ void plan(const pab::i32* kv_lens, const pab::i32* qo_indptr, pab::i64* line, pab::i32* first,
                                pab::u32* arrivals, pab::i32 num_seqs, pab::i32 num_kv_heads, pab::i32 shares) {
  using namespace pab;
  PAB_SHARED(shared);
  const Batch batch = batch_of(kv_lens, qo_indptr, num_kv_heads);
  plan_line(batch, {line, first, arrivals, num_seqs, shares, shares * num_kv_heads}, reinterpret_cast<u64*>(shared));
}

// reads (blocks, steps, 3): sequence, tile and KV head, as they were where a share has ended
extern "C" __global__ void walk(const pab::i32* kv_lens, const pab::i32* qo_indptr, const pab::i64* line,
                                const pab::i32* first, pab::i32* reads, pab::i32 num_seqs, pab::i32 num_kv_heads,
                                pab::i32 steps) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  const Batch batch = batch_of(kv_lens, qo_indptr, num_kv_heads);
  Walk walk;
  begin_walk(walk, batch, line, first, num_seqs, blockIdx.x, gridDim.x);
  for (i32 n = 0; n < steps; ++n) {
    next_tile(walk, batch);
    if (walk.work.tile < 0) return;
    i32* read = reads + 3 * (static_cast<i64>(blockIdx.x) * steps + n);
    read[0] = walk.work.sequence;
    read[1] = walk.work.tile;
    read[2] = walk.work.kv_head;
  }
}
